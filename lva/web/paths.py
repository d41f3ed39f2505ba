"""The service's own paths; apart from what serves them, so that they are known without a web framework."""

from __future__ import annotations

from typing import Final

#: What the console lives on besides the status pages.
OBSERVING: Final = {
    "/plugins/<name>/log": "its newest log records, and the newest traceback",
    "/events": "server-sent events: how the service is, and each second what has changed",
    "/console/<path:part>": "the parts of the console",
}
#: Points on their way.
TAPPING: Final = {"/tap": "points as they pass, as JSON lines, until the client leaves"}
#: What answers 503 to say that the service is not ready: no failed request.
PROBES: Final = frozenset({"/livez", "/readyz"})
#: What each resource is for; `GET /` and the documentation list them.
RESOURCES: Final = {
    "/": "the console, for browsers; else this index",
    "/livez": "200 while the event loop responds",
    "/readyz": "200 while every active plugin runs and the service is not stopping, else 503",
    "/version": "versions of the service, Python and what it is built on",
    "/plugins": "every active plugin with its state, routes and ledger",
    "/plugins/<name>": "one of them",
    "/plugins/<name>/tasks": "its tasks, each with where it waits, below the task that started it",
    "/openapi.json": "the API document (OpenAPI 3.1): every resource and route there is now",
    "/docs": "the same as a page for people",
    **OBSERVING,
    **TAPPING,
}
