"""G10: a class that a file only imports is not activated again."""

from lva import BaseBackgroundPlugin

from .loses import Loses


class Reuses(BaseBackgroundPlugin):
    async def start(self) -> None:
        self.logger.info("%s is activated by its own file only", Loses.__name__)
