"""Analytics plugins with one fault each that the source shows, and right ones; for `test_gallery`.

Each is a name, the code and a part of what is said, and the body of the class. The faulty line ends with
``# <-``.
"""

from __future__ import annotations

import textwrap
from typing import Any

LOOKS = "def handleFrame(self, frame): return None"


def analytics(body: str, imports: str = "") -> str:
    """Return an analytics plugin with this in its class; a right one without."""
    inside = textwrap.dedent(body).strip("\n")
    if "handleFrame" not in inside and "no handleFrame" not in imports:
        inside = f"{LOOKS}\n{inside}"
    head = textwrap.dedent(imports).strip()
    return f"{head}\nfrom lva import *\nclass Cam(BaseAnalyticsPlugin):\n{textwrap.indent(inside, '    ')}\n"


def _of(frame_body: str) -> str:
    return f"def handleFrame(self, frame):\n{textwrap.indent(textwrap.dedent(frame_body).strip(), '    ')}"


SAYS = "returns or yields AnalyticsEvents"
WRONG_ANALYTICS: list[tuple[Any, ...]] = [
    ("async handleFrame", "async", "write `def handleFrame`",
     "async def handleFrame(self, frame): ...  # <-"),
    ("async generator", "async", "may block", "async def handleFrame(self, frame): yield  # <-"),
    ("async open", "async", "write `def open`", "async def open(self, stream): ...  # <-"),
    ("async close", "async", "write `def close`", "async def close(self): ...  # <-"),
    ("handleFrame without frame", "signature", "plugin.handleFrame(frame)",
     "def handleFrame(self): ...  # <-"),
    ("handleFrame of an event plugin", "signature", "asks for 'logger'",
     "def handleFrame(self, frame, logger): ...  # <-"),
    ("open without stream", "signature", "plugin.open(stream)", "def open(self): ...  # <-"),
    ("close with more", "signature", "asks for 'reason'", "def close(self, reason): ...  # <-"),
    ("__init__ of an event plugin", "signature", "Cam(config, logger)",
     "def __init__(self, app):  # <-\n    super().__init__(app, None)"),
    ("__init__ alone", "constructor", "super().__init__(config, logger)",
     "def __init__(self, config, logger): self.count = 0  # <-"),
    ("the stream too early", "constructor", "use it in open(stream)",
     "def __init__(self, config, logger): super().__init__(config, logger); self.stream.name  # <-"),
    ("returns a number", "result", f"{SAYS}, not int", _of("return 5  # <-")),
    ("returns a truth", "result", f"{SAYS}, not bool", _of("return frame.gray().mean() > 5  # <-")),
    ("returns a dict", "result", f"{SAYS}, not a dict", _of("return {'count': 1}  # <-")),
    ("returns a list of dicts", "result", f"{SAYS}, not a dict", _of("return [{'count': 1}]  # <-")),
    ("yields a text", "result", f"{SAYS}, not str", _of("yield 'seen'  # <-")),
    ("yields nothing", "result", f"{SAYS}, not None", _of("yield  # <-")),
    ("yields a list", "result", f"{SAYS}, not a list", _of("yield [AnalyticsEvent('a')]  # <-")),
    ("returns in a generator", "result", "is lost; yield it",
     _of("yield AnalyticsEvent('a')\nreturn AnalyticsEvent('b')  # <-")),
    ("an event without a type", "result", "begins with its type",
     _of("yield AnalyticsEvent({'a': 1})  # <-")),
    ("data that is a list", "result", "is a dict", _of("yield AnalyticsEvent('a', [1, 2])  # <-")),
    ("an unknown argument", "result", "takes no 'date'; did you mean 'data'?",
     _of("yield AnalyticsEvent('a', date={})  # <-")),
    ("publishes", "attribute", "has no self.app", _of("self.app.publish('monitoring_event', [])  # <-")),
    ("adds a route", "attribute", "has no self.addRoute",
     "def open(self, stream): self.addRoute('/cam', None)  # <-"),
    ("the frame's shape", "attribute", "use frame.size", _of("return frame.shape and None  # <-")),
    ("PyAV's frame", "attribute", "use frame.image()", _of("a = frame.to_ndarray()  # <-")),
    ("a slip of the frame's", "attribute", "did you mean 'number'?", _of("n = frame.numbr  # <-")),
]  # fmt: skip
#: With what stands before the class.
WRONG_IMPORTS: list[tuple[str, str, str, str]] = [
    ("imports the host", "host-import", "is of the service",
     "from lva.host.host import Host  # <-\n" + analytics("")),
    ("imports the kit", "host-import", "uses lva and lva.video",
     "import lva.testing  # <-\n" + analytics("")),
]  # fmt: skip

RIGHT_ANALYTICS = {
    "the least": analytics(""),
    "all methods": analytics("""
        def __init__(self, config, logger):
            super().__init__(config, logger)
            self.app = "its own"
        def open(self, stream):
            self.name = stream.name
            print(self.app)
        def handleFrame(self, frame):
            for number in range(3):
                yield AnalyticsEvent("seen", {"number": number}, frame.jpeg())
            return
        def close(self): ...
        """),
    "returns one": analytics("def handleFrame(self, frame): return AnalyticsEvent('a', image=b'')"),
    "returns a list": analytics("def handleFrame(self, frame): return [AnalyticsEvent('a', dict(b=1))]"),
    "returns what a helper makes": analytics("""
        def handleFrame(self, image):
            image = image.image()
            return self.look(image.shape)
        def look(self, shape):
            return None
        """),
    "a model of parameters": analytics("""
        class Config(BaseModel):
            level: int
        """, "from pydantic import BaseModel"),
    "arguments of other names": analytics("def handleFrame(self, f, *more, deep=False): return ()"),
    "threads, sleep and native code": analytics("""
        def open(self, stream):
            threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
            time.sleep(0)
            ctypes.CDLL(None)
        """, "import ctypes, threading, time"),
    "a base class of its own": """
        from lva import *
        class Base(BaseAnalyticsPlugin):
            def handleFrame(self, frame):
                yield from self.find(frame)
        class Cam(Base):
            def find(self, frame):
                yield AnalyticsEvent("seen")
        """,
    "lva.video": analytics("""
        def open(self, stream):
            self.episode = Episode()
        """, "from lva.video.episodes import Episode"),
}  # fmt: skip
