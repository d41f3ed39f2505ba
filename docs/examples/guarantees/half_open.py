"""G1: a connection that is opened before the login fails is closed before the next attempt opens another."""

from lva import BaseBackgroundPlugin

opened: list[str] = []


class HalfOpen(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        opened.append("opened")
        if len(opened) == 1:
            raise PermissionError("the login was refused")

    async def close(self) -> None:
        opened.append("closed")
