"""What handlers take and respond, in the API documentation."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from lva import BaseBackgroundHandler, admin_only, request_body, response
from lva.host.routing import Owner, RouteTable
from lva.web.resources.docs import docs_page
from lva.web.resources.openapi import document


class Bulb(BaseModel):
    watts: int


class Lamp(BaseModel):
    bulbs: list[Bulb]


class Tree(BaseModel):
    children: list[Tree]


class Lamps(BaseBackgroundHandler):
    @admin_only
    @request_body(Lamp)
    @response(201, "Made.", {"type": "object", "properties": {"lamp": {}}}, links=["lamp"])
    async def post(self, request: Any) -> None:
        """Make a lamp."""

    async def get(self, request: Any) -> None:
        """Tell of all."""


def one(request: Any, lamp: str) -> None:
    """Tell of one."""


def paths() -> tuple[Any, RouteTable]:
    table = RouteTable()
    table.add(Owner("p"), "/lamps", Lamps)
    table.add(Owner("p"), "/lamps/<lamp>", one)
    table.add(Owner("q"), "/other/<lamp>", one)
    return document(table)["paths"], table


def test_bodies_and_responses_are_described_whole() -> None:
    """The kind is a declaration of a verb of a class, with a model that has another in it."""
    found, table = paths()
    post = found["/lamps"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["bulbs"]["items"]["properties"]["watts"]["type"] == "integer"
    assert set(post["responses"]) == {"201", "default", "503"}
    assert post["security"]
    assert "requestBody" not in found["/lamps"]["get"]
    assert "2XX" in found["/lamps"]["get"]["responses"]
    page = docs_page(document(table), "http://there").response.data.decode()  # type: ignore[union-attr]
    assert "bulbs" in page


def test_a_response_leads_to_what_it_names_in_its_own_plugin() -> None:
    found, _ = paths()
    (link,) = found["/lamps"]["post"]["responses"]["201"]["links"].values()
    assert link == {"operationId": "get_lamps_lamp", "parameters": {"lamp": "$response.body#/lamp"}}


def test_a_model_that_stands_in_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="Tree stands in itself"):
        request_body(Tree)
