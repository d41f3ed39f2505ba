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
    from lva.check.plugins import CheckReport
    from lva.contract import Published
    from lva.errors import PluginProblem
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

    FILE is a plugin file, a package or a directory of plugins, NAME a plugin as in ACTIVE_PLUGINS; without
    either, the active plugins of the settings are checked, and the settings too. The plugins' modules are
    executed, as the service does when it starts; without --run or --points, nothing of them is started.

    Exit codes: 0 nothing is wrong, though there may be warnings; 1 something is; 2 nothing could be
    checked: wrong usage, or settings that do not say where the plugins are.
    """
    from lva.check.plugins import check_plugins
    from lva.host.loading.load import active_names, finder_for, settings_problems
    from lva.settings import SettingsError, load_settings
    from lva.settings.sources import settings_file

    sample = _points(points) if points is not None else None
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
    names = _expanded(targets, settings) or active_names(settings)
    if not targets:
        wrong = [*wrong, *settings_problems(settings, finder_for(settings))]
    reports = check_plugins(names, settings, settings_file(config))
    _run(reports, settings, run, sample)
    (_print_json if as_json else _print)(reports, wrong)
    sys.exit(EXIT_PROBLEMS if wrong or not all(report.ok for report in reports) else EXIT_OK)


def _points(path: Path) -> list[Published]:
    """Read the points to send; a file without is wrong usage."""
    from lva.check.running import read_points
    from lva.errors import ConfigurationError

    try:
        return read_points(path)
    except ConfigurationError as error:
        raise click.UsageError("\n".join(map(printable, error.problems))) from error


def _run(
    reports: Sequence[CheckReport],
    settings: Settings,
    run: bool,
    points: list[Published] | None,
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


def _expanded(targets: Sequence[str], settings: Settings) -> list[str]:
    """Return the targets, with the plugins in place of a directory of plugins.

    Raises:
        click.UsageError: There is nothing at a path, or no plugin in it: most likely a slip of the pen.
    """
    from lva.host.loading.finder import PLUGIN_NAME
    from lva.host.loading.load import finder_for

    available = finder_for(settings).available() if targets else set()
    names = []
    for target in targets:
        path = Path(target)
        stem = target.removesuffix(".py")
        if stem in available and not path.is_file():
            names.append(target)
        elif path.is_dir() and not (path / "__init__.py").exists():
            names += _plugins_in(path)
        elif path.exists() or (target == stem and PLUGIN_NAME.fullmatch(stem)):
            names.append(target)  # a name that is unknown is a problem like any other
        else:
            raise click.UsageError(f"{target}: there is no such file, and it is no plugin's name")
    return names


def _plugins_in(directory: Path) -> list[str]:
    """Return the paths of a directory's plugins, without files that only help them."""
    from lva.check.plugins import kind_by_text, sources_of
    from lva.host.loading.finder import PluginFinder

    finder = PluginFinder([directory.absolute()], installed=())
    names = []
    for name in sorted(finder.available()):
        place = finder.locate(name)
        sources, unread = sources_of(place)
        if kind_by_text(sources) is not None or unread:
            file = directory / place.path.relative_to(directory.absolute())
            names.append(str(file.parent if file.name == "__init__.py" else file))
    if not names:
        raise click.UsageError(f"{directory}: there is no plugin in this directory")
    return names


def _print_json(reports: Sequence[CheckReport], wrong: Sequence[str]) -> None:
    print_json(
        {
            "ok": not wrong and all(report.ok for report in reports),
            "settings": list(wrong),
            "plugins": [report.as_dict() for report in reports],
        }
    )


def _print(reports: Sequence[CheckReport], wrong: Sequence[str]) -> None:
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
        ("plugin", "kind", "runtime", "result"),
        [
            (report.name, report.kind or "", report.runtime or "", _result(report))
            for report in reports
        ],
    )


def _line(report: CheckReport, problem: PluginProblem) -> str:
    """Return a problem as compilers write theirs, so that editors find the place."""
    place = report.name
    if problem.file is not None:
        line = f":{problem.line}" if problem.line is not None else ""
        place = f"{short_path(problem.file)}{line}"
    text = "\n".join(map(printable, problem.text.split("\n")))
    return f"{printable(place)}: {problem.level}: {text} [{problem.code}]"


def _result(report: CheckReport) -> str:
    counts = {
        level: sum(problem.level == level for problem in report.problems)
        for level in ("error", "warning")
    }
    said = [f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items() if count]
    return ", ".join(said) or "ok"
