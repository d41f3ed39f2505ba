"""`lva check`: what is wrong with plugins, before they are deployed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
    from lva.check.plugins import Report
    from lva.errors import Problem
    from lva.points import MonitoringPoint
    from lva.settings import Settings

EXIT_OK: Final = 0
EXIT_PROBLEMS: Final = 1
EXIT_USAGE: Final = 2


@click.command(short_help="Say what is wrong with plugins.")
@click.argument("targets", nargs=-1, metavar="[FILE|NAME]...")
@settings_options
@click.option(
    "--run", is_flag=True, help="Put them through the life-cycle contract, in virtual time."
)
@click.option(
    "--points",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Send the points of a file, one JSON object a line, through the event plugins.",
)
@json_option
def check(
    targets: Sequence[str],
    config: Path | None,
    run: bool,
    points: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Report everything that is wrong with plugins, without a running service.

    FILE is a plugin file or package directory, NAME a plugin as in ACTIVE_PLUGINS; without either, the
    active plugins of the settings are checked, and the settings too. The plugins' modules are executed, as
    the service does when it starts; without --run or --points, nothing of them is started.

    Exit codes: 0 nothing is wrong, though there may be warnings; 1 something is; 2 nothing could be
    checked: wrong usage, or settings that do not say where the plugins are.
    """
    from lva.check.plugins import check_plugins
    from lva.host.loading import active_names
    from lva.settings import SettingsError, load_settings

    sample = _points(points) if points is not None else None
    _refuse_missing(targets)
    wrong: list[str] = []
    try:
        settings = load_settings({key: value for key, value in options.items() if value}, config)
    except SettingsError as error:
        wrong = error.problems
        if error.partial is None:
            for problem in wrong:
                click.echo(f"lva check: {printable(problem)}", err=True)
            sys.exit(EXIT_USAGE)
        settings = error.partial
    names = targets or active_names(settings)
    if not targets:
        wrong = [*wrong, *_settings_problems(settings)]
    reports = check_plugins(names, settings, _settings_file(config))
    _run(reports, settings, run, sample)
    (_print_json if as_json else _print)(reports, wrong)
    sys.exit(EXIT_PROBLEMS if wrong or not all(report.ok for report in reports) else EXIT_OK)


def _points(path: Path) -> list[MonitoringPoint]:
    """Read the points to send; a file without is wrong usage."""
    from lva.check.running import read_points
    from lva.errors import ConfigurationError

    try:
        return read_points(path)
    except ConfigurationError as error:
        raise click.UsageError("\n".join(map(printable, error.problems))) from error


def _run(
    reports: Sequence[Report], settings: Settings, run: bool, points: list[MonitoringPoint] | None
) -> None:
    """Do what `--run` and `--points` ask for, with those plugins that can be loaded."""
    if not run and points is None:
        return
    from lva.check.running import run_contract, send_points

    with redirect_stdout(sys.stderr):
        for report in reports:
            if report.loaded is None:
                report.notes.append("not run")
                continue
            if run:
                run_contract(report, settings)
            if points is not None and "event" in report.loaded.kind:
                send_points(report, settings, points)
            elif points is not None:
                report.notes.append("no event plugin, so it gets no points")


def _refuse_missing(targets: Sequence[str]) -> None:
    """Refuse paths at which there is nothing: most likely slips of the pen."""
    from lva.host.finder import PLUGIN_NAME

    for target in targets:
        path = Path(target)
        if PLUGIN_NAME.fullmatch(target.removesuffix(".py")) and not path.is_file():
            continue  # a name: if there is no such plugin, that is a problem like any other
        if not path.exists():
            raise click.UsageError(f"{target}: there is no such file, and it is no plugin's name")
        if path.is_dir() and not (path / "__init__.py").exists():
            raise click.UsageError(
                f"{target}: is a directory without an __init__.py, so no plugin; give the files in it"
            )


def _settings_file(config: Path | None) -> Path | None:
    from lva.sources import settings_file

    return settings_file(config)


def _settings_problems(settings: Settings) -> list[str]:
    """Return what is wrong with what the settings say of plugins."""
    from lva.host.loading import finder_for, settings_problems

    return settings_problems(settings, finder_for(settings))


def _print_json(reports: Sequence[Report], wrong: Sequence[str]) -> None:
    print_json(
        {
            "ok": not wrong and all(report.ok for report in reports),
            "settings": list(wrong),
            "plugins": [report.as_dict() for report in reports],
        }
    )


def _print(reports: Sequence[Report], wrong: Sequence[str]) -> None:
    for text in wrong:
        click.echo(f"settings: error: {printable(text)}")
    for report in reports:
        for problem in report.problems:
            click.echo(_line(report, problem))
        for note in report.notes:
            click.echo(f"{report.name}: {note}")
    if not reports:
        click.echo("no plugin is active, and none was named")
        return
    print_table(
        ("plugin", "kind", "style", "result"),
        [
            (report.name, report.kind or "", report.runtime or "", _result(report))
            for report in reports
        ],
    )


def _line(report: Report, problem: Problem) -> str:
    """Return a problem as compilers write theirs, so that editors find the place."""
    place = report.name
    if problem.file is not None:
        line = f":{problem.line}" if problem.line is not None else ""
        place = f"{short_path(problem.file)}{line}"
    text = "\n".join(map(printable, problem.text.split("\n")))
    return f"{printable(place)}: {problem.level}: {text} [{problem.code}]"


def _result(report: Report) -> str:
    counts = {
        level: sum(problem.level == level for problem in report.problems)
        for level in ("error", "warning")
    }
    said = [f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items() if count]
    return ", ".join(said) or "ok"
