"""Standard output and error that are full, closed or without a reader, for commands in the real process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import clean_environment, write_plugin

pytestmark = pytest.mark.process

FULL, CLOSED, NO_READER = ">/dev/full", ">&-", "| head -c 0"
UNWRITTEN = "lva: standard output cannot be written: No space left on device\n"


@pytest.fixture
def said(tmp_path: Path) -> Iterator[list[str]]:
    """What the commands wrote to standard error; there must be no traceback in it."""
    texts: list[str] = []
    yield texts
    assert "Traceback" not in "".join(texts)


def run(tmp_path: Path, said: list[str], command: str, redirect: str) -> int:
    """Run a command as a shell does; return its exit code."""
    shell = f'set -o pipefail; "$0" -m lva {command} {redirect}'
    ended = subprocess.run(
        ["bash", "-c", shell, sys.executable],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    said.append(ended.stderr)
    return ended.returncode


def test_output_that_cannot_be_written_is_said_in_one_line(tmp_path: Path, said: list[str]) -> None:
    """Kind: standard output that takes nothing. What is closed was not wanted, and is no error."""
    assert run(tmp_path, said, "--version", FULL) == 74
    assert said == [UNWRITTEN]
    assert run(tmp_path, said, "plugins", CLOSED) == 0
    assert said[1:] == [""]


def test_an_exit_code_does_not_depend_on_standard_error(tmp_path: Path, said: list[str]) -> None:
    """Kind: what is said on standard error must not fail what it is about."""
    assert run(tmp_path, said, "run --bind nonsense", "2>/dev/full") == 2


@pytest.mark.soak
@pytest.mark.parametrize(
    "command",
    ["plugins", "plugins --json", "check plugins/doors.py", "--help", "run --help", "new fenster"],
)
def test_every_command_copes_with_every_output(
    tmp_path: Path, said: list[str], command: str
) -> None:
    write_plugin(
        tmp_path / "plugins", "doors", 'class Doors(BaseBackgroundPlugin):\n    """Doors."""\n'
    )
    for redirect, code in ((FULL, 74), (CLOSED, 0), (NO_READER, 1)):
        assert run(tmp_path, said, command, redirect) == code, redirect
        for made in tmp_path.glob("*/*fenster.py"):
            made.unlink()
    assert said == [UNWRITTEN, "", ""]
