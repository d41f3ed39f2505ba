"""The commands that talk to a running service: status, start, stop, restart, reload, top, tap."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from lva.client.target import Target, targeted

if TYPE_CHECKING:
    from rich.console import Console

ACTIONS: Final = {
    "start": "Start a plugin that was stopped or has given up.",
    "stop": "Stop a plugin; its points wait for its next start.",
    "restart": "Stop a plugin and start it anew.",
    "reload": "Load a plugin's file anew and start it with that. A broken file changes nothing.",
}
#: How wide lines may be that nobody looks at: as wide as they are.
_UNBOUNDED: Final = 10_000


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@targeted
def status(target: Target, as_json: bool) -> None:
    """Show the status of a running service.

    Exit codes: 0 ready; 1 not ready; 2 wrong usage; 3 no service responds.
    """
    from lva.client.status import read_status, show_status

    found = read_status(target)
    if as_json:
        click.echo(json.dumps(found))
    else:
        show_status(found, console())
    sys.exit(0 if found["ready"] else 1)


def text(value: str) -> str:
    """Return an argument for the service, which is UTF-8 whatever the locale takes its bytes for."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@click.command()
@click.argument("plugin", required=False, type=text)
@click.option(
    "--series", multiple=True, type=text, help="Only points of this series; may be repeated."
)
@click.option(
    "--tag",
    multiple=True,
    type=text,
    metavar="NAME:VALUE",
    help="Only points with this tag; may be repeated.",
)
@click.option(
    "--rate",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="Most points per second.",
)
@click.option("--count", type=click.IntRange(1), help="End after so many points.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON lines as they come.")
@targeted
def tap(
    target: Target,
    plugin: str | None,
    series: tuple[str, ...],
    tag: tuple[str, ...],
    rate: int,
    count: int | None,
    as_json: bool,
) -> None:
    """Show points as they pass through a running service.

    Without PLUGIN, all points as they are published; with it, those that it publishes, and what
    becomes of those on their way to it. Never slows their delivery down: what is left out is counted.

    Exit codes: 0 success; 1 refused; 2 wrong usage; 3 no service responds.
    """
    from lva.client.tapping import note, shown, tapped_lines

    query = [("rate", str(rate)), *(("series", name) for name in series)]
    query += [("tag", text) for text in tag]
    query += [] if plugin is None else [("plugin", plugin)]
    screen = console()

    def opened() -> None:
        if not as_json:
            whose = "points" if plugin is None else f"points from and to {plugin}"
            columns = "time, step, plugin, series, tags, fields"
            click.secho(f"lva: waiting for {whose}; a line has: {columns}", dim=True, err=True)

    with ending_quietly():
        for line in tapped_lines(target, query, opened):
            item: dict[str, Any] = json.loads(line)
            if as_json:
                click.echo(line)
            elif "step" in item:
                screen.print(shown(item), soft_wrap=True)
            elif "end" in item:
                click.echo(f"lva: {item['end']}", err=True)
            elif text := note(item, rate):
                click.secho(f"… {text}", dim=True, err=True)
            if "step" in item and count is not None:
                count -= 1
                if count == 0:
                    return


@click.command()
@targeted
def top(target: Target) -> None:
    """Show how a running service is, live.

    Keys: q quits, the arrows scroll. Without a terminal, prints how things are and ends.

    Exit codes: 0 success; 1 refused; 2 wrong usage; 3 no service responds.
    """
    import trio

    from lva.client.top import print_once, run_live

    screen = console()
    with ending_quietly():
        if screen.is_terminal:
            run_live(target, screen)
        else:
            trio.run(print_once, target, screen)


def action(verb: str) -> click.Command:
    """Return the command for an action on a plugin."""

    codes = "Exit codes: 0 done; 1 refused; 2 wrong usage; 3 no service responds."

    @click.command(verb, help=f"{ACTIONS[verb]}\n\n{codes}")
    @click.argument("plugin", type=text)
    @targeted
    def command(target: Target, plugin: str) -> None:
        from lva.client.asking import ask, refusal
        from lva.client.words import STATE_STYLES, clean

        # The service bounds how long it takes, by the plugin's own limits.
        code, answer = ask(target, "POST", f"/plugins/{_quoted(plugin)}/{verb}", patience=None)
        if code != 200:
            raise refusal(code, answer)
        from rich.text import Text

        state = clean(answer["state"])
        reason = f" ({clean(answer['reason'])})" if answer.get("reason") else ""
        line = Text.assemble(clean(plugin), ": ", (state, STATE_STYLES.get(state, "")), reason)
        console().print(line, soft_wrap=True)

    return command


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def console() -> Console:
    """Return what prints to standard output: in colour and fitted to a terminal, else plainly."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNBOUNDED
    return Console(width=width, highlight=False, emoji=False, markup=False)


@contextlib.contextmanager
def ending_quietly() -> Any:
    """Take Ctrl-C, and a reader of the output that has gone, for the end."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: All of them, for the command line.
COMMANDS: Final = (status, top, tap, *(action(verb) for verb in ACTIONS))
