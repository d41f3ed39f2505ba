"""`lva top` in a real terminal, following a real service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lva.settings import ENV_PREFIX
from tests.client.tmux import Terminal
from tests.support import ServiceProcess, clean_environment, free_port, write_plugin

#: Crashes when it is told to.
FRAIL = """
class Frail(BaseBackgroundPlugin):
    host_settings = {"max_restarts": 1, "backoff_initial": 0.01}

    async def initialize(self):
        self.told = trio.Event()
        self.addRoute("/crash", self.crash)

    async def crash(self, request):
        self.told.set()
        return {}

    async def start(self):
        await self.told.wait()
        raise OSError("camera 7 does not answer")
"""


def top(tmp_path: Path, address: str, **size: int) -> Terminal:
    """Return a terminal with `lva top` in it."""
    command = [sys.executable, "-m", "lva", "top", "--address", address]
    return Terminal(tmp_path, command, clean_environment(TERM="xterm-256color"), **size)


def rows(text: str) -> list[str]:
    """Return the names of the plugins whose rows are on a screen."""
    return re.findall(r"^(plugin_\d\d) ", text, re.MULTILINE)


@pytest.mark.process
def test_a_crash_is_seen_as_it_happens_and_q_gives_the_terminal_back(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "frail", FRAIL)
    with ServiceProcess(tmp_path, ["history", "frail"]) as service:
        service.wait_until_ready()
        with top(tmp_path, service.url) as terminal:
            text = terminal.wait_for(lambda text: text.startswith("● ready"))
            assert service.url in text
            lines = [line.split()[:2] for line in text.splitlines()]
            assert ["history", "running"] in lines
            assert ["frail", "running"] in lines
            service.get("/crash")
            terminal.wait_for("restarting; before, Frail.start() raised")
            service.wait_until(lambda: service.plugin("frail")["state"] == "running")
            service.get("/crash")
            terminal.wait_for("frail  failed")
            text = terminal.wait_for(lambda text: text.startswith("● not ready"))
            # Who needs somebody comes first, and what happened is told.
            rows = text.splitlines()
            head = next(n for n, line in enumerate(rows) if line.startswith("PLUGIN"))
            assert rows[head + 1].split()[:2] == ["frail", "failed"]
            assert "camera 7 does not answer; that is more than 1 restart in" in text
            assert "\x1b[1m\x1b[31m" in terminal.coloured
            terminal.press("q")
            text = terminal.wait_for("ended with 0")
            assert "PLUGIN" not in text


@pytest.mark.process
def test_a_service_that_comes_back_is_found_again(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    env = {f"{ENV_PREFIX}BIND": bind}
    with ServiceProcess(tmp_path, ["history"], env=env) as service:
        service.wait_until_ready()
        terminal = top(tmp_path, bind)
        with terminal:
            terminal.wait_for(lambda text: text.startswith("● ready"))
            assert service.stop() == 0
            text = terminal.wait_for("trying again")
            assert "history" in text  # what was known stays
            with ServiceProcess(tmp_path, ["resource_monitor"], env=env) as successor:
                successor.wait_until_ready()
                terminal.wait_for("resource_monitor")
                terminal.wait_for(lambda text: "trying again" not in text and "history" not in text)
                terminal.press("C-c")
                terminal.wait_for("ended with 0")


@pytest.mark.process
def test_many_plugins_are_scrolled_through_in_windows_of_any_size(tmp_path: Path) -> None:
    names = [f"plugin_{n:02}" for n in range(40)]
    for name in names:
        write_plugin(tmp_path / "plugins", name, "class P(BaseBackgroundPlugin): pass")
    with ServiceProcess(tmp_path, names) as service:
        service.wait_until_ready()
        with top(tmp_path, service.url, width=100, height=24) as terminal:
            text = terminal.wait_for(lambda text: "1 to " in text and "of 40 plugins" in text)
            assert rows(text)[0] == "plugin_00"
            assert len(rows(text)) < 15
            terminal.press("Down")
            terminal.wait_for(lambda text: "2 to " in text and rows(text)[0] == "plugin_01")
            terminal.press("End")
            terminal.wait_for(
                lambda text: "to 40 of 40 plugins" in text and rows(text)[-1] == "plugin_39"
            )
            terminal.resize(60, 60)
            terminal.wait_for(lambda text: text.startswith("● ready") and rows(text) == names)
            terminal.resize(30, 12)
            terminal.wait_for(lambda text: len(text.splitlines()) <= 12)
            terminal.press("q")
            terminal.wait_for("ended with 0")


@pytest.mark.process
def test_without_a_terminal_it_prints_how_things_are_and_ends(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, ["history"]) as service:
        service.wait_until_ready()
        done = subprocess.run(
            [sys.executable, "-m", "lva", "top", "--address", service.url],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert done.stdout.startswith("● ready")
    assert any(line.startswith("history") for line in done.stdout.splitlines())
    assert "\x1b" not in done.stdout
    assert "q quit" not in done.stdout
    assert done.stderr == ""
