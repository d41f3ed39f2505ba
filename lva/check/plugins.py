"""All that is wrong with some plugins, at once: what the host refuses, and what their source shows."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lva import luna
from lva.check.analytics import analytics_problems
from lva.check.calls import call_problems
from lva.check.contract import contract_problems
from lva.check.routes import Adding, addings, route_problems
from lva.check.source import PluginSource
from lva.contract import RuntimeName
from lva.errors import PluginProblem
from lva.host.loading.finder import PLUGIN_NAME, PluginFileError, PluginFinder, PluginLocation
from lva.host.loading.load import (
    SHIPPED_DIR,
    LoadedPlugin,
    RunsIn,
    active_names,
    finder_for,
    load_plugin,
)
from lva.settings import Settings


@dataclass
class CheckReport:
    """What was found out about one plugin.

    Attributes:
        name: Its name, or what was given in place of one.
        file: Its file; None if there is none.
        problems: All that is wrong with it, in the order of the lines.
        loaded: The plugin as the host has it; None if the host refuses it.
        sources: Its files, as far as they are Python.
        directory: A directory that it is in besides those of the settings.
        notes: What came of running it.
    """

    name: str
    file: Path | None = None
    problems: list[PluginProblem] = field(default_factory=list)
    loaded: LoadedPlugin | None = None
    sources: list[PluginSource] = field(default_factory=list)
    directory: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what only looks wrong does not count."""
        return not any(problem.level == "error" for problem in self.problems)

    @property
    def kind(self) -> str | None:
        """Its kind, as the host says or else the source; None if neither can tell."""
        return self.loaded.kind if self.loaded else kind_by_text(self.sources)

    @property
    def runtime(self) -> RunsIn | None:
        """Where its code runs, as the host says or else the source; None if neither can tell."""
        return self.loaded.runs_in if self.loaded else runtime_by_text(self.sources)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "plugin": self.name,
            "file": str(self.file) if self.file else None,
            "ok": self.ok,
            "kind": self.kind,
            "runtime": self.runtime,
            "notes": self.notes,
            "problems": [
                {
                    "level": problem.level,
                    "code": problem.code,
                    "file": str(problem.file) if problem.file else None,
                    "line": problem.line,
                    "message": problem.text,
                }
                for problem in self.problems
            ],
        }


def check_plugins(
    targets: Sequence[str], settings: Settings, settings_file: Path | None = None
) -> list[CheckReport]:
    """Look at plugins as the host would load them, and at their source.

    Their modules are executed, as the service does before it starts; no instance is made, and nothing is
    written. What they print goes to standard error.

    Args:
        targets: Names, as in `ACTIVE_PLUGINS`, or paths of files and package directories.
        settings: Where plugins are, and their tables.
        settings_file: The file that the settings are from, for the lines of wrong keys.
    """
    reports = [_located(target) for target in targets]
    with redirect_stdout(sys.stderr):
        for directory in dict.fromkeys(report.directory for report in reports):
            finder = _finder(settings, directory)
            finder.install()
            luna.install()
            for report in reports:
                if report.directory == directory:
                    _check(report, finder, settings, settings_file)
    _check_routes(reports, settings)
    for report in reports:
        report.problems = sorted(dict.fromkeys(report.problems), key=_order)
    return reports


def sources_of(place: PluginLocation) -> tuple[list[PluginSource], list[PluginProblem]]:
    """Return a plugin's files, read as text, and a problem for each that is not Python."""
    paths = [place.path]
    if place.path.name == "__init__.py":
        paths = sorted(place.path.parent.rglob("*.py"))
    sources, problems = [], []
    for path in paths:
        try:
            sources.append(PluginSource(path, path.read_bytes()))
        except SyntaxError as error:
            problems.append(PluginProblem(str(error.msg), path, error.lineno, "syntax"))
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            problems.append(PluginProblem(f"cannot be read: {error}", path))
    return sources, problems


def addings_of(sources: Iterable[PluginSource], plugin: str) -> list[Adding]:
    """Return the routes that a plugin's files add."""
    return [adding for source in sources for adding in addings(source, plugin)]


def _finder(settings: Settings, directory: Path | None) -> PluginFinder:
    """Return the service's finder, with one more directory unless it is one of the service's."""
    known = [item.resolve() for item in (*settings.plugins_dir, SHIPPED_DIR) if item.exists()]
    if directory is None or directory.resolve() in known:
        return finder_for(settings)
    return finder_for(settings, directory)


def kind_by_text(sources: Iterable[PluginSource]) -> str | None:
    """Return a plugin's kind as far as its source tells: a base class from elsewhere leaves it open."""
    kinds = {
        kind for source in sources for cls in source.classes.values() for kind in source.kinds(cls)
    }
    return "+".join(sorted(kinds - {"handler"}, reverse=True)) or None


def runtime_by_text(sources: Sequence[PluginSource]) -> RunsIn | None:
    """Return where a plugin's code runs, as far as its source tells."""
    if kind_by_text(sources) == "analytics":
        return "worker"
    for source in sources:
        for cls in source.classes.values():
            if source.kinds(cls) - {"handler"}:
                return source.style(cls)
    return None


def _located(target: str) -> CheckReport:
    """Return an empty report for a name or a path."""
    path = Path(target)
    if PLUGIN_NAME.fullmatch(target.removesuffix(".py")) and not path.is_file():
        return CheckReport(target.removesuffix(".py"))
    path = path.absolute()
    if path.name == "__init__.py":
        path = path.parent
    return CheckReport(path.stem if path.suffix == ".py" else path.name, directory=path.parent)


def _check(
    report: CheckReport, finder: PluginFinder, settings: Settings, settings_file: Path | None
) -> None:
    unread: list[PluginProblem] = []
    try:
        if PLUGIN_NAME.fullmatch(report.name):
            place = finder.locate(report.name)
            report.file = place.path
            report.sources, unread = sources_of(place)
        with _arguments_of(report.name):
            report.loaded = load_plugin(report.name, settings, finder)
    except PluginFileError as error:
        asked = _is_asked_for(report.name, settings)
        for problem in error.problems:
            for part in _configuration_lines(problem, settings_file):
                report.problems.append(part if asked else _as_reminder(part, report.name))
    # The host says it of what it imports; a module that nothing imports would go unseen.
    told = {problem.file for problem in report.problems}
    report.problems += [problem for problem in unread if problem.file not in told]
    package = {source.path: source for source in report.sources}
    for source in report.sources:
        style: RuntimeName = "asyncio" if report.runtime == "asyncio" else "trio"
        try:
            report.problems += _not_ignored(contract_problems(source, style), report.sources)
            report.problems += _not_ignored(analytics_problems(source), report.sources)
            report.problems += _not_ignored(call_problems(source, style, package), report.sources)
        except RecursionError:
            said = "nested too deeply to be looked at"
            report.problems.append(PluginProblem(said, source.path, None, "file", "warning"))


def _is_asked_for(name: str, settings: Settings) -> bool:
    """Return whether the settings say anything of a plugin."""
    return name in active_names(settings) or name.lower() in map(str.lower, settings.plugins)


def _as_reminder(problem: PluginProblem, name: str) -> PluginProblem:
    """Turn what is missing in a configuration into a warning, where nobody has written one yet."""
    if problem.code != "config":
        return problem
    said = f"{problem.text}; the settings have no [plugins.{name}.config] yet"
    return replace(problem, text=said, level="warning")


@contextmanager
def _arguments_of(name: str) -> Iterator[None]:
    """Hide the command's arguments from a module that looks at them."""
    before, sys.argv = sys.argv, [name]
    try:
        yield
    finally:
        sys.argv = before


def _check_routes(reports: Sequence[CheckReport], settings: Settings) -> None:
    from lva.web.resources.table import RESOURCES

    own = {report.name: addings_of(report.sources, report.name) for report in reports}
    if not any(own.values()):
        return
    found = route_problems(own, _routes_of_others(own, settings), [item.path for item in RESOURCES])
    for report in reports:
        # Two targets may have one name, and a problem is told once.
        report.problems += _not_ignored(found.pop(report.name, ()), report.sources)


def _routes_of_others(names: Iterable[str], settings: Settings) -> dict[str, list[Adding]]:
    """Return the routes of the active plugins that were not asked for, from their source alone."""
    finder = finder_for(settings)
    routes: dict[str, list[Adding]] = {}
    for name in active_names(settings):
        if name not in names and PLUGIN_NAME.fullmatch(name):
            try:
                routes[name] = addings_of(sources_of(finder.locate(name))[0], name)
            except PluginFileError:
                continue  # it is not what was asked about
    return routes


def _configuration_lines(problem: PluginProblem, file: Path | None) -> list[PluginProblem]:
    """Split what is wrong with a configuration into its keys, each with its line in the settings file."""
    if problem.code != "config" or not problem.text.startswith("its configuration is wrong:"):
        return [problem]
    keys = [line.strip() for line in problem.text.splitlines()[1:]]
    text = ""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            file = None
    return [PluginProblem(key, *_place_in(text, key, file), "config") for key in keys]


def _place_in(text: str, problem: str, file: Path | None) -> tuple[Path | None, int | None]:
    """Return where in the settings file a problem's key is, if it is there."""
    match = re.match(r"(plugins\.\w+\.config)(?:\.([\w-]+))?[.:]", problem)
    if match is None or file is None:
        return None, None
    line = toml_line(text, match[1], match[2] or "")
    return (file, line) if line is not None else (None, None)


def toml_line(text: str, table: str, key: str) -> int | None:
    """Return the line of a key of a table in a TOML file; else the table's; None if it has no such table."""
    current, found = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\[\]]+)\]", line):
            current = re.sub(r"[\s\"']", "", header[1])
            if current.casefold() == table.casefold():
                found = number
        elif pair := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            name = re.sub(r"[\"']", "", pair[1])
            full = f"{current}.{name}" if current else name
            if full.casefold() == f"{table}.{key}".casefold():
                return number
            if full.casefold() == table.casefold():
                found = number
    return found


def _not_ignored(
    problems: Iterable[PluginProblem], sources: Iterable[PluginSource]
) -> Iterator[PluginProblem]:
    """Leave out what a comment lets pass."""
    by_path = {source.path: source for source in sources}
    for problem in problems:
        source = by_path.get(problem.file) if problem.file is not None else None
        if source is None or not source.ignores(problem.line, problem.code):
            yield problem


def _order(problem: PluginProblem) -> tuple[str, int, bool]:
    return str(problem.file or ""), problem.line or 0, problem.level == "warning"
