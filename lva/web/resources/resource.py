"""What one of the service's own resources is: for the route table, the index and the API document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lva.routes.query import QueryParameter
from lva.web.problems import MEDIA_TYPE, Problem

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of a resource.

    Args:
        meaning: When it is given, for people.
        kind: The type of what is sent, a `TypedDict` or a union of some; None for what is not JSON.
        media_type: What it is sent as.
        or_else: Other media types that it may be sent as, not in JSON.
    """

    meaning: str
    kind: Any = None
    media_type: str = JSON
    or_else: Sequence[str] = ()


def refusal(meaning: str, kind: Any = Problem) -> Answer:
    """Return the response of a request that is not done."""
    return Answer(meaning, kind, MEDIA_TYPE)


@dataclass(frozen=True, slots=True)
class Resource:
    """One verb of one path.

    Args:
        path: The path, as in the route table.
        summary: What it is, in a line.
        handler: Answers requests: a method of `lva.web.resources.table.Resources`.
        answers: The responses by status; that any request may fail needs no mention.
        verb: The HTTP method.
        description: What else there is to know.
        parameters: Those of the query.
        needs: What the admin token is for; empty if it makes no difference.
        plotted: Whether its requests tell something of the service, and so are counted by the console.
    """

    path: str
    summary: str
    handler: Callable[..., Any]
    answers: Mapping[int, Answer]
    verb: str = "GET"
    description: str = ""
    parameters: Sequence[QueryParameter] = ()
    needs: str = ""
    plotted: bool = True
