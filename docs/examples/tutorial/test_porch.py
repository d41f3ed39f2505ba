"""Tests of the plugin `porch`."""

from pathlib import Path
from typing import Any

import pytest
import trio

from lva.testing import check_plugin

PLUGIN = Path(__file__).parent.joinpath("../plugins/porch.py").resolve()


def test_it_keeps_the_contract() -> None:
    check_plugin(PLUGIN)


@pytest.mark.trio
async def test_a_second_ring_counts_only_after_a_while(lva_host: Any, autojump_clock: Any) -> None:
    async with lva_host(PLUGIN, config={"quiet": 5}) as host:
        for pause in (0, 1, 5):
            await trio.sleep(pause)  # takes no time: the clock jumps
            assert (await host.client.post("/porch/bell")).status_code == 204
        assert (await host.client.get("/porch")).json() == {"rings": 2}


@pytest.mark.trio
async def test_it_logs_once_a_minute(lva_host: Any, autojump_clock: Any) -> None:
    async with lva_host(PLUGIN) as host:
        await trio.sleep(3600)
        assert host.log.text.count("0 rings so far") in (59, 60)
