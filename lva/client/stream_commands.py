"""`lva streams`: the streams of a running service, and the agents that share them."""

from __future__ import annotations

import json
from typing import IO, Any, Final

import click

from lva.client.commands import console, ending_quietly, text
from lva.client.target import Target, targeted

_CODES: Final = "Exit codes: 0 done; 1 refused; 2 wrong usage; 3 no service responds."


@click.group()
def streams() -> None:
    """Work on the streams of a running service."""


_plugin: Final = click.option(
    "--plugin",
    default="streams",
    show_default=True,
    type=text,
    help="The plugin that has the streams.",
)


@streams.command("list")
@click.option("--status", type=text, help="Only streams in this state.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_plugin
@targeted
def list_streams(target: Target, status: str | None, as_json: bool, plugin: str) -> None:
    """List the streams.

    Exit codes: 0 success; 1 refused; 2 wrong usage; 3 no service responds.
    """
    from lva.client.streams import all_streams, table_of

    found = all_streams(target, plugin, status)
    if as_json:
        click.echo(json.dumps({"streams": found}))
    elif found:
        console().print(table_of(found))
    else:
        click.echo("There are no streams; lva streams add NAME SOURCE adds one.")


@streams.command()
@click.argument("name", type=text)
@click.argument("source", type=text, required=False)
@click.option(
    "--analytics",
    multiple=True,
    type=text,
    metavar="NAME",
    help="An analytics plugin that looks at its frames; may be repeated.",
)
@click.option(
    "--definition",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="A JSON file with further keys of its definition; - is standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_plugin
@targeted
def add(
    target: Target,
    name: str,
    source: str | None,
    analytics: tuple[str, ...],
    definition: IO[str] | None,
    as_json: bool,
    plugin: str,
) -> None:
    """Add a stream.

    SOURCE is a camera's address, a file, or test: for generated pictures.

    Exit codes: 0 done; 1 refused; 2 wrong usage; 3 no service responds.
    """
    from lva.client.streams import answer

    body = {**_read(definition), "name": name}
    if source is not None:
        body["source"] = source
    if analytics:
        body["analytics"] = [{"name": each} for each in analytics]
    if "source" not in body:
        raise click.UsageError("give a SOURCE, or a --definition that has one")
    created = answer(target, "POST", plugin, "", body)
    click.echo(json.dumps(created) if as_json else created["stream_id"])


def _read(definition: IO[str] | None) -> dict[str, Any]:
    if definition is None:
        return {}
    try:
        body = json.load(definition)
    except ValueError as error:  # not JSON, or not UTF-8
        raise click.UsageError(f"--definition {definition.name}: {error}") from error
    if not isinstance(body, dict):
        raise click.UsageError(f"--definition {definition.name} holds no JSON object")
    return body


def _change(verb: str, summary: str) -> click.Command:
    @streams.command(verb, help=f"{summary}\n\n{_CODES}")
    @click.argument("stream", type=text)
    @_plugin
    @targeted
    def command(target: Target, stream: str, plugin: str) -> None:
        from lva.client.streams import answer
        from lva.client.words import clean

        changed = answer(target, "PATCH", plugin, stream, {"action": verb})
        click.echo(f"{clean(stream)}: {clean(changed['status'])}")

    return command


_change("stop", "Stop a stream.")
_change("resume", "Resume a stream.")


@streams.command()
@click.argument("stream", type=text)
@_plugin
@targeted
def remove(target: Target, stream: str, plugin: str) -> None:
    """Stop a stream and forget it.

    Exit codes: 0 done; 1 refused; 2 wrong usage; 3 no service responds.
    """
    from lva.client.streams import answer
    from lva.client.words import clean

    answer(target, "DELETE", plugin, stream)
    click.echo(f"{clean(stream)}: removed")


@streams.command()
@click.argument("stream", required=False, type=text)
@click.option("--count", type=click.IntRange(1), help="End after so many lines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@_plugin
@targeted
def watch(
    target: Target, stream: str | None, count: int | None, as_json: bool, plugin: str
) -> None:
    """Show what happens to streams.

    It begins with how each stream is now, and ends when the service does.

    Exit codes: 0 success; 1 refused; 2 wrong usage; 3 no service responds.
    """
    from lva.client.streams import happenings, line_of

    screen = console()
    with ending_quietly():
        for number, item in enumerate(happenings(target, plugin, stream), 1):
            if as_json:
                click.echo(json.dumps(item))
            else:
                screen.print(line_of(item), soft_wrap=True)
            if number == count:
                return


# Streams that several agents share.


@streams.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@targeted
def agents(target: Target, as_json: bool) -> None:
    """List the agents of the fleet, and what waits for one.

    Exit codes: 0 success; 1 refused, or no fleet; 2 wrong usage; 3 no service responds.
    """
    from lva.client.fleet import fleet_of, remarks, table_of_agents

    fleet = fleet_of(target)
    if as_json:
        click.echo(json.dumps(fleet))
        return
    console().print(table_of_agents(fleet["agents"]))
    for line in remarks(fleet):
        click.echo(line)


@streams.command()
@click.argument("agent", type=text)
@click.option("--end", is_flag=True, help="End the drain: the agent takes streams again.")
@targeted
def drain(target: Target, agent: str, end: bool) -> None:
    """Hand the streams of an agent over to the others.

    It takes no streams until the drain is ended, also after a restart. Streams for which no other agent has
    room stay.

    Exit codes: 0 done; 1 refused, or no fleet; 2 wrong usage; 3 no service responds.
    """
    from lva.client.fleet import act_on_agent
    from lva.client.words import clean

    done = act_on_agent(target, agent, "undrain" if end else "drain")
    if done["alive"]:
        state = "draining" if done["draining"] else "takes streams"
    else:
        state = (
            f"not alive; it {'takes none' if done['draining'] else 'takes streams'} once it is back"
        )
    click.echo(f"{clean(done['agent'])}: {state}")


@streams.command()
@click.option("--to-fleet", is_flag=True, required=True, help="Where to: the fleet of the service.")
@_plugin
@targeted
def move(target: Target, to_fleet: bool, plugin: str) -> None:
    """Move the streams that a service kept before it had a fleet.

    Streams that the fleet has already stay as they are there.

    Exit codes: 0 done; 1 refused, or no fleet; 2 wrong usage; 3 no service responds.
    """
    from lva.client.fleet import move_to_fleet
    from lva.client.words import clean

    found = move_to_fleet(target, plugin)
    moved = found["moved"]
    click.echo(f"{len(moved)} stream{'' if len(moved) == 1 else 's'} moved to the fleet")
    for each in found["left"]:
        click.echo(clean(f"{each['stream_id']} stays where it is: {each['reason']}"))
