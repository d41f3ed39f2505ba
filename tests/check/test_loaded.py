"""What `lva check` knows from signatures alone, the service refuses before it starts, in the same words.

The kind: a plugin file that is bound to fail is no crash to be tried again, and none that takes the service
with it. What the text does not tell for certain is let pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lva.errors import ConfigurationError
from lva.host.loading.finder import PluginFileError
from lva.host.loading.load import finder_for, load_plugin, load_plugins
from tests.check.test_gallery import WRONG, background, check_source, event, on_asyncio
from tests.support import host_settings, write_plugin

REFUSED = ("not-async", "signature", "constructor")
#: These are told by what a function does, not by its signature.
NOT_BY_SIGNATURE = ("nursery in __init__", "route in __init__", "the stream too early")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(case.values[0], id=str(case.id))
        for case in WRONG
        if case.values[1] in REFUSED and case.id not in NOT_BY_SIGNATURE
    ],
)
def test_what_the_check_knows_from_signatures_is_refused_at_load(
    source: str, tmp_path: Path
) -> None:
    (known,) = check_source(tmp_path, source).problems
    settings = host_settings(tmp_path, ("cam",), plugin_file_check="strict")
    finder = finder_for(settings, tmp_path)
    finder.install()
    with pytest.raises(PluginFileError) as refusal:
        load_plugin("cam", settings, finder)
    assert refusal.value.problems == [known]


ON_ASYNCIO = {
    "initialize": "def initialize(self): self.x = 1",
    "start": "def start(self):\n    while True:\n        pass",
    "close": "def close(self): ...",
    "start takes the app": "async def start(self, app): ...",
    "no super().__init__": "def __init__(self, app): self.count = 0",
}


@pytest.mark.parametrize("body", ON_ASYNCIO.values(), ids=ON_ASYNCIO)
def test_the_same_holds_in_asyncio_style(body: str, tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "cam", on_asyncio(body), preamble="")
    with pytest.raises(ConfigurationError, match=r"cam\.py:\d+: Cam\."):
        load_plugins(host_settings(tmp_path, ("cam",)))


DISGUISED = {
    "another name of a plain method": (
        "def work(self):\n    while True: ...\nstart = work",
        "Cam.work() must be a coroutine; write `async def work`",
    ),
    "another name of one that asks for more": (
        "async def work(self, speed): ...\nstart = work",
        "Cam.work() asks for 'speed', which nobody gives; the host calls `await plugin.start()`",
    ),
    "a plain static method": ("@staticmethod\ndef start(): ...", "Cam.start() must be a coroutine"),
    "a plain class method": (
        "@classmethod\ndef close(cls): ...",
        "Cam.close() must be a coroutine",
    ),
}


@pytest.mark.parametrize(("body", "said"), DISGUISED.values(), ids=DISGUISED)
def test_it_is_the_method_that_the_host_would_call_that_counts(
    body: str, said: str, tmp_path: Path
) -> None:
    """The kind: a class finds a method by a name, a text shows a function; the two may differ."""
    write_plugin(tmp_path / "plugins", "cam", background(body), preamble="")
    with pytest.raises(ConfigurationError) as refusal:
        load_plugins(host_settings(tmp_path, ("cam",)))
    assert said in str(refusal.value)


OPEN = {
    "a function that returns an awaitable": background(
        "def start(self): return self.work()\nasync def work(self): ..."
    ),
    "a base that leaves it to its heirs": """
from abc import abstractmethod
from lva import *
class Base(BaseBackgroundPlugin):
    def start(self): raise NotImplementedError
    @abstractmethod
    def work(self): ...
class Cam(Base):
    async def start(self): ...
    def work(self): ...
""",
    "replaced afterwards": background("def start(self): ...")
    + "\nasync def start(self): ...\nCam.start = start\ndel start\n",
    "decorated": background(
        "@awaited\ndef start(self): ...",
        "def awaited(f):\n    async def call(self): f(self)\n    return call",
    ),
    "any arguments": event("async def handleEvent(self, *args, **kwargs): ..."),
    "another way to the base": background(
        "def __init__(self, app): BaseBackgroundPlugin.__init__(self, app)"
    ),
    "another name of a right method": background("async def stop(self): ...\nclose = stop"),
    "handed on to another method": background(
        "def __init__(self, app): self.set_up(app)\ndef set_up(self, app): super().__init__(app)"
    ),
    "static and class methods": background(
        "@staticmethod\nasync def initialize(): ...\n@classmethod\nasync def start(cls): ..."
    ),
    "let pass by a comment": background("def start(self): ...  # lva: ignore[not-async]"),
}


@pytest.mark.parametrize("source", OPEN.values(), ids=OPEN)
def test_what_may_work_is_let_pass(source: str, tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "cam", source, preamble="")
    (loaded,) = load_plugins(host_settings(tmp_path, ("cam",)))
    assert [cls.__name__ for cls in loaded.classes] == ["Cam"]


def test_a_method_that_an_inherited_one_gets_wrong_is_told_where_it_stands(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "base", "class Base:\n    def close(self): ...\n")
    write_plugin(
        tmp_path / "plugins",
        "cam",
        "from .base import Base\nclass Cam(Base, BaseBackgroundPlugin): ...\n",
    )
    with pytest.raises(ConfigurationError, match=r"base\.py:\d+: Base\.close\(\) must be a"):
        load_plugins(host_settings(tmp_path, ("cam",)))
