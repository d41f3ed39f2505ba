"""The API document as a page for people: one self-contained HTML file, without scripts."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from quart import Response
from quart_trio.wrappers import TrioResponse

from lva.web.resources.openapi import ANY_SEGMENT

_HERE: Final = Path(__file__).parent
_VERBS: Final = ("get", "post", "put", "patch", "delete", "options", "head")


def docs_page(document: Mapping[str, Any], base: str) -> Response:
    """Return the page.

    Args:
        document: An API document, as `lva.web.resources.openapi.document` makes it.
        base: The service's address as the client knows it, for examples.
    """
    template, style, policy = _assets()
    html = template.render(
        document=document,
        style=style,
        sections=[*_sections(document)],
        base=base.rstrip("/"),
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return TrioResponse(html, headers=headers, content_type="text/html; charset=utf-8")


@cache
def _assets() -> tuple[Any, Markup, str]:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"kind": kind, "marked": _marked, "paragraphs": _paragraphs}
    environment.globals |= {"example": _example}
    style = (_HERE / "docs.css").read_text(encoding="utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    return environment.get_template("docs.html"), Markup(style), policy  # noqa: S704 - our own file


def _sections(document: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, str], list[Any]]]:
    """Go through the tags, each with its operations: the path, the verb, and the operation."""
    for tag in document["tags"]:
        yield (
            tag,
            [
                (path, verb, item[verb])
                for path, item in document["paths"].items()
                for verb in _VERBS
                if verb in item and tag["name"] in item[verb]["tags"]
            ],
        )


def kind(schema: Mapping[str, Any]) -> Markup:
    """Say in a few words what values a schema allows; other schemas are linked to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return Markup(", ").join(map(_code, schema["enum"]))
    if "anyOf" in schema:
        return Markup(" or ").join(map(kind, schema["anyOf"]))
    names = schema.get("type", "anything")
    names = [names] if isinstance(names, str) else names
    return Markup(" or ").join(_simple(name, schema) for name in names)


def _simple(name: str, schema: Mapping[str, Any]) -> Markup:
    if name == "array":
        return Markup("list of ") + kind(schema["items"])
    if name == "object" and isinstance(values := schema.get("additionalProperties"), Mapping):
        return Markup("object, each value ") + kind(values)
    if name == "object" and (members := schema.get("properties")):
        return Markup("object of ") + Markup(", ").join(map(_code, members))
    details = [schema["format"]] if "format" in schema else []
    details += [f"from {schema['minimum']}"] if "minimum" in schema else []
    details += [f"to {schema['maximum']}"] if "maximum" in schema else []
    if schema.get("pattern", ANY_SEGMENT) != ANY_SEGMENT:
        details.append(f"pattern {schema['pattern']}")
    if not details:
        return Markup.escape(name)
    return Markup("{} <small>{}</small>").format(name, ", ".join(details))


def _code(value: object) -> Markup:
    return Markup("<code>{}</code>").format(value)


def _marked(path: str) -> Markup:
    """Return a path with its variables marked."""
    pieces = re.split(r"(\{[^{}]*\})", path)
    return Markup("").join(
        Markup("<var>{}</var>").format(piece) if piece.startswith("{") else piece
        for piece in pieces
    )


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _example(base: str, path: str, verb: str, operation: Mapping[str, Any]) -> str:
    """Return a command that asks for this."""
    words = ["curl"]
    if verb != "get":
        words += ["-X", verb.upper()]
    if operation.get("security"):
        words += ["-H", '"Authorization: Bearer $LUNA_VIDEO_AGENT_ADMIN_TOKEN"']
    target = re.sub(r"\{([^{}]*)\}", lambda match: match[1].upper(), path)
    return " ".join([*words, f"'{base}{target}'"])
