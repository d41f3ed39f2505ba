"""Options that several commands share, and how their output looks."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_CONFIG: Final = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The settings file (lva.toml, if there is one).",
)
_PLUGINS_DIR: Final = click.option(
    "--plugins-dir",
    "plugins_dir",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A directory with plugins; may be repeated.",
)
_ACTIVE: Final = click.option(
    "--active",
    "active_plugins",
    multiple=True,
    metavar="NAME",
    help="A plugin that runs; may be repeated.",
)
#: Columns of a table: how far apart, the least for the last one, and all of them where there is no terminal.
_GAP: Final = 3
_LEAST: Final = 30
_WIDE: Final = 400
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_options(command: _Command) -> _Command:
    """Add the options that say which plugins there are: ``--config``, ``--plugins-dir``, ``--active``."""
    for option in (_ACTIVE, _PLUGINS_DIR, _CONFIG):
        command = option(command)
    return command


def print_json(value: Any) -> None:
    """Print a value as JSON, with secrets masked."""
    from lva.logs.loggers import redact  # late: it is not needed for `lva --help`

    click.echo(redact(json.dumps(value, indent=2, ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: as wide as the terminal, where the last column is cut short, or as wide as it needs.

    In a narrow terminal, the last cell of each row stands below the others.

    Args:
        columns: The headings.
        rows: The cells; only those of the last column may be long.
    """
    from rich.box import SIMPLE_HEAD  # late: only needed where a table is printed
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(cell) for cell in row] for row in rows]
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    room = console.width - sum(
        max(len(row[at]) for row in [columns, *cells]) + _GAP for at in range(len(columns) - 1)
    )
    if room < _LEAST:
        _print_in_two_lines([columns, *cells], console.width)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row[:-1]), Text(_cut(row[-1], room)))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _print_in_two_lines(rows: Sequence[Sequence[str]], width: int) -> None:
    """Print rows for which the terminal is too narrow: the last cell of each on a line of its own."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(room) for cell, room in zip(row[:-1], widths, strict=True)]
        click.echo("  ".join(cells).rstrip())
        click.echo(_cut(f"    {row[-1]}".rstrip(), width))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def printable(text: str) -> str:
    """Return text of somebody else's for a terminal: in one line, without control characters or secrets."""
    from lva.logs.loggers import redact

    return "".join(char if char.isprintable() else " " for char in redact(text))


def short_path(path: Path) -> str:
    """Return a path as people would write it here."""
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    with contextlib.suppress(RuntimeError):  # not every user has a home directory
        return (
            f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
        )
    return str(path)
