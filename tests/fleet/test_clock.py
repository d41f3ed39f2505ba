"""The date of the server's machine is set, and that of an agent's: leases do not depend on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.fleet.agents import LEASE, agent, row, until
from tests.fleet.history import History
from tests.plugins.redis_server import RedisServer

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        shutil.which("cc") is None and "CI" not in os.environ,
        reason="cc is not installed: the date is faked by a library in C",
    ),
]
OTHER = """
import sys, time, trio
from tests.fleet.agents import agent
from tests.fleet.history import History

async def main(url):
    async with agent(url, "two", History()) as two:
        while True:
            print(len(two.streams), len(two.notes.reasons), int(time.time()), flush=True)
            await trio.sleep(0.05)

trio.run(main, sys.argv[1])
"""


class Steps:
    """It sets the date that programs see."""

    def __init__(self, directory: Path) -> None:
        self._library, self._file = directory / "clock_step.so", directory / "step"
        source = Path(__file__).with_name("clock_step.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self._library, source], check=True)
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let the programs see a date that is so far ahead."""
        self._file.write_text(str(seconds))

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_STEP": str(self._file)}


@contextmanager
def stepped_server(directory: Path, steps: Steps) -> Iterator[RedisServer]:
    with RedisServer(directory, "--appendfsync", "no", start=False) as server:
        variables = [f"{name}={value}" for name, value in steps.environment().items()]
        server._command = ["env", *variables, *server._command]  # noqa: SLF001 - it has no such option
        server.start()
        yield server


@contextmanager
def other_agent(url: str, steps: Steps) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, url],
        stdout=subprocess.PIPE,
        env=os.environ | steps.environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Said:
    """The last line that another agent's process has said: streams, let go so far, date."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.streams = self.let_go = self.date = 0
        self._process = process

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await trio.to_thread.run_sync(
            self._process.stdout.readline, abandon_on_cancel=True
        ):
            self.streams, self.let_go, self.date = map(int, line.split())


async def test_no_lease_is_lost_or_lasts_longer_because_a_date_is_set(tmp_path):
    """The kind is leases that end by the date of a machine, as those of ``SET NX PX`` do."""
    (tmp_path / "other").mkdir()
    servers, others = Steps(tmp_path), Steps(tmp_path / "other")
    history = History()
    with stepped_server(tmp_path, servers) as server, other_agent(server.url, others) as process:
        said = Said(process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(said.read)
            async with agent(server.url, "one", history) as one:
                await until(lambda: one.fleet.trouble is None)
                for number in range(6):
                    await one.fleet.put(row(f"s{number}"), 0)
                await until(lambda: len(one.streams) == said.streams == 3)
                await until(lambda: not any(each.offered for each in one.fleet.view.rows.values()))
                let_go, date = (len(one.notes.reasons), said.let_go), said.date
                for seconds in (3600, -3600):
                    client = server.client
                    client.set("lease", "one", nx=True, px=10_000)
                    servers.set(seconds)
                    if seconds == 3600:
                        assert client.set(
                            "lease", "two", nx=True, px=10_000
                        )  # at once: two have it
                    others.set(seconds)
                    await trio.sleep(1.5 * LEASE)
                    if seconds == -3600:
                        assert client.pttl("lease") > 3600_000  # nobody can have it for two hours
                    client.delete("lease")
                    assert abs(said.date - date - seconds) < 60
                    assert (len(one.streams), said.streams) == (3, 3)
                    assert (len(one.notes.reasons), said.let_go) == let_go
                servers.set(7200)
                process.kill()
                await until(lambda: len(one.streams) == 6, LEASE + 2.0)
            nursery.cancel_scope.cancel()
    assert history.faults([], 0, []) == []
