"""`lva streams agents`, `drain` and `move`: for streams that several agents share."""

from __future__ import annotations

import json

import click

from lva.client.commands import console, text
from lva.client.target import Target, targeted


@click.command()
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


@click.command()
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


@click.command()
@click.option("--to-fleet", is_flag=True, required=True, help="Where to: the fleet of the service.")
@click.option(
    "--plugin",
    default="streams",
    show_default=True,
    type=text,
    help="The plugin that has the streams.",
)
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
