"""`lva plugins`: what there is, and where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lva.commands.options import (
    json_option,
    print_json,
    print_table,
    printable,
    settings_options,
    short_path,
)

if TYPE_CHECKING:
    from lva.check.plugins import CheckReport
    from lva.host.loading.finder import PluginFinder, PluginLocation
    from lva.settings import Settings


@click.command(short_help="List the plugins.")
@settings_options
@json_option
def plugins(config: Path | None, as_json: bool, **options: Any) -> None:
    """List the plugins: what is found where, enabled or not, and what is wrong with it.

    Plugins that are enabled are loaded as the service loads them; of the others only the source is read.
    Exit codes: 0, also if a plugin has problems; 2 wrong settings.
    """
    from lva.errors import ConfigurationError
    from lva.host.loading.load import finder_for, settings_problems
    from lva.settings import load_settings

    try:
        settings = load_settings({key: value for key, value in options.items() if value}, config)
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"lva: {printable(problem)}", err=True)
        sys.exit(2)
    found = list(_listed(settings))
    wrong = settings_problems(settings, finder_for(settings))
    if as_json:
        print_json({"settings": wrong, "plugins": found})
        return
    print_table(
        ("name", "enabled", "kind", "runtime", "file", "summary"),
        [
            (
                item["name"],
                "yes" if item["enabled"] else "",
                item["kind"] or "",
                item["runtime"] or "",
                _origin(item),
                item["summary"],
            )
            for item in found
        ],
    )
    for text in wrong:
        click.echo(f"settings: {printable(text)}")
    for item in found:
        for problem in item["problems"]:
            click.echo(f"{item['name']}: {printable(problem)}")


def _origin(item: dict[str, Any]) -> str:
    """Return where a plugin is, shortly: the paths of what is installed are long, and nobody edits it."""
    if item["origin"] == "plugins_dir":
        return short_path(Path(item["file"]))
    return f"({item['origin']})" if item["origin"] else ""


def _listed(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield a description of each plugin: the enabled ones in their order, then the others by name."""
    from lva.check.plugins import check_plugins
    from lva.host.loading.load import active_names, finder_for

    enabled = active_names(settings)
    finder = finder_for(settings)
    for report in check_plugins(enabled, settings):
        yield _described(report.name, True, finder, report)
    for name in sorted(finder.available() - {*enabled}):
        described = _described(name, False, finder, None)
        if described["kind"] is not None or described["problems"]:
            yield described
    for plugin in finder.installed:
        if not plugin.name.isidentifier() or not plugin.name.isascii():
            why = (
                f"the entry point of the installed package {plugin.distribution} is no plugin name: letters,"
                " digits and underscores, not starting with a digit"
            )
            yield _row(plugin.name, False) | {"problems": [why]}


def _described(
    name: str, enabled: bool, finder: PluginFinder, report: CheckReport | None
) -> dict[str, Any]:
    """Describe a plugin; one that is not enabled from its source alone."""
    from lva.check.plugins import kind_by_text, runtime_by_text, sources_of
    from lva.host.loading.finder import PluginFileError

    row = _row(name, enabled)
    row["problems"] = [
        str(problem) for problem in (report.problems if report else ()) if problem.level == "error"
    ]
    try:
        place = finder.locate(name)
    except PluginFileError as error:
        row["problems"] = row["problems"] or [str(problem) for problem in error.problems]
        return row
    row |= {"file": str(place.path), "origin": _origin_of(place)}
    sources, unread = sources_of(place)
    row["summary"] = next((source.summary for source in sources if source.summary), "")
    if report is not None:
        row |= {"kind": report.kind, "runtime": report.runtime}
        return row
    row |= {"kind": kind_by_text(sources), "runtime": runtime_by_text(sources)}
    refusal = finder.refusal(place)
    row["problems"] += map(str, [*unread, *([refusal] if refusal is not None else [])])
    return row


def _origin_of(place: PluginLocation) -> str:
    from lva.host.loading.load import SHIPPED_DIR

    if place.distribution is not None:
        return place.distribution
    return "shipped" if place.directory == SHIPPED_DIR else "plugins_dir"


def _row(name: str, enabled: bool) -> dict[str, Any]:
    return {
        "name": name,
        "enabled": enabled,
        "kind": None,
        "runtime": None,
        "file": None,
        "origin": None,
        "summary": "",
        "problems": [],
    }
