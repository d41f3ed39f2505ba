"""What another agent of the fleet knows of a stream is asked of it, and its response passed on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import httpx
import trio

from lva.contract import PluginResponse, RequestProblem, pluginHTTPResponse
from lva.http_replies import beginning
from lva.settings import parse_bind

#: Says which agent asks; who gets it does not ask on.
HEADER: Final = "X-LVA-Agent"
#: Seconds for a connection, and for the whole response; most bytes of it.
CONNECT: Final = 2.0
LIMIT: Final = 10.0
MAX_BODY: Final = 20 * 1024 * 1024
#: What agents respond with. All else stays outside: a browser would take it for this service's own page.
_TYPES: Final = ("image/jpeg", "application/json", "application/problem+json")
#: Headers of a response that are passed on.
_PASSED: Final = ("content-type", "cache-control", "x-frame-time", "etag", "retry-after")


class Forwarding:
    """Asks other agents.

    Args:
        agent: This agent's name.
    """

    def __init__(self, agent: str) -> None:
        # What is compressed may be larger than it looks.
        self._headers = {HEADER: agent, "Accept-Encoding": "identity"}

    async def get(self, address: str, path: str) -> PluginResponse:
        """Return the response of another agent to a GET request.

        Cancellation: closes the connection.

        Args:
            address: Where it is reached, such as http://10.0.0.7:5240.
            path: With the query.

        Raises:
            RequestProblem: It cannot be reached, does not respond in time, or is no agent.
        """
        try:
            with trio.fail_after(LIMIT):
                return await self._get(f"{address}{path}")
        except (httpx.HTTPError, trio.TooSlowError, httpx.InvalidURL, UnicodeError) as error:
            why = (
                "it does not respond in time"
                if isinstance(error, trio.TooSlowError)
                else str(error)
            )
            what = f"the agent at {address} that has the stream cannot be reached: {why or 'no response'}"
            raise RequestProblem(502, what, "agent_unreachable", agent_address=address) from None

    async def _get(self, url: str) -> PluginResponse:
        timeout = httpx.Timeout(LIMIT, connect=CONNECT)
        async with (
            httpx.AsyncClient(
                verify=_verification(url), timeout=timeout, trust_env=False
            ) as client,
            client.stream("GET", url, headers=self._headers) as response,
        ):
            _check_is_an_agents(response)
            body = await beginning(response, MAX_BODY + 1)
            if len(body) > MAX_BODY:
                what = "the other agent's response is too large"
                raise RequestProblem(502, what, "agent_unreachable")
            passed = {name: response.headers[name] for name in _PASSED if name in response.headers}
            return pluginHTTPResponse(response.status_code, body, passed)


def _verification(url: str) -> ssl.SSLContext | bool:
    return _trusted() if url.startswith("https:") else False


@cache
def _trusted() -> ssl.SSLContext:
    """Return what decides on certificates; to read all that are trusted takes 20 ms."""
    return ssl.create_default_context()


def _check_is_an_agents(response: httpx.Response) -> None:
    kind = response.headers.get("content-type", "nothing").partition(";")[0].strip().lower()
    status = response.status_code
    if kind not in _TYPES or not (status == 200 or 400 <= status < 600):
        what = f"what responds at the agent's address is no agent: status {status}, {kind[:100]}"
        raise RequestProblem(502, what, "agent_unreachable")


def asked_by_an_agent(headers: Mapping[str, Any]) -> bool:
    """Return whether a request comes from another agent."""
    return HEADER in headers


def moved() -> RequestProblem:
    """Return the problem that an agent was asked for a stream that it does not work on any more."""
    what = "this agent does not work on the stream now; ask again"
    return RequestProblem(503, what, "stream_moved", {"Retry-After": "1"})


def own_address(bind: str) -> str:
    """Return where other agents reach a service that listens there.

    Args:
        bind: As in the settings.

    Raises:
        ValueError: That does not say it.
    """
    found = parse_bind(bind)
    if isinstance(found, str) or found[1] == 0:
        raise ValueError(
            f"bind = {bind!r} does not say where other agents reach this one; set address in this table,"
            " as in http://10.0.0.7:5240, or a bind with a port"
        )
    host, port = found
    if host in ("0.0.0.0", "::"):  # noqa: S104 - all addresses of this machine
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
