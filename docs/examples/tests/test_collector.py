"""An HTTP sink, whose server is the kit's."""

import json

import trio

from lva.testing import (
    Behaviour,
    HttpWorld,
    WorldRequest,
    WorldResponse,
    check_event_contract,
    check_plugin,
)


def respond(request: WorldRequest) -> WorldResponse:
    """Respond as the collector does: with a word for each point."""
    points = json.loads(request.body)
    return WorldResponse(body=json.dumps({"status": ["ok"] * len(points)}).encode())


def collector() -> HttpWorld:
    return HttpWorld(respond)


def config(world: HttpWorld) -> dict[str, str]:
    return {"url": world.url}


def test_it_keeps_the_contract():
    check_plugin("plugins/collector.py", config, world=collector)


def test_it_accounts_for_every_point():
    check_event_contract("plugins/collector.py", config=config, world=collector, ordered=True)


async def test_points_wait_for_an_hour(lva_host, autojump_clock):
    patient = {"max_attempts": 1000}
    async with lva_host("plugins/collector.py", config, patient, world=collector) as host:
        host.world.behaviour = Behaviour.FAIL
        host.publish(10)
        with trio.move_on_after(3600):
            await host.settled(within=4000)
        assert host.ledger.in_flight == 10
        host.world.behaviour = Behaviour.SUCCEED
        assert (await host.settled()).delivered == 10
        assert host.world.arrived == list(range(10))
