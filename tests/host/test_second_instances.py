"""Second instances of plugins: `[plugins.NAME] from = "PLUGIN"`."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from lva.errors import ConfigurationError
from lva.host.life.leaks import find_leaks
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from tests.host.loading.test_installed import install, site
from tests.support import JOURNALLED, host_settings, journal, numbered, running, until, write_plugin

__all__ = ["site"]  # a fixture

SINK = """
from .words import WORD

class Sink(BaseEventPlugin, BaseBackgroundPlugin):
    eventName = "monitoring_event"
    made = 0

    def __init__(self, app):
        super().__init__(app)
        type(self).made += 1

    async def initialize(self):
        self.addRoute(f"/{self.app.name}", self.get)

    async def start(self):
        if self.config.get("thread"):
            threading.Thread(target=self.wait, name="apart", daemon=True).start()

    def wait(self):
        journal[0].wait(30)

    async def get(self, request):
        return WORD

    async def handleEvent(self, points, logger):
        journal.append((self.app.name, self.config.get("colour"), len(points)))
"""


pytestmark = pytest.mark.usefixtures("no_modules_left")


def write(directory: Path) -> None:
    write_plugin(directory, "words", "WORD = 'ding'", "")
    write_plugin(directory, "sink", SINK, JOURNALLED)


def refused(tmp_path: Path, tables: dict[str, Any], *names: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(host_settings(tmp_path, names, tables))
    return "\n".join(caught.value.problems)


async def test_each_instance_is_a_class_of_its_own(tmp_path: Path) -> None:
    """Kind: what two instances of one file could share: class, config, points, routes, spool, blame."""
    write(tmp_path / "plugins")
    tables = {
        "sink": {"config": {"colour": "red"}, "spool": "disk"},
        # As from the environment, which has no capitals.
        "second": {"from": "sink", "config": {"colour": "blue", "thread": True}, "spool": "disk"},
    }
    settings = host_settings(tmp_path, ["sink", "Second"], tables)
    one, two = loaded = load_plugins(settings)
    assert [plugin.name for plugin in loaded] == ["sink", "Second"]
    assert one.path == two.path
    assert one.sha256 == two.sha256
    assert one.classes[0] is not two.classes[0]
    async with running(loaded, settings) as host:
        release = threading.Event()
        journal.append(release)
        try:
            await host.wait_until_running()
            assert host.plugin("sink").made == host.plugin("Second").made == 1
            host.publish(numbered(3))
            await until(lambda: len(journal) == 3)
            assert sorted(journal[1:]) == [("Second", "blue", 3), ("sink", "red", 3)]
            for name in ("sink", "Second"):
                assert host.life(name).owner.routes
                assert (tmp_path / "state" / "spool" / f"{name}.Sink.sqlite3").is_file()
            leaks = find_leaks(host.host.lives.values())
            assert [name for name, found in leaks.items() if found.threads] == ["Second"]
        finally:
            release.set()


async def test_an_instance_is_reloaded_alone(tmp_path: Path) -> None:
    """Kind: an action on one of two plugins that share a file."""
    write(tmp_path / "plugins")
    settings = host_settings(tmp_path, ["sink", "second"], {"second": {"from": "sink"}})
    one, two = loaded = load_plugins(settings)
    async with running(loaded, settings) as host:
        await host.wait_until_running()
        await host.host.changes.reload("second")
        await host.wait_for("second", State.RUNNING)
        assert type(host.plugin("second")) is not two.classes[0]
        assert type(host.plugin("second")).__module__ == two.module
        assert type(host.plugin("sink")) is one.classes[0]


def test_an_instance_of_an_installed_plugin_finds_the_rest_of_its_package(
    site: Path, tmp_path: Path
) -> None:
    """Kind: where a plugin can come from: a file or a package, in a directory or installed."""
    package = install(site, "doorbell = acme_lva.doorbell\nporch = acme_lva.porch")
    sub = package / "porch"
    write_plugin(sub, "__init__", "from .bell import Bell\n", "")
    bell = "from lva import BaseBackgroundPlugin\nclass Bell(BaseBackgroundPlugin): pass\n"
    write_plugin(sub, "bell", bell, "")
    write_plugin(tmp_path / "plugins", "unrelated", "")
    local = tmp_path / "plugins" / "hall"
    write_plugin(local, "__init__", "from .bell import Bell\n", "")
    write_plugin(local, "bell", bell, "")
    names = ["doorbell", "doorbell2", "porch", "porch2", "hall", "hall2"]
    tables = {name: {"from": name[:-1]} for name in names if name.endswith("2")}
    loaded = load_plugins(host_settings(tmp_path, names, tables))
    classes = {cls for plugin in loaded for cls in plugin.classes}
    assert len(classes) == len(names)
    for first, second in zip(loaded[::2], loaded[1::2], strict=True):
        assert first.path == second.path
        assert [*first.files.values()] == [*second.files.values()]
        assert len(first.files) == (1 if first.name == "doorbell" else 2)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"b": {"from": "snik"}}, "'b': from = 'snik': no such plugin in .*did you mean 'sink'"),
        ({"b": {"from": "c"}, "c": {"from": "sink"}}, "from = 'c' is a second instance itself"),
        ({"b": {"from": "../sink"}}, "from = '../sink': no such plugin"),
        ({"sink": {"from": "words"}}, "found twice: .*a name that no plugin has"),
    ],
)
def test_what_cannot_be_an_instance_is_refused(
    tmp_path: Path, tables: dict[str, Any], said: str
) -> None:
    """Kind: a wrong `from`."""
    write(tmp_path / "plugins")
    problem = refused(tmp_path, tables, "sink" if "sink" in tables else "b")
    assert re.search(said, problem, re.DOTALL), problem


def test_a_class_cannot_make_itself_a_second_instance(tmp_path: Path) -> None:
    """Kind: settings that are the operator's alone."""
    source = SINK.replace("made = 0", "host_settings = {'from': 'words'}")
    write_plugin(tmp_path / "plugins", "words", "WORD = 'ding'", "")
    write_plugin(tmp_path / "plugins", "sink", source, JOURNALLED)
    assert "host_settings cannot hold 'from'" in refused(tmp_path, {}, "sink")
