"""Questions to a running service, and its responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lva.client.target import EXIT_NO_SERVICE, EXIT_REFUSED, FailedError, Target
from lva.client.words import clean

if TYPE_CHECKING:
    import httpx


def ask(
    target: Target, method: str, path: str, *, body: Any = None, patience: float | None = 5.0
) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON object of the response to a request; of one without a body, nothing.

    Args:
        target: The service.
        method: The verb.
        path: With the query.
        body: Sent as JSON, unless it is None.
        patience: How long, in seconds, to wait for data; None: for ever.

    Raises:
        FailedError: Nothing responds, or something else than the service.
    """
    import httpx

    try:
        with target.client(patience) as client:
            response = client.request(method, path, **({} if body is None else {"json": body}))
    except httpx.TransportError as error:
        raise target.not_there(error) from error
    if response.status_code == httpx.codes.NO_CONTENT:
        return response.status_code, {}
    return response.status_code, answer_of(target, response)


@contextmanager
def streaming(
    target: Target,
    path: str,
    query: Iterable[tuple[str, str]],
    silence: float,
    refused: Callable[[int, dict[str, Any]], FailedError] | None = None,
) -> Iterator[Iterator[str]]:
    """Ask for a stream, and give its lines as they come.

    Args:
        target: The service.
        path: Without the query.
        query: The query's parameters.
        silence: After how many seconds without data the service has gone.
        refused: Makes an error of the status and the problem document of a refusal; `refusal` if left out.

    Raises:
        FailedError: Nothing responds, the service refuses, or it went away.
    """
    import httpx

    with target.client(silence) as client:
        request = client.build_request("GET", path, params=httpx.QueryParams([*query]))
        try:
            response = client.send(request, stream=True)
        except httpx.TransportError as error:
            raise target.not_there(error) from error
        try:
            if response.status_code != 200:
                response.read()
                raise (refused or refusal)(response.status_code, answer_of(target, response))
            yield response.iter_lines()
        except httpx.TransportError as error:
            raise FailedError("the service has gone", EXIT_NO_SERVICE) from error
        finally:
            response.close()


def answer_of(target: Target, response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object in a response.

    Raises:
        FailedError: There is none, so that this is no LVA.
    """
    try:
        answer = json.loads(response.content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise FailedError(
            f"what responds at {target.address} is no LVA service, or a proxy in front of it"
            f" (status {response.status_code})"
        )
    return answer


def refusal(status: int, answer: dict[str, Any]) -> FailedError:
    """Return what to say of a problem document."""
    detail = clean(answer.get("detail") or f"refused with status {status}")
    lines = [detail.replace("see /plugins", "see lva status")]
    problems = answer.get("problems")
    if isinstance(problems, list):
        lines = [f"refused with {len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
        lines += [f"  - {_lines(problem)}" for problem in problems]
    if status == 401:
        lines.append("Set LUNA_VIDEO_AGENT_ADMIN_TOKEN, or give --token-file.")
    return FailedError("\n".join(lines), EXIT_REFUSED)


def _lines(problem: object) -> str:
    """Return a problem, whose further lines, as that of wrong syntax, are indented below it."""
    return "\n    ".join(clean(line) for line in str(problem).splitlines())
