"""A sink that speaks no HTTP: its library is replaced by one that asks the world."""

from types import ModuleType

from lva.testing import World, check_event_contract

MAILER = """
import trio
from lva import BaseEventPlugin

async def send_mail(text):
    raise NotImplementedError("stands for a library")

class Mailer(BaseEventPlugin):
    eventName = "monitoring_event"
    host_settings = {"batch_size": 10}

    async def handleEvent(self, points, logger):
        await send_mail("\\n".join(f"{point.series} {point.tags}" for point in points))
"""


class Mail(World):
    """The world of mail: what is sent is taken, or not, as the check wants it."""

    def prepare(self, module: ModuleType) -> None:
        module.send_mail = self.take


def test_every_mail_arrives():
    check_event_contract(MAILER, world=Mail, ordered=True)
