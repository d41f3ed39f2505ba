"""One service at a time owns a state directory, and a crash leaves it free."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from lva.cli import main
from lva.errors import ConfigurationError
from lva.server.state_directory import LOCK_FILE, owned
from lva.settings import ENV_PREFIX
from tests.support import ServiceProcess, write_plugin


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


FORKS = """
import os

class Forks(BaseBackgroundPlugin):
    async def initialize(self):
        child = os.fork()
        if not child:
            time.sleep(600)
        print("child", child, flush=True)
"""


@pytest.mark.process
def test_a_second_service_is_refused_and_told_who_has_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind: two services that write into one directory.

    Commands that only read work beside the owner. Its locks end with its process, also when that is killed
    and a child that a plugin forked lives on.
    """
    write_plugin(tmp_path / "plugins", "forks", FORKS)
    points = tmp_path / "points.jsonl"
    toml = f"[plugins.file.config]\npath = '{points}'"
    with ServiceProcess(tmp_path, ["file", "forks"], toml) as owner:
        child = int(owner.wait_for(r"^child (\d+)$")[1])
        try:
            owner.wait_until_ready()
            with ServiceProcess(tmp_path) as second:
                assert second.wait() == 2
            assert f"is used by another service: process {owner.process.pid} on " in second.output
            assert "listens at 127.0.0.1:0" in second.output
            assert "receipt" not in second.output

            monkeypatch.setenv(f"{ENV_PREFIX}STATE_DIR", str(tmp_path / "state"))
            for arguments in (["plugins"], ["check"], ["status", "--address", owner.url]):
                result = CliRunner().invoke(main, arguments)
                assert result.exit_code == 0, result.output

            owner.process.kill()
            owner.process.wait()
            with owned(tmp_path / "state"), points.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(child, signal.SIGKILL)


def test_what_the_owner_wrote_may_be_anything(tmp_path: Path) -> None:
    """Kind: text of another version, or of nobody, in a file that says who has the lock."""
    (tmp_path / LOCK_FILE).touch()
    with (tmp_path / LOCK_FILE).open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for text in (b"", b"[]", b"\xff" * 5000, b'{"pid": 1, "since": 1e300}', b'{"since": "x"}'):
            other.seek(0)
            other.truncate()
            other.write(text)
            other.flush()
            with pytest.raises(ConfigurationError, match="is used by another service; stop it"):
                owned(tmp_path).__enter__()


def test_a_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """Kind: something else in the place of a file of the service's own."""
    before = open_files()
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be locked"):
        owned(tmp_path).__enter__()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / LOCK_FILE).unlink()
    with contextlib.ExitStack() as held:
        held.enter_context(owned(tmp_path))
        with pytest.raises(ConfigurationError, match=f"process {os.getpid()} on "):
            owned(tmp_path).__enter__()
    assert open_files() == before


def test_a_file_and_a_directory_that_others_use_are_refused_and_left_as_they_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    for name, why in (("file", "cannot be made private"), ("shared", "is shared, or belongs to")):
        path = tmp_path / name
        with pytest.raises(ConfigurationError, match=f"state_dir: {path}: {why}"), owned(path):
            pass
    assert path.stat().st_mode & 0o7777 == 0o1777
