"""Plugins as the status pages show them, to those who may see their details and to others."""

from __future__ import annotations

import json
from typing import Any, NotRequired

from quart import Response
from quart_trio.wrappers import TrioResponse

from lva.errors import suggestion
from lva.host.changes import Verb
from lva.host.host import Host
from lva.host.life.life import PluginLife
from lva.host.life.states import State
from lva.host.status import FullStatus, full_statuses
from lva.logs.loggers import masked
from lva.routes.pages import ConsolePage, console_page
from lva.web.problems import HttpProblem


class PluginPage(FullStatus):
    """An active plugin. What the admin token is needed for is null or left out without it."""

    actions: list[Verb]
    """What would not be refused now."""
    settings: NotRequired[dict[str, Any]]
    """The host's keys of its table; of one plugin only."""
    config: NotRequired[dict[str, Any]]
    """For each class its configuration, secrets masked; of one plugin only."""


async def plugins_page(host: Host) -> list[PluginPage]:
    """Describe every plugin, in activation order."""
    await host.look_at_files()
    return [
        {
            **status,  # type: ignore[typeddict-item] # mypy wants those that one plugin's page has, too
            "actions": host.changes.possible(status["name"]),
        }
        for status in full_statuses(host.lives.values(), host.loop_uses)
    ]


async def plugin_page(host: Host, name: str) -> PluginPage:
    """Describe one plugin, with its settings and its configuration, secrets masked."""
    await host.look_at_files(name)
    life = host.lives[name]
    (status,) = full_statuses([life], host.loop_uses)
    return {
        **status,
        "actions": host.changes.possible(name),
        "settings": life.settings.model_dump(mode="json", exclude={"config"}, by_alias=True),
        "config": {cls.__name__: masked(life.loaded.configs[cls]) for cls in life.loaded.classes},
    }


def life_of(host: Host, name: str) -> PluginLife:
    """Return the life of an active plugin.

    Raises:
        HttpProblem: 404: no active plugin has that name.
    """
    life = host.lives.get(name)
    if life is None:
        hint = suggestion(name, host.lives) or "; see /plugins"
        raise HttpProblem(404, f"No active plugin is named {name!r}{hint}", "unknown_plugin")
    return life


def page_of(life: PluginLife) -> ConsolePage | None:
    """Return the page that a plugin adds to the console; None if it has none, or does not run."""
    if life.state.value is not State.RUNNING:
        return None
    return console_page(life.loaded.classes)


def without_details(page: PluginPage) -> PluginPage:
    """Return a page for those who may not see details: no errors, reasons, paths, configuration."""
    shown = page.copy()
    shown["file"] = shown["reason"] = shown["last_error"] = None
    shown["history"] = [{**step, "reason": None} for step in page["history"]]
    if (loop := page["loop"]) is not None:
        shown["loop"] = {**loop, "last_block": None}
    shown.pop("settings", None)
    shown.pop("config", None)
    return shown


def states_only(reasons: dict[str, str]) -> dict[str, str]:
    """Return why the service is not ready without what the plugins' errors say."""
    return {name: reason.partition(":")[0] for name, reason in reasons.items()}


def json_response(value: Any) -> Response:
    """Return a value as a JSON document."""
    return TrioResponse(json.dumps(value) + "\n", content_type="application/json")
