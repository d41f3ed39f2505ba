"""Options that several commands share, and how their output looks."""

from __future__ import annotations

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
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_options(command: _Command) -> _Command:
    """Add the options that say which plugins there are: ``--config``, ``--plugins-dir``, ``--active``."""
    for option in (_ACTIVE, _PLUGINS_DIR, _CONFIG):
        command = option(command)
    return command


def print_json(value: Any) -> None:
    """Print a value as JSON, with secrets masked."""
    from lva.logs import redact  # late: it is not needed for `lva --help`

    click.echo(redact(json.dumps(value, indent=2, ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: as wide as the terminal, or as wide as it needs to be where there is none."""
    from rich.box import SIMPLE_HEAD  # late: only needed where a table is printed
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, no_wrap=at == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def printable(text: str) -> str:
    """Return text of somebody else's for a terminal: in one line, without control characters or secrets."""
    from lva.logs import redact

    return "".join(char if char.isprintable() else " " for char in redact(text))


def short_path(path: Path) -> str:
    """Return a path as people would write it here."""
    for base, shown in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(base):
            return f"{shown}{path.relative_to(base)}"
    return str(path)
