"""Parameters of a query that a route does not have: a mistyped filter would filter nothing, in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lva.errors import listing, suggestion
from lva.routes.query import query_parameters_of
from lva.web.problems import HttpProblem

#: Most characters of a name that are shown.
_SHOWN: Final = 50


def check_query(handler: Callable[..., Any], request: Any) -> None:
    """Refuse parameters that a handler does not declare; one that declares none takes any.

    Raises:
        HttpProblem: 400; the request has others.
    """
    if not request.query_string:
        return
    known = [parameter.name for parameter in query_parameters_of(handler)]
    for name in request.args if known else ():
        if name not in known:
            near = suggestion(name, known)
            there_are = f"{' Available' if near else '; available'}: {listing(known)}."
            what = f"There is no query parameter {name[:_SHOWN]!r}{near}{there_are}"
            raise HttpProblem(400, what, "unknown_parameter")
