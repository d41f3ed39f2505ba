"""What handlers take in the query, in the API documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lva import BaseBackgroundHandler, query_parameter
from lva.host.routing import Owner, RouteTable
from lva.web.resources.docs import docs_page
from lva.web.resources.openapi import document
from tests.support import running_host


def rendered(table: RouteTable) -> str:
    return docs_page(document(table), "http://there").response.data.decode()  # type: ignore[union-attr]


def parameters(table: RouteTable, path: str, verb: str = "get") -> dict[str, Any]:
    found = document(table)["paths"][path][verb]["parameters"]
    return {item["name"]: item["schema"] for item in found if item.get("in") == "query"}


async def test_history_declares_its_six(tmp_path: Path) -> None:
    async with running_host(tmp_path, {"history": None}) as host:
        found = parameters(host.host.routes, "/history/points")
        assert [*found] == ["series", "since", "until", "tag", "limit", "before"]
        assert found["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
        page = rendered(host.host.routes)
        assert "repeat it to ask for several at once" in page


class Shelf(BaseBackgroundHandler):
    @query_parameter("first", "Where to begin.")
    @query_parameter("most", "How many.", {"type": "integer"})
    async def get(self, request: Any) -> None:
        """Tell what is on the shelf."""

    async def put(self, request: Any) -> None:
        """Put something there."""


@query_parameter(
    "colour", "Which.", {"type": "array", "items": {"type": "string", "enum": ["red"]}}
)
def plain(request: Any, **_: Any) -> None:
    """Serve two paths that the document cannot tell apart."""


def other(request: Any, **_: Any) -> None:
    other.__dict__["query_parameters"] = "rubbish"


def test_functions_and_verbs_of_classes_declare_theirs() -> None:
    """Kind: every form of a handler; and an attribute of the same name that is something else."""
    table, owner = RouteTable(), Owner("p")
    table.add(owner, "/shelf", Shelf)
    table.add(owner, "/things/<int:n>", plain)
    table.add(owner, "/things/<name>", other)
    other(None)
    assert parameters(table, "/shelf") == {"first": {"type": "string"}, "most": {"type": "integer"}}
    assert parameters(table, "/shelf", "put") == {}
    assert [*parameters(table, "/things/{n}")] == ["colour"]
    assert "How many." in rendered(table)


@pytest.mark.parametrize(
    "schema", [{}, {"type": "text"}, {"type": ["string"]}, {"type": "array"}, {"type": "string", "$ref": "x"},
               {"type": "array", "items": {"type": "array"}}, {"type": "string", "default": object()}, 7],
)  # fmt: skip
def test_a_schema_that_the_page_cannot_show_is_refused_where_it_is_declared(schema: Any) -> None:
    """Kind: a plugin's word that would break the documentation of all."""
    with pytest.raises(TypeError):
        query_parameter("x", "y", schema)


@pytest.mark.parametrize(("name", "text"), [("", "y"), (7, "y"), ("x", None)])
def test_a_name_and_a_description_are_texts(name: Any, text: Any) -> None:
    with pytest.raises(TypeError):
        query_parameter(name, text)
