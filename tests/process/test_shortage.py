"""The system has no descriptors or threads left: requests wait, plugins back off, the service lives."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import ServiceProcess

pytestmark = pytest.mark.process

CLIENTS = 80
PLUGINS = ("history", "resource_monitor", "prometheus")
#: A thread's stack takes its part of the address space, so that only a few threads fit in.
FEW_THREADS = "ulimit -s 4194304; ulimit -v 25165824"
REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def limited(tmp_path: Path, limits: str) -> ServiceProcess:
    command = ["/bin/sh", "-c", f"{limits}; exec {sys.executable} -m lva run"]
    toml = "keep_alive_timeout = 60\n"
    return ServiceProcess(tmp_path, PLUGINS, toml=toml, command=command)


def all_served(service: ServiceProcess, stack: ExitStack) -> None:
    """Ask all at once, in the first moment, over connections that stay open; wait for every response."""
    clients = [stack.enter_context(service.connect(30)) for _ in range(CLIENTS)]
    for client in clients:
        client.sendall(REQUEST)
    for client in clients:
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_more_clients_than_file_descriptors(tmp_path: Path) -> None:
    """Connections leave descriptors to the plugins and the service; more clients wait for a place."""
    with limited(tmp_path, "ulimit -n 48") as service, ExitStack() as stack:
        all_served(service, stack)
        service.wait_until_ready()
        assert "lva_connection_errors_total" in service.get("/metrics").text
        assert service.stop() == 0, service.output
    said = [record["message"] for record in service.records if record["level"] != "INFO"]
    told = [text.partition(":")[0] for text in said if "blocked the event loop" not in text]
    assert told == ["new connections wait"]


@pytest.mark.parametrize(
    ("stack", "thread"), [(64, "lva-signals"), (9, "lva-terminator")], ids=["none", "one"]
)
def test_no_thread_for_the_service_itself(tmp_path: Path, stack: int, thread: str) -> None:
    """Kind: what is short is what the service cannot do without. One line says so, and no traceback.

    Threads have stacks of so many GiB, in an address space of twelve.
    """
    with limited(tmp_path, f"ulimit -s {stack << 20}; ulimit -v {12 << 20}") as service:
        assert service.wait() == 70
    (said,) = [line for line in service.lines if line.startswith("lva: ")]
    assert said.startswith(f"lva: no thread is left for {thread}; raise the limit")
    assert "Traceback" not in service.output


def test_few_threads(tmp_path: Path) -> None:
    """What needs a thread and gets none is tried again, as after any failure; nothing else fails."""
    with limited(tmp_path, FEW_THREADS) as service, ExitStack() as stack:
        all_served(service, stack)
        service.wait_until_ready()
        assert service.stop() == 0, service.output
    said = [record for record in service.records if record["level"] != "INFO"]
    assert any("can't start new thread" in record["message"] for record in said)
    assert not [record for record in said if "bug in the" in record["message"]]
