"""Tables of the documentation that are made from the code, so that they cannot drift from it.

This module knows nothing of Sphinx: `conf.py` turns each function into a directive, and the tests read
the same text without Sphinx.
"""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import click
import platformdirs
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lva.check.codes import CODES
from lva.cli import main
from lva.client.commands import COMMANDS
from lva.client.stream_commands import streams
from lva.events.types import EVENT_TYPES
from lva.host.delivery.tap import STEPS
from lva.luna import MODULES
from lva.settings import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    PluginSettings,
    Settings,
    keys_of,
)
from lva.web.handling.complete import CompleteRequest
from lva.web.resources.table import RESOURCES


def floors(package: str) -> str:
    """Return the picture of a package's rooms."""
    return str(runpy.run_path(str(Path(__file__).parent / "floors.py"))["floors"](package))


def settings() -> str:
    """Return the list of the service's settings."""
    default = _code(str(DEFAULT_FILE))
    meaning = (
        f"The settings file, by {_code(CONFIG_VARIABLE)} or {_code('--config')}. Without either,"
        f" {default} in the working directory, if any."
    )
    return _definitions([*_keys(Settings, Settings.model_fields), ("(no key)", default, meaning)])


def plugin_settings() -> str:
    """Return the list of the host's keys of one plugin."""
    return _definitions(_keys(PluginSettings, keys_of(PluginSettings)))


def resources() -> str:
    """Return the table of the service's own resources."""
    return _table(("Path", "Response to GET"), _resources("GET"))


def _resources(verb: str) -> list[tuple[str, str]]:
    return [(_code(item.path), _sentence(item.summary)) for item in RESOURCES if item.verb == verb]


def actions() -> str:
    """Return the table of what operators can do to plugins."""
    return _table(("Path", "What POST does"), _resources("POST"))


def events() -> str:
    """Return the table of event types."""
    rows = [
        (_code(name), _code(f"lva.{event.item.__name__}"), _sentence(event.description))
        for name, event in EVENT_TYPES.items()
    ]
    return _table(("eventName", "Items", "What they are"), rows)


def request() -> str:
    """Return the table of what a handler on asyncio finds in a request."""
    # One line for each attribute, below the heading; properties have docstrings of their own.
    lines = str(CompleteRequest.__doc__).partition("Attributes:")[2].strip().splitlines()
    rows = [tuple(line.strip().split(": ", 1)) for line in lines]
    rows += [
        (name, str(inspect.getdoc(prop)).splitlines()[0])
        for name, prop in vars(CompleteRequest).items()
        if isinstance(prop, property | cached_property)
    ]
    return _table(("Attribute", "What it is"), [(_code(name), text) for name, text in rows])


def aliases() -> str:
    """Return the table of the original service's modules that can be imported."""
    rows = [(_code(name), ", ".join(map(_code, sorted(held)))) for name, held in MODULES.items()]
    return _table(("Module", "What can be imported from it"), rows)


def options_of(command: click.Command) -> str:
    """Return the table of the arguments and options of one command."""
    rows = [
        (", ".join(map(_code, option.opts)), _sentence(option.help or ""))
        for option in command.params
        if isinstance(option, click.Option)
    ]
    return _table(("Option", "Meaning"), rows)


def commands() -> str:
    """Return the table of the commands that ask a running service."""
    rows = []
    for prefix, command in [("lva", each) for each in COMMANDS] + [
        ("lva streams", each) for each in streams.commands.values()
    ]:
        arguments = [
            parameter.make_metavar(click.Context(command))
            for parameter in command.params
            if isinstance(parameter, click.Argument)
        ]
        usage = " ".join([prefix, str(command.name), *arguments])
        rows.append((_code(usage), _sentence(str(command.help).partition("\n\n")[0])))
    return _table(("Command", "What it does"), rows)


def steps() -> str:
    """Return the table of what may happen to a point."""
    rows = [(_code(step), _sentence(meaning)) for step, meaning in STEPS.items()]
    return _table(("Step", "The point is"), rows)


def check_codes() -> str:
    """Return the table of the kinds of problems that `lva check` knows."""
    rows = [(_code(code), _sentence(meaning)) for code, meaning in CODES.items()]
    return _table(("Code", "What is wrong"), rows)


def config_of(model: type[BaseModel]) -> str:
    """Return the list of one plugin's configuration."""
    return _definitions(_keys(model, model.model_fields))


def influx_config() -> str:
    """Return the table of the configuration of `influx`."""
    from lva.plugins.influx import Config

    return config_of(Config)


def otlp_config() -> str:
    """Return the table of the configuration of `otlp`."""
    from lva.plugins.otlp import Config

    return config_of(Config)


def streams_config() -> str:
    """Return the table of the configuration of `streams`."""
    from lva.plugins.streams import Config

    return config_of(Config)


def fleet_config() -> str:
    """Return the table of the configuration of a fleet."""
    from lva.fleet.config import FleetConfig

    own = rf"(``agent`` : )``{re.escape(FleetConfig().agent)}``"
    return re.sub(own, r"\1(the machine's name)", config_of(FleetConfig))


def motion_config() -> str:
    """Return the table of the parameters of `motion`."""
    from lva.plugins.motion import Config

    return config_of(Config)


def faces_config() -> str:
    """Return the table of the parameters of `faces`."""
    from lva.plugins.faces import Config

    return config_of(Config)


def people_config() -> str:
    """Return the table of the parameters of `people`."""
    from lva.plugins.people import Config

    return config_of(Config)


def codes_config() -> str:
    """Return the table of the parameters of `codes`."""
    from lva.plugins.codes import Config

    return config_of(Config)


def picture_health_config() -> str:
    """Return the table of the parameters of `picture_health`."""
    from lva.plugins.picture_health import Config

    return config_of(Config)


def callbacks_config() -> str:
    """Return the table of the configuration of `callbacks`."""
    from lva.plugins.callbacks import Config

    return config_of(Config)


def callback_keys() -> str:
    """Return the tables of the keys of a callback, of its conditions, and of what they say of values."""
    from lva.video.callbacks import Callback, Conditions, Where

    titles = ["", "In ``conditions``:", "In each of ``where``:"]
    tables = map(config_of, (Callback, Conditions, Where))
    return "\n\n".join(f"{title}\n\n{table}" for title, table in zip(titles, tables, strict=True))


def stream_definition() -> str:
    """Return the table of the keys of a stream's definition."""
    from lva.video.definition import StreamDefinition

    return config_of(StreamDefinition)


def history_config() -> str:
    """Return the table of the configuration of `history`."""
    from lva.plugins.history import Config

    return config_of(Config)


def batching_config() -> str:
    """Return the table of the configuration of `batching_example`."""
    from lva.plugins.batching_example import Config

    return config_of(Config)


def prometheus_config() -> str:
    """Return the table of the configuration of `prometheus`."""
    from lva.plugins.prometheus import Config

    return config_of(Config)


def file_config() -> str:
    """Return the table of the configuration of `file`."""
    from lva.plugins.file import Config

    return config_of(Config)


def prometheus_metrics() -> str:
    """Return the table of the metrics that are the service's own."""
    from lva.plugins.prometheus import METRICS

    return _metrics(METRICS)


def stream_metrics() -> str:
    """Return the table of the metrics of streams."""
    from lva.video.measures import STREAM
    from lva.video.reporting.metrics import METRICS

    return _metrics(METRICS, "More labels", len(STREAM))


def fleet_metrics() -> str:
    """Return the table of the metrics of a fleet."""
    from lva.video.fleet.metrics import METRICS

    return _metrics(METRICS)


def callback_metrics() -> str:
    """Return the table of the metrics of callbacks."""
    from lva.video.reporting.callback_counts import METRICS

    return _metrics(METRICS)


def _metrics(metrics: Iterable[Any], labels: str = "Labels", left_out: int = 0) -> str:
    """Return a table of metrics; the first labels may be left out, where all have the same."""
    rows = [
        (
            _code(each.name),
            each.kind,
            ", ".join(map(_code, each.labels[left_out:])) or "(none)",
            _sentence(each.meaning),
        )
        for each in metrics
    ]
    return _table(("Name", "Type", labels, "Meaning"), rows)


def resource_monitor_config() -> str:
    """Return the table of the configuration of `resource_monitor`."""
    from lva.plugins.resource_monitor import Config

    return config_of(Config)


def webhook_config() -> str:
    """Return the table of the configuration of `webhook`."""
    from lva.plugins.webhook import Config

    return config_of(Config)


#: What `.. generated:: NAME` stands for.
TABLES: dict[str, Callable[[], str]] = {
    **{f"{package}-floors": partial(floors, package) for package in ("host", "web", "video")},
    "settings": settings,
    "plugin-settings": plugin_settings,
    "influx-config": influx_config,
    "otlp-config": otlp_config,
    "resources": resources,
    "actions": actions,
    "events": events,
    "check-codes": check_codes,
    **{f"options-{name}": partial(options_of, command) for name, command in main.commands.items()},
    **{
        f"options-streams-{name}": partial(options_of, command)
        for name, command in streams.commands.items()
    },
    "request": request,
    "commands": commands,
    "steps": steps,
    "aliases": aliases,
    "history-config": history_config,
    "motion-config": motion_config,
    "faces-config": faces_config,
    "people-config": people_config,
    "codes-config": codes_config,
    "picture-health-config": picture_health_config,
    "stream-definition": stream_definition,
    "stream-metrics": stream_metrics,
    "callbacks-config": callbacks_config,
    "callback-metrics": callback_metrics,
    "fleet-metrics": fleet_metrics,
    "callback-keys": callback_keys,
    "streams-config": streams_config,
    "fleet-config": fleet_config,
    "file-config": file_config,
    "webhook-config": webhook_config,
    "batching-config": batching_config,
    "prometheus-config": prometheus_config,
    "prometheus-metrics": prometheus_metrics,
    "resource-monitor-config": resource_monitor_config,
}


def _keys(model: type[BaseModel], keys: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return each key of a model with its default and its meaning."""
    fields = model.model_fields.values()
    return [
        (_code(key), *_default_and_meaning(key, field))
        for key, field in zip(keys, fields, strict=True)
    ]


def _definitions(items: Iterable[tuple[str, str, str]]) -> str:
    """Return a definition list, which fits any screen: the key and its default, below them the meaning."""
    lines = []
    for key, default, meaning in items:
        lines += [f"{key} : {default}", f"   {meaning}", ""]
    return "\n".join(lines)


def _default_and_meaning(name: str, field: FieldInfo) -> tuple[str, str]:
    if not field.description:
        raise ValueError(f"the setting {name!r} has no description")
    choices = [
        _code(str(choice)) for choice in get_args(field.annotation) if isinstance(choice, str)
    ]
    meaning = _sentence(field.description)
    if choices:
        meaning += f" One of {', '.join(choices)}."
    if bounds := _bounds(field):
        meaning += f" {bounds}"
    return _default(name, field), meaning


def _default(name: str, field: FieldInfo) -> str:
    if name == "state_dir":  # differs between users: shown with the home directory left open
        path = Path(platformdirs.user_state_dir("lva", appauthor=False))
        home = Path.home()
        return _code(f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path))
    if field.is_required():
        return "(required)"
    value: Any = field.get_default(call_default_factory=True)
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return _code(str(value).lower())
    if isinstance(value, dict | tuple):
        return ", ".join(_code(str(item)) for item in value) or "(empty)"
    if isinstance(value, int | float):
        return _code(f"{value:_}" if isinstance(value, int) and value >= 10_000 else f"{value:g}")
    return _code(str(value))


def _bounds(field: FieldInfo) -> str:
    least = [
        f"at least {item.ge:,}" for item in field.metadata if getattr(item, "ge", None) is not None
    ]
    least += [
        f"more than {item.gt:,}" for item in field.metadata if getattr(item, "gt", None) is not None
    ]
    most = [
        f"at most {item.le:,}" for item in field.metadata if getattr(item, "le", None) is not None
    ]
    text = ", ".join([*least, *most])
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    for row in [header, *rows]:
        lines += [f"   {'* -' if at == 0 else '  -'} {cell}" for at, cell in enumerate(row)]
    return "\n".join([*lines, ""])


def _code(text: str) -> str:
    return f"``{text}``"


def _sentence(text: str) -> str:
    text = re.sub(r"\b(GET:/\w+)", r"``\1``", text.strip())
    text = text[:1].upper() + text[1:]
    for word in ("initialize()", "__init__()", "close()", "handleEvent()", "restart_window", "max_restarts",
                 "batch_size", "shutdown_timeout", "close_timeout", "handle_timeout", "self.config",
                 "/readyz"):  # fmt: skip
        text = re.sub(rf"(?<![\w:/`]){re.escape(word)}", _code(word), text)
    return text if text.endswith(".") or not text else f"{text}."
