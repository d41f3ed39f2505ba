"""`POST /plugins/NAME/VERB`: what operators do to single plugins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio
from quart import Response

from lva.errors import ConfigurationError
from lva.host.changes import ActionRefusedError, UnknownPluginError
from lva.host.host import Host
from lva.host.routing import Gate, Owner
from lva.logs import brief, redact, service_logger
from lva.web.access import Access, client
from lva.web.pages import json_response, plugin_page
from lva.web.problems import HttpProblem

LOGGER: Final = service_logger("lva.admin")

#: What each action does; `GET /` and the documentation list them.
ACTIONS: Final = {
    "/plugins/<name>/start": "start a plugin that was stopped or has failed",
    "/plugins/<name>/stop": "stop it; points wait for its next start",
    "/plugins/<name>/restart": "stop it and start it anew",
    "/plugins/<name>/reload": "load its file anew and start it with that; a broken file changes nothing",
}


class Actions:
    """Answers the paths of the actions.

    Args:
        host: The plugins.
        access: Decides who may act.
    """

    def __init__(self, host: Host, access: Access) -> None:
        self._host = host
        self._access = access
        owner = Owner(None, Gate.OPEN)
        for path in ACTIONS:
            verb = path.rpartition("/")[2]
            act: Callable[[str], Awaitable[None]] = getattr(host.changes, verb)
            host.routes.add(owner, path, partial(self._answer, verb, act), {"post"})

    async def _answer(
        self, verb: str, act: Callable[[str], Awaitable[None]], request: Any, name: str
    ) -> Response:
        """Do it, log who did, and describe the plugin as it is then."""
        self._access.check_action(request)
        outcome = "failed"
        try:
            await act(name)
            outcome = "done"
        except trio.Cancelled:
            outcome = "cut short: the client left"  # the action itself goes on
            raise
        except UnknownPluginError as error:
            outcome = "unknown plugin"
            raise HttpProblem(404, f"{error}; see /plugins", "unknown_plugin") from error
        except ActionRefusedError as error:
            outcome = f"refused: {error}"
            raise HttpProblem(409, redact(str(error)), "action_refused") from error
        except ConfigurationError as error:
            outcome = f"refused: {error.problems[0].splitlines()[0]}"
            problems = [redact(problem) for problem in error.problems]
            detail = f"The plugin's file or settings are wrong: {'; '.join(problems)}"
            raise HttpProblem(422, detail, "plugin_refused", problems=problems) from error
        except Exception as error:
            outcome = f"failed: {brief(error)}"
            raise
        finally:
            self._audit(request, verb, name, outcome)
        return json_response(await plugin_page(self._host, name))

    def _audit(self, request: Any, verb: str, name: str, outcome: str) -> None:
        who = client(request)
        LOGGER.info(
            "%s of plugin %.100r by %s: %s", verb, name, who, outcome,
            extra={"client": who, "action": verb, "target": name[:100], "outcome": outcome},
        )  # fmt: skip
