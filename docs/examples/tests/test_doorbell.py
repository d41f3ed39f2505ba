"""A route, tried in the real service, but for its network."""

from lva.testing import check_plugin


def test_it_keeps_the_contract():
    check_plugin("plugins/doorbell.py")


async def test_it_rings(lva_host, autojump_clock):
    async with lva_host("plugins/doorbell.py") as host:
        response = await host.client.get("/doorbell")
        assert response.text == "ding dong\n"
        host.crash()  # a task of the plugin fails
        await host.wait_for("backoff")
        assert (await host.client.get("/doorbell")).status_code == 503
        await host.wait_for("running")
        assert (await host.client.get("/doorbell")).status_code == 200
