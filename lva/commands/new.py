"""`lva new`: a plugin to begin with, and its test."""

from __future__ import annotations

import json
import keyword
import os
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final

import click

from lva.events.types import EVENT_TYPES

#: Names that the files use, which the plugin's class cannot have too.
_USED: Final = frozenset(
    ("AnalyticsEvent", "AnalyticsStream", "Any", "BaseAnalyticsPlugin", "BaseModel", "Frame", "Iterator",
     "Config", "Counter", "Field", "Path", "MonitoringPoint", "PluginResponse", "StreamEvent",
     "StreamAnalyticsEvent",
     "BaseBackgroundPlugin", "BaseEventPlugin", "None", "True", "False")
)  # fmt: skip


#: The kinds of plugins, as `lva plugins` names them.
KINDS: Final = ("event", "background", "event+background", "analytics")


@click.command(short_help="Write a plugin and its test.")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="What it is; analytics plugins look at the frames of streams.",
)
@click.option("--event", is_flag=True, help="It handles points: an event plugin.")
@click.option(
    "--background",
    is_flag=True,
    help="It works in the background and serves a route; so it does if neither is said.",
)
@click.option(
    "--event-type",
    type=click.Choice([*EVENT_TYPES]),
    help="What an event plugin gets: points, changes of streams, or what analytics plugins see.",
)
@click.option("--asyncio", is_flag=True, help="It is written for asyncio, not for Trio.")
@click.option(
    "--package",
    is_flag=True,
    help="Make a package that can be installed, in a directory of its own.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the plugin, or its package's directory, is put (plugins; with --package here).",
)
@click.option(
    "--tests",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its test is put (tests; with --package the package's own).",
)
def new(
    name: str,
    kind: str | None,
    event: bool,
    background: bool,
    event_type: str | None,
    asyncio: bool,
    package: bool,
    directory: Path | None,
    tests: Path | None,
) -> None:
    """Write a plugin NAME to begin with, and its test, which both pass at once.

    No file is overwritten. Exit codes: 0 written; 2 the name cannot be used, or a file exists.
    """
    event = event or (event_type is not None and kind is None)
    template = _template(kind, event, background, asyncio)
    if event_type is not None and template not in {"event", "both"}:
        raise click.UsageError("--event-type is for event plugins")
    root = (directory or Path()) / name if package else directory or Path("plugins")
    plugin = root / name / "__init__.py" if package else root / f"{name}.py"
    test = (tests or (root / "tests" if package else Path("tests"))) / f"test_{name}.py"
    why = _unusable(name, package, root) or (
        _taken_path(name) if template in {"background", "both"} else None
    )
    if why is not None:
        raise click.UsageError(why)
    target = plugin.parent if package else plugin
    values = {
        **_values(name, template, asyncio, os.path.relpath(target, test.parent)),
        **_event_values(event_type or "monitoring_event"),
    }
    contents = {plugin: f"{template}.py", test: f"test_{template}.py"}
    if package:
        contents |= {root / "pyproject.toml": "pyproject.toml", root / "README.md": "README.md"}
    _write({path: _filled(template, values) for path, template in contents.items()})
    _tell(name, template, target, test, root if package else None)


def _template(kind: str | None, event: bool, background: bool, asyncio: bool) -> str:
    """Return which template is asked for."""
    if kind is not None and (event or background):
        raise click.UsageError("say --kind, or --event and --background; not both")
    if kind == "analytics" and asyncio:
        raise click.UsageError(
            "an analytics plugin is no asyncio plugin: its methods are plain functions; leave --asyncio out"
        )
    if kind is not None:
        return "both" if kind == "event+background" else kind
    return "both" if event and background else "event" if event else "background"


def _installed_module(name: str) -> str | None:
    """Return the file of the module that a package of this name would hide, or be hidden by."""
    spec = PathFinder.find_spec(name)
    return None if spec is None else spec.origin  # a mere directory has none


def _unusable(name: str, package: bool, root: Path) -> str | None:
    """Say why a plugin of this name cannot be made here, and what to do."""
    from lva.host.loading.finder import PLUGIN_NAME, PluginFileError, PluginFinder
    from lva.host.loading.load import SHIPPED_DIR

    if not PLUGIN_NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("__"):
        return (
            f"{name!r} is no plugin name: letters, digits and underscores, not starting with a digit,"
            " and not a Python keyword"
        )
    if package and (name == "lva" or name in sys.stdlib_module_names):
        return f"{name!r} is the name of a module of Python or LVA; choose another for a package"
    if package and (module := _installed_module(name)):
        return (
            f"{name!r} is the name of an installed module, {module}; choose another for a package"
        )
    try:
        taken = PluginFinder([SHIPPED_DIR, *([] if package else [root.absolute()])]).places(name)
    except PluginFileError as error:
        return str(error)
    if taken:
        return f"the name {name!r} is taken by {taken[0]}; choose another"
    return None


def _taken_path(name: str) -> str | None:
    """Say why the plugin's route cannot have its name."""
    from lva.web.resources.table import RESOURCES

    if name in {item.path.split("/")[1] for item in RESOURCES}:
        return f"the plugin would serve /{name}, which belongs to the service; choose another name"
    return None


def _values(name: str, template: str, asyncio: bool, path: str) -> Mapping[str, str]:
    """Return what the templates leave open."""
    words = re.findall(r"[A-Za-z0-9]+", name) or ["plugin"]
    cls = "".join(word[0].upper() + word[1:] for word in words)
    if cls in _USED or not cls[0].isalpha():
        cls = f"Plugin{cls}"
    return {
        "name": name,
        "dashed": "-".join(words).lower(),
        "cls": cls,
        "summary": " ".join(words).capitalize(),
        "path": path,
        "extra": "[video]" if template == "analytics" else "",
        "loop": "asyncio" if asyncio else "trio",
        "stdlib": "import asyncio\n" if asyncio else "",
        "third": "" if asyncio else "import trio\n",
        "runtime": '\n    runtime = "asyncio"' if asyncio else "",
    }


def _event_values(name: str) -> Mapping[str, str]:
    """Return what the templates of event plugins leave open."""
    item = EVENT_TYPES[name].item.__name__
    of_points = name == "monitoring_event"
    return {
        "event_name": name,
        "item": item,
        "things": "points" if of_points else "events",
        "Things": "Points" if of_points else "Events",
        "one": "point" if of_points else "event",
        "key": "series" if of_points else "event_type",
        "keys": "series" if of_points else "type",
        "five": "5" if of_points else f'5, event="{name}"',
        "point_import": f"    {item},\n" if of_points else "",
        "event_import": "" if of_points else f"    {item},\n",
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = files("lva").joinpath("scaffold", f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _write(contents: Mapping[Path, str]) -> None:
    """Write files, all or none; each may be changed by its owner alone, whatever the umask is."""
    if there := [path for path in contents if os.path.lexists(path)]:
        shown = ", ".join(map(str, there))
        raise click.UsageError(f"{shown}: exists already; nothing was written")
    try:
        for path, text in contents.items():
            for parent in reversed([path.parent, *path.parent.parents]):
                if not parent.exists():
                    parent.mkdir(mode=0o755)
            with path.open("x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(text)
    except OSError as error:
        raise click.UsageError(f"{error.filename or path}: {error.strerror}") from error
    for path in contents:
        click.echo(f"wrote {path}")


def _tell(name: str, template: str, target: Path, test: Path, root: Path | None) -> None:
    """Say what to do next."""
    from lva.settings import EMBEDDED_PLUGINS

    needed = ("streams",) if template == "analytics" else ()
    active = " ".join(f"--active {one}" for one in (*EMBEDDED_PLUGINS, *needed, name))
    steps = [("check it", f"lva check {_quoted(target)}"), ("test it", f"pytest {_quoted(test)}")]
    if root is not None:
        steps.append(("install it", f"pip install -e {_quoted(root)}"))
        steps.append(("enable it", f"lva run {active}"))
    else:
        run = f"lva run --plugins-dir {_quoted(target.parent)} {active}"
        steps.append(("enable it", run))
    for what, command in steps:
        click.echo(f"{what + ':':<12}{command}")
    if template == "analytics":
        definition = json.dumps({"name": "try", "source": "test:", "analytics": [{"name": name}]})
        click.echo(f"use it:     curl -d {shlex.quote(definition)} 127.0.0.1:5240/streams")
    if template == "analytics" and find_spec("av") is None:
        click.echo("it needs the extra `video`: pip install '/path/to/lva[video]'")
    if find_spec("pytest_trio") is None:
        click.echo("its test needs the extra `testing`: pip install '/path/to/lva[testing]'")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
