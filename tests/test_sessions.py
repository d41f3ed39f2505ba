"""What the documentation shows at a prompt is what happens: the sessions are run, command by command.

``...`` in the output of a session stands for any text. Commands of `lva` run in this process, but `lva run`
is the real one; `curl` is httpx.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lva.cli import main
from tests.support import ServiceProcess, clean_environment

DOCS = Path(__file__).parent.parent / "docs"
SESSIONS = DOCS / "sessions"


@pytest.fixture
def here(clean_slate: None, tmp_path: Path) -> Path:
    """An empty directory, as a reader has it."""
    return tmp_path


def steps(name: str) -> list[tuple[list[str], str]]:
    """Return the commands of a session, each with the output that is shown."""
    found: list[tuple[list[str], str]] = []
    for line in (SESSIONS / f"{name}.console").read_text().splitlines():
        if line.startswith("$ "):
            found.append((shlex.split(line[2:]), ""))
        else:
            command, shown = found[-1]
            found[-1] = (command, f"{shown}{line}\n")
    return found


def same(shown: str, real: str) -> None:
    """Assert that an output is what is shown, with ``...`` for any text."""
    pattern = ".*".join(map(re.escape, shown.split("...")))
    assert re.fullmatch(pattern, real, re.DOTALL), f"shown:\n{shown}\nreally:\n{real}"


def play(name: str, service: ServiceProcess | None = None) -> None:
    """Run a session."""
    for command, shown in steps(name):
        if command[0] == "lva":
            result = CliRunner().invoke(main, command[1:], catch_exceptions=False)
            same(shown, result.output)
        elif command[0] == "curl":
            assert service is not None
            method, path = _request(command)
            same(shown, service.request(method, path).text.replace("\n", "") + "\n" * bool(shown))
        else:
            assert command[0] == "pytest"
            same(shown, _pytest(command[1:]))


def _request(command: list[str]) -> tuple[str, str]:
    """Return method and path of a `curl` command on the service's usual address."""
    method = command[command.index("-X") + 1] if "-X" in command else "GET"
    (url,) = [word for word in command if word.startswith("127.0.0.1:5240/")]
    return method, url.removeprefix("127.0.0.1:5240")


def _pytest(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    return re.sub(r" in [\d.]+s", " in 0.1s", done.stdout)


def running(here: Path) -> ServiceProcess:
    """Start the service as the session says."""
    ((command, _),) = steps("run")
    assert command[:2] == ["lva", "run"]
    return ServiceProcess(
        here, toml="[plugins.history]\nflush_interval = 0.05", arguments=command[2:]
    )


def install(name: str, target: str) -> None:
    shutil.copyfile(DOCS / "examples" / name, target)


@pytest.mark.soak
@pytest.mark.process
def test_the_first_plugin(here: Path) -> None:
    """The whole of the tutorial, in its order."""
    play("new")
    generated = (here / "plugins" / "porch.py").read_text()
    assert generated == (DOCS / "examples" / "tutorial" / "porch.py").read_text()
    play("check")
    play("test")
    play("plugins")
    with running(here) as service:
        play("first", service.wait_until_ready())
        assert service.stop() == 0
    install("porch.py", "plugins/porch.py")
    install("tutorial/test_porch.py", "tests/test_porch.py")
    play("check")
    play("test")
    with running(here) as service:
        service.wait_until_ready()
        play_when_points_are_there("ring", service)
        assert service.stop() == 0
    install("wrong/porch.py", "plugins/porch.py")
    play("wrong")
    with running(here) as service:  # which refuses one of the four
        assert service.wait() == 2
        assert "porch.py:30: Porch.start() must be a coroutine" in service.output
        assert "1 problem, nothing was started" in service.output


def play_when_points_are_there(name: str, service: ServiceProcess) -> None:
    """Run a session whose last request shows a point, which arrives a moment later."""
    *before, (last, shown) = steps(name)
    for command, text in before:
        method, path = _request(command)
        same(text, service.request(method, path).text.replace("\n", "") + "\n" * bool(text))
    _, path = _request(last)
    service.wait_until(lambda: service.get(path).json()["points"])
    same(shown, service.get(path).text)


def test_every_session_is_shown_and_run() -> None:
    source = Path(__file__).read_text()
    pages = "".join(path.read_text() for path in DOCS.glob("*.rst"))
    for path in SESSIONS.iterdir():
        assert f"literalinclude:: sessions/{path.name}" in pages
        assert f'("{path.stem}"' in source, path
