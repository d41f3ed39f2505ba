"""`POST /plugins/NAME/VERB`: what operators do to single plugins."""

from __future__ import annotations

from typing import Any, Final

import trio
from quart import Response

from lva.errors import ConfigurationError
from lva.host.changes import ActionRefusedError, UnknownPluginError, Verb
from lva.host.host import Host
from lva.logs.loggers import brief, redact, service_logger
from lva.web.problems import HttpProblem
from lva.web.resources.access import Access, client
from lva.web.resources.pages import json_response, plugin_page

LOGGER: Final = service_logger("lva.admin")


async def act(host: Host, access: Access, verb: Verb, request: Any, name: str) -> Response:
    """Act on a plugin for a request that may, log who did, and describe the plugin as it is then.

    Raises:
        HttpProblem: The request may not, there is no such plugin, or it cannot be done.
    """
    access.check_action(request)
    outcome = "failed"
    try:
        await getattr(host.changes, verb)(name)
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
        _audit(request, verb, name, outcome)
    return json_response(await plugin_page(host, name))


def _audit(request: Any, verb: str, name: str, outcome: str) -> None:
    who = client(request)
    LOGGER.info(
        "%s of plugin %.100r by %s: %s", verb, name, who, outcome,
        extra={"client": who, "action": verb, "target": name[:100], "outcome": outcome},
    )  # fmt: skip
