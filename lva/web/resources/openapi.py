"""The API document (OpenAPI 3.1): every route that there is at this moment, the service's and the plugins'.

It is made from the route table, so that nothing is left out; `schemas.py` adds what the service's own
resources answer. What a plugin's route answers only the plugin knows: its docstring says it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from werkzeug.routing import (
    AnyConverter,
    BaseConverter,
    FloatConverter,
    IntegerConverter,
    Map,
    Rule,
    UUIDConverter,
)

from lva import __version__
from lva.host.routing import Gate, Route
from lva.routes.admin import is_admin_only
from lva.routes.bodies import DeclaredResponse, request_body_of, responses_of
from lva.routes.query import query_parameters_of
from lva.web.problems import MEDIA_TYPE, Problem
from lva.web.resources.resource import Answer, Resource
from lva.web.resources.schemas import Schema, reference, schemas_of

#: The tag of the service's own resources. No plugin can have this name: it has a space.
SERVICE_TAG: Final = "the service"

#: The pattern of a path's variable that may be anything.
ANY_SEGMENT: Final = "^[^/]{1,}$"

_DESCRIPTION: Final = (
    "What this service serves right now: its own resources, and the routes of its plugins, which come and"
    " go with them. Where there is GET there is also HEAD; OPTIONS gives 204 everywhere, with the verbs"
    " in the header Allow. Other verbs are refused with 405, unknown paths with 404. Errors of the service"
    " are problem documents (RFC 9457)."
)
#: The name of the security scheme.
TOKEN: Final = "admin_token"  # noqa: S105 - its name, not a token
_TOKEN: Final[Schema] = {
    "type": "http",
    "scheme": "bearer",
    "description": "What LUNA_VIDEO_AGENT_ADMIN_TOKEN is set to. Not needed where the service listens on the"
    " loopback interface or a Unix socket only, and has none.",
}
_REQUEST_ID: Final[Schema] = {
    "name": "Luna-Request-Id",
    "in": "header",
    "description": "An id for the request, up to 128 printable characters; made when absent.",
    "schema": {"type": "string"},
}
_HEADERS: Final[Schema] = {"Luna-Request-Id": {"$ref": "#/components/headers/Luna-Request-Id"}}
_MAYBE_PROBLEM: Final[Schema] = {MEDIA_TYPE: {"schema": reference(Problem)}, "*/*": {}}
_RESPONSES: Final[Mapping[str, Schema]] = {
    "Error": {
        "description": "Any error: a malformed request, a body that is too large or too slow, an"
        " overloaded service.",
        "headers": _HEADERS,
        "content": {MEDIA_TYPE: {"schema": reference(Problem)}},
    },
    # Without a content, since there may be none, and only the plugin knows of which type it is.
    "FromPlugin": {"description": "The plugin's response.", "headers": _HEADERS},
    "PluginError": {
        "description": "The plugin's response. Errors that it raises are problem documents.",
        "headers": _HEADERS,
        "content": _MAYBE_PROBLEM,
    },
    "Unavailable": {
        "description": "The plugin is not running, or the service is overloaded: Retry-After says when"
        " to try again. Or the plugin's own response.",
        "headers": {
            **_HEADERS,
            "Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}},
        },
        "content": _MAYBE_PROBLEM,
    },
}


def document(routes: Iterable[Route], resources: Iterable[Resource] = ()) -> dict[str, Any]:
    """Return the API document of these routes, as JSON values. Any thread may call it.

    Args:
        routes: The routes.
        resources: What is known of those of the service.

    Routes whose owner has ended are left out. Where two routes differ in nothing but the kind of a
    variable, which OpenAPI does not know, they share a path; the variable is then either.
    """
    own = {(item.path, item.verb): item for item in resources}
    kinds = [
        answer.kind for item in own.values() for answer in item.answers.values() if answer.kind
    ]
    shown = [route for route in routes if route.owner.gate not in {Gate.STOPPED, Gate.GONE}]
    tags = dict.fromkeys([SERVICE_TAG, *(route.owner.name or SERVICE_TAG for route in shown)])
    paths = _paths(shown, own)
    _name_operations(paths)
    _link(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LVA",
            "version": __version__,
            "summary": "A video agent service whose work is done by plugins.",
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "tags": [_tag(name) for name in tags],
        "paths": paths,
        "components": {
            "schemas": schemas_of(Problem, *kinds),
            "responses": _RESPONSES,
            "parameters": {"Luna-Request-Id": _REQUEST_ID},
            "securitySchemes": {TOKEN: _TOKEN},
            "headers": {
                "Luna-Request-Id": {
                    "description": "The id of the request: the client's, or a new one.",
                    "required": True,
                    "schema": {"type": "string"},
                }
            },
        },
    }


def _paths(
    routes: Iterable[Route], resources: Mapping[tuple[str, str], Resource]
) -> dict[str, Schema]:
    """Return the operations of these routes, by path and verb."""
    paths: dict[str, Schema] = {}
    known: dict[str, str] = {}  # the path by its shape
    for route in routes:
        path, parameters = path_of(route.template)
        shape = re.sub(r"\{[^{}]*\}", "{}", path)
        taken = known.setdefault(shape, path)
        if taken != path or taken in paths:
            parameters = _renamed(parameters, taken)
        item = paths.setdefault(taken, {})
        for verb in route.verbs:
            operation = _operation(route, verb, parameters, resources)
            earlier = item.get(verb.lower())
            item[verb.lower()] = operation if earlier is None else _merged(earlier, operation)
    return paths


@lru_cache(1024)
def path_of(template: str) -> tuple[str, Sequence[Schema]]:
    """Return a route's path as OpenAPI writes it, and its parameters."""
    rule = Rule(template)
    Map([rule])
    # werkzeug has no public view of a parsed rule. Its first part is the host's name.
    parts = rule._trace[1:]  # noqa: SLF001 - nothing public tells the parts
    path = "".join(f"{{{text}}}" if variable else _escaped(text) for variable, text in parts)
    converters = rule._converters  # noqa: SLF001 - as above
    return path, [
        {"name": name, "in": "path", "required": True, "schema": _schema(converters[name])}
        for variable, name in parts
        if variable
    ]


def _escaped(text: str) -> str:
    return text.replace("{", "%7B").replace("}", "%7D")


def _schema(converter: BaseConverter) -> Schema:
    """Return what a path's variable may be; the same as werkzeug matches."""
    if isinstance(converter, IntegerConverter) and not converter.fixed_digits:
        least = converter.min if converter.signed else max(converter.min or 0, 0)
        bounds = {"minimum": least, "maximum": converter.max}
        return {"type": "integer", **{key: n for key, n in bounds.items() if n is not None}}
    if isinstance(converter, AnyConverter):
        return {"type": "string", "enum": sorted(converter.items)}
    if isinstance(converter, UUIDConverter):
        return {"type": "string", "format": "uuid"}
    schema: Schema = {"type": "string", "pattern": f"^{converter.regex}$"}
    if isinstance(converter, IntegerConverter):
        schema["minLength"] = schema["maxLength"] = converter.fixed_digits
    if isinstance(converter, IntegerConverter | FloatConverter):
        bounds = {"from": converter.min, "to": converter.max}
        words = [f"{word} {n:g}" for word, n in bounds.items() if n is not None]
        schema["description"] = " ".join(["A number", *words])
    return schema


def _renamed(parameters: Sequence[Schema], path: str) -> list[Schema]:
    """Return the parameters with the names that they have in a path of the same shape."""
    names = re.findall(r"\{([^{}]*)\}", path)
    return [{**item, "name": name} for item, name in zip(parameters, names, strict=True)]


def _merged(one: Schema, other: Schema) -> Schema:
    """Return one operation for two routes that OpenAPI cannot tell apart."""
    ours, theirs = (
        [item for item in each["parameters"] if item.get("in") == "path"] for each in (one, other)
    )
    parameters = [
        {**mine, "schema": {"anyOf": [mine["schema"], its["schema"]]}} if mine != its else mine
        for mine, its in zip(ours, theirs, strict=True)
    ]
    others = [
        item for item in [*one["parameters"], *other["parameters"]] if item.get("in") != "path"
    ]
    parameters += {item.get("name", "$ref"): item for item in reversed(others)}.values()
    texts = dict.fromkeys(item["description"] for item in (one, other) if "description" in item)
    return {
        **one,
        "tags": [*dict.fromkeys([*one["tags"], *other["tags"]])],
        "description": "\n\n".join(texts),
        "parameters": parameters,
        "x-lva-routes": [*one["x-lva-routes"], *other["x-lva-routes"]],
    }


def _operation(
    route: Route,
    verb: str,
    parameters: Sequence[Schema],
    resources: Mapping[tuple[str, str], Resource],
) -> Schema:
    own = resources.get((route.template, verb)) if route.owner.name is None else None
    what = _of_plugin(route, verb) if own is None else _of_service(own)
    declared = query_parameters_of(route.verbs[verb]) if own is None else own.parameters
    asked = [*parameters, *(item.as_dict() for item in declared)]
    return {
        "tags": [route.owner.name or SERVICE_TAG],
        **what,
        "parameters": [*asked, {"$ref": "#/components/parameters/Luna-Request-Id"}],
        # As in the tag `route` of the request's point, without the verb.
        "x-lva-routes": [route.template],
    }


def _of_service(resource: Resource) -> Schema:
    texts = [resource.description, resource.needs]
    return {
        "summary": f"{resource.summary[0].upper()}{resource.summary[1:]}",
        "description": "\n\n".join(filter(None, texts)),
        # Without it, for those whom a service trusts that listens on the loopback interface only.
        **({"security": [{TOKEN: []}, {}]} if resource.needs else {}),
        "responses": {
            **{
                str(status): _response(answer)
                for status, answer in sorted(resource.answers.items())
            },
            "default": _response_ref("Error"),
        },
    }


def _response(answer: Answer) -> Schema:
    first: Schema = {} if answer.kind is None else {"schema": reference(answer.kind)}
    content = {answer.media_type: first, **{media_type: {} for media_type in answer.or_else}}
    return {"description": answer.meaning, "headers": _HEADERS, "content": content}


def _of_plugin(route: Route, verb: str) -> Schema:
    """Describe a verb of a plugin's route, as far as its docstring and the service tell."""
    summary, _, rest = (inspect.getdoc(route.verbs[verb]) or "").partition("\n\n")
    described: Schema = {"summary": " ".join(summary.split()).removesuffix(".")} if summary else {}
    if rest:
        described["description"] = rest
    handler = route.verbs[verb]
    if is_admin_only(handler):
        described["security"] = [{TOKEN: []}, {}]
    if (body := request_body_of(handler)) is not None:
        content = {"application/json": {"schema": body}}
        described["requestBody"] = {"required": True, "content": content}
    elif verb in {"POST", "PUT", "PATCH"}:
        described["requestBody"] = {"content": {"*/*": {}}}
    declared = {str(item.status): _declared(item) for item in responses_of(handler)}
    described["responses"] = {
        **(declared or {status: _response_ref("FromPlugin") for status in ("2XX", "3XX")}),
        "default": _response_ref("PluginError"),
        "503": _response_ref("Unavailable"),
    }
    return described


def _declared(response: DeclaredResponse) -> Schema:
    """Describe a response that a plugin declares; its links are put in once all operations have ids."""
    described: Schema = {"description": response.meaning, "headers": _HEADERS}
    if response.media_type is not None:
        first = {} if response.schema is None else {"schema": response.schema}
        described["content"] = {response.media_type: first}
    if response.links:
        described["links"] = {name: {} for name in response.links}
    return described


def _link(paths: Mapping[str, Schema]) -> None:
    """Lead from what a plugin's response names to the operations of that plugin that need it."""
    every = [operation for item in paths.values() for operation in item.values()]
    for operation in every:
        for response in operation["responses"].values():
            if names := response.pop("links", None):
                response["links"] = {
                    f"{name} of {other['operationId']}": {
                        "operationId": other["operationId"],
                        "parameters": {name: f"$response.body#/{name}"},
                    }
                    for name in names
                    for other in every
                    if other["tags"] == operation["tags"] and _variables(other) == [name]
                }


def _variables(operation: Schema) -> list[str]:
    return [item["name"] for item in operation["parameters"] if item.get("in") == "path"]


def _response_ref(name: str) -> Schema:
    return {"$ref": f"#/components/responses/{name}"}


def _name_operations(paths: Mapping[str, Schema]) -> None:
    """Give each operation an id of its own, for programs that make functions of them."""
    taken: set[str] = set()
    for path, item in paths.items():
        for verb, operation in item.items():
            name = "_".join([verb, *re.findall(r"\w+", path)])
            number = 1
            while name in taken:
                name = f"{name.removesuffix(f'_{number}')}_{(number := number + 1)}"
            taken.add(name)
            operation["operationId"] = name


def _tag(name: str) -> Mapping[str, str]:
    if name == SERVICE_TAG:
        return {"name": name, "description": "The service's own resources."}
    return {"name": name, "description": f"Routes of the plugin {name}."}
