"""A plugin that is to fail, in a test of how it does."""

FORGETFUL = """
import socket
from lva import BaseBackgroundPlugin

class Forgetful(BaseBackgroundPlugin):
    async def initialize(self):
        self.logger.info("connecting")
        self.socket = socket.socket()

    async def start(self):
        raise OSError("the camera is gone")
"""


async def test_it_fails_for_good(lva_host, autojump_clock):
    async with lva_host(FORGETFUL, until="failed", tolerate=["G7"]) as host:
        assert host.states.count("backoff") == 5
        assert host.reason.startswith("Forgetful.start() raised OSError: the camera is gone")
        assert host.log.messages.count("connecting") == 6
        host.plugin.socket.close()
