"""What a plugin forks has nothing of the service that could harm it, whichever way it is forked.

A child inherits all that its parent has: signal handlers and the descriptor that they wake the service by,
sockets, event loops, and locks of threads that are not there. One service runs a plugin for each way to fork,
in both styles; each ends its child by SIGTERM.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

PREAMBLE = """
import asyncio, concurrent.futures, json, multiprocessing, os, signal, socket, stat, threading, time
import trio
from pathlib import Path
from lva import *

FILE = Path(__file__).with_suffix(".json")
POINT = MonitoringPoint("numbers", 1.0, {}, {"n": 1})

def look(app):
    # In the child: what it has of the service.
    try:
        said = app.publish("monitoring_event", [POINT])
    except RuntimeError as error:
        said = str(error)
    listening = []
    for name in os.listdir("/proc/self/fd"):
        try:
            there = os.fstat(int(name))
            if stat.S_ISSOCK(there.st_mode):
                with socket.socket(fileno=os.dup(int(name))) as inherited:
                    if inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        listening.append(name)
        except OSError:
            continue
    locked = [name for name in os.listdir("/proc/self/fd") if holds_lock(name)]
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGPROF)]
    wakeup = signal.set_wakeup_fd(-1)
    seen = {"said": said, "listening": listening, "locked": locked, "handlers": handlers, "wakeup": wakeup}
    FILE.with_suffix(".part").write_text(json.dumps(seen))
    FILE.with_suffix(".part").rename(FILE)

def holds_lock(number):
    try:
        is_ours = os.readlink(f"/proc/self/fd/{number}").startswith(str(FILE.parent.parent))
        return is_ours and "lock:" in Path(f"/proc/self/fdinfo/{number}").read_text()
    except OSError:  # it was the directory's own
        return False

def serve(app):
    look(app)
    time.sleep(97)

def came():
    while not FILE.exists():
        time.sleep(0.01)

def with_fork(app):
    if (pid := os.fork()) == 0:
        try:
            serve(app)
        finally:
            os._exit(9)
    came()
    os.kill(pid, signal.SIGTERM)
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def with_multiprocessing(app):
    child = multiprocessing.get_context("fork").Process(target=serve, args=(app,))
    child.start()
    came()
    child.terminate()
    child.join()
    return -child.exitcode

def with_pool(app):
    global held
    held = app
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(look_as_held)
    return 15  # it has been terminated, and joined

def with_executor(app):
    global held
    held = app
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        pool.submit(look_as_held).result()
        os.kill(next(iter(pool._processes)), signal.SIGTERM)
    return 15

def look_as_held():
    # In a child that has inherited it: it cannot be sent there.
    look(held)
"""
#: Each way to fork, and where it is done.
CASES = (
    ("fork", "trio"), ("fork", "trio_thread"), ("fork", "asyncio"), ("multiprocessing", "trio"),
    ("multiprocessing", "asyncio_thread"), ("pool", "trio_thread"), ("executor", "asyncio"),
)  # fmt: skip
#: Where the plugin's own code runs, and in a thread.
PLACES = {
    "trio": "return with_{way}(app)",
    "trio_thread": "return await trio.to_thread.run_sync(with_{way}, app)",
    "asyncio": "return with_{way}(app)",
    "asyncio_thread": "return await asyncio.to_thread(with_{way}, app)",
}
SOURCE = """
class P(BaseBackgroundPlugin):
    {runtime}

    async def start(self):
        code = await self.fork(self.app)
        FILE.with_suffix(".code").write_text(str(code))

    async def fork(self, app):
        {body}
"""


def test_a_signal_to_what_is_forked_ends_it_and_does_not_reach_the_service(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Kind: all that a child inherits of the service, and that it could harm the service by."""
    names = {f"{way}_in_{place}": (way, place) for way, place in CASES}
    for name, (way, place) in names.items():
        runtime = "runtime = 'asyncio'" if place.startswith("asyncio") else ""
        source = SOURCE.format(runtime=runtime, body=PLACES[place].format(way=way))
        write_plugin(tmp_path / "plugins", name, source, PREAMBLE)
    toml = "[plugins]\n" + "".join(f"{name}.restart = 'never'\n" for name in names)
    with ServiceProcess(tmp_path, ["file", *names], toml) as service:
        codes = {name: tmp_path / "plugins" / f"{name}.code" for name in names}
        service.wait_until(lambda: all(path.exists() for path in codes.values()), 30)
        assert service.get("/readyz").status_code == 200
        assert "stopping" not in service.output
        assert service.stop() == 0
    for name in names:
        with subtests.test(name=name):
            assert codes[name].read_text() == "15"
            seen = json.loads((tmp_path / "plugins" / f"{name}.json").read_text())
            assert "refused" in str(seen["said"])
            assert seen["listening"] == seen["locked"] == []
            assert seen["handlers"] == ["0", "0"]
            assert seen["wakeup"] == -1


RETURNS = """
class P(BaseBackgroundPlugin):
    {runtime}

    async def start(self):
        pid = os.fork()
        if pid == 0:
            await {sleep}(0.01)  # it goes on as if it were the service
            FILE.write_text("went on")
        await {sleep}(0.01)
        _, status = os.waitpid(pid, 0)
        print("child ended with", os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.parametrize("style", ["trio", "asyncio"])
def test_a_child_that_comes_back_to_an_event_loop_of_the_service_is_ended(
    tmp_path: Path, style: str
) -> None:
    runtime = "runtime = 'asyncio'" if style == "asyncio" else ""
    source = RETURNS.format(runtime=runtime, sleep=f"{style}.sleep")
    write_plugin(tmp_path / "plugins", "p", source, PREAMBLE)
    with ServiceProcess(tmp_path, ["p"]) as service:
        assert service.wait_for(r"child ended with (\d+)")[1] == "70"
        assert "a forked child process returned to the service's event loop" in service.output
        assert service.stop() == 0, service.output
    assert not (tmp_path / "plugins" / "p.json").exists()
