"""Whatever way a plugin starts a process, and whatever it leaves: it is named, ended, and harms nobody.

One service runs a plugin for each way, in both styles. Each has a subtest of its own for what became of it.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

import psutil
import pytest

from tests.support import ServiceProcess, has_ended, write_plugin

pytestmark = pytest.mark.process

PREAMBLE = """
import asyncio, concurrent.futures, multiprocessing, os, subprocess, sys, threading, time
import trio
from pathlib import Path
from lva import *

def note(pid):
    file = Path(__file__).parent.parent / Path(__file__).stem
    file.write_text(str(pid))
    file.rename(file.with_suffix(".pid"))
"""

#: Each leaves one process; what it is called in the receipt, and the signal that ended it.
WAYS = {
    "popen": ("note(subprocess.Popen(['sleep', '97']).pid)", "sleep 97", "SIGTERM"),
    "no_environment": (
        "note(subprocess.Popen(['/bin/sleep', '97'], env={}).pid)",
        "/bin/sleep 97",
        "SIGTERM",
    ),
    "stubborn": (
        """note(subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]).pid)""",
        "sh -c .*trap.*",
        "SIGKILL",
    ),
    "spawn": ("note(os.posix_spawn('/bin/sleep', ['sleep', '97'], os.environ))", "sleep 97", "SIGTERM"),
    "system": ("os.system(f'sleep 97 & echo $! > {Path(__file__).stem}.pid')", "sleep 97", "SIGTERM"),
    "daemon": (
        "subprocess.run(['sh', '-c', f'setsid sleep 97 & echo $! > {Path(__file__).stem}.pid'])",
        "sleep 97",
        "SIGTERM",
    ),
    "fork": (
        """
        if (pid := os.fork()) == 0:
            time.sleep(97)
            os._exit(0)
        note(pid)""",
        "a fork of the service: .*",
        "SIGTERM",
    ),
    "fork_and_run": (
        """
        if os.fork() == 0:
            if os.fork() == 0:
                note(os.getpid())
                os.execvp("sleep", ["sleep", "97"])
            os._exit(0)""",
        "sleep 97",
        "SIGTERM",
    ),
    **{
        f"multiprocessing_{method}": (
            f"""
        process = multiprocessing.get_context("{method}").Process(target=time.sleep, args=(97,))
        process.start()
        note(process.pid)""",
            ".*",
            "SIGTERM",
        )
        for method in ("fork", "spawn", "forkserver")
    },
    "executor": (
        """
        self.pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
        self.pool.submit(time.sleep, 97)
        note(next(iter(self.pool._processes)))""",
        "a fork of the service: .*",
        "SIGTERM",
    ),
    "thread": (
        """
        def work():
            threading.Thread(target=lambda: note(subprocess.Popen(["sleep", "97"]).pid)).start()
        threading.Thread(target=work).start()""",
        "sleep 97",
        "SIGTERM",
    ),
}  # fmt: skip
#: Ways that one style alone has.
TRIO = {
    "worker": (
        "await trio.to_thread.run_sync(lambda: note(subprocess.Popen(['sleep', '97']).pid))",
        "sleep 97",
        "SIGTERM",
    ),
    "open_process": (
        "note((await trio.lowlevel.open_process(['sleep', '97'])).pid)",
        "sleep 97",
        "SIGTERM",
    ),
}
ASYNCIO = {
    "worker": (
        "await asyncio.to_thread(lambda: note(subprocess.Popen(['sleep', '97']).pid))",
        "sleep 97",
        "SIGTERM",
    ),
    "exec": (
        "self.process = await asyncio.create_subprocess_exec('sleep', '97'); note(self.process.pid)",
        "sleep 97",
        "SIGTERM",
    ),
}
STYLES = {"trio": {**WAYS, **TRIO}, "asyncio": {**WAYS, **ASYNCIO}}


def plugin(style: str, body: str) -> str:
    """Return a plugin's source that does something in its `start()`."""
    runtime = "runtime = 'asyncio'" if style == "asyncio" else ""
    body = body if body.startswith("\n") else f"\n        {body}"
    return f"""
class P(BaseBackgroundPlugin):
    {runtime}

    async def start(self):{body}
"""


@pytest.mark.parametrize("style", STYLES)
def test_a_process_that_is_left_is_named_and_ended(
    tmp_path: Path, style: str, subtests: pytest.Subtests
) -> None:
    """Kind: processes, of plugins of either style, that outlive their plugin, however they were started."""
    ways = STYLES[style]
    for way, (body, _, _) in ways.items():
        write_plugin(tmp_path / "plugins", way, plugin(style, body), PREAMBLE)
    bystander = plugin(style, "subprocess.run(['true'])")
    write_plugin(tmp_path / "plugins", "bystander", bystander, PREAMBLE)
    at_import = f"note(subprocess.Popen(['sleep', '97']).pid)\n{plugin(style, 'pass')}"
    write_plugin(tmp_path / "plugins", "at_import", at_import, PREAMBLE)
    ways = {**ways, "at_import": ("", "sleep 97", "SIGTERM")}
    with ServiceProcess(tmp_path, [*ways, "bystander"], "shutdown_timeout = 30") as service:
        service.wait_until_ready()
        service.wait_until(lambda: all((tmp_path / f"{way}.pid").exists() for way in ways))
        pids = {way: int((tmp_path / f"{way}.pid").read_text()) for way in ways}
        assert all(psutil.pid_exists(pid) for pid in pids.values())
        port = int(service.url.rpartition(":")[2])
        assert service.stop() == 4
    assert service.receipt_of("bystander")["leaked_processes"] == []
    for way, (_, command, how) in ways.items():
        with subtests.test(way=way):
            receipt = service.receipt_of(way)
            said = f"{command} \\(process {pids[way]}, ended by {how}\\)"
            lines = receipt["leaked_processes"]
            assert any(re.fullmatch(said, line) for line in lines), lines
            assert has_ended(pids[way])
            assert receipt["state"] == "stopped", receipt
    with socket.socket() as again:  # nobody has kept the port
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
        again.listen()


def test_no_process_outlives_a_service_that_its_watchdog_ends(tmp_path: Path) -> None:
    body = """
        note(subprocess.Popen(["sleep", "97"]).pid)
        time.sleep(600)"""
    write_plugin(tmp_path / "plugins", "blocks", plugin("trio", body), PREAMBLE)
    with ServiceProcess(tmp_path, ["blocks"], "shutdown_timeout = 1") as service:
        service.wait_until((tmp_path / "blocks.pid").exists)
        pid = int((tmp_path / "blocks.pid").read_text())
        assert service.stop() == 70
        assert service.receipt["reason"] == (
            "ended by the watchdog: the stop took longer than shutdown_timeout"
        )
        assert service.receipt["seconds"] >= 1, (
            "from the signal on, though the plugins were never asked"
        )
        service.wait_until(lambda: has_ended(pid))
