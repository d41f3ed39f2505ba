"""An asyncio-style plugin, in virtual time like any other."""

from lva.testing import check_plugin


def test_it_keeps_the_contract():
    check_plugin("plugins/thermometers.py")


async def test_a_reading_becomes_a_point(lva_host, autojump_clock):
    async with lva_host("plugins/thermometers.py", {"silence": 30}) as host:
        response = await host.client.put("/thermometers/cellar", json={"degrees": 11.5})
        assert response.status_code == 204
        assert host.plugin.readings["cellar"][1] == 11.5
        response = await host.client.put("/thermometers/attic", json={"degrees": "warm"})
        assert response.status_code == 400
