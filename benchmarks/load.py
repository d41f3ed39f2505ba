"""A closed-loop HTTP/1.1 load: a fixed number of connections, each sending as soon as it is answered."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a load run saw. Latencies are in seconds."""

    requests: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def quantile(self, q: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class _Connection:
    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address = address
        self._request = request
        self.buffer = b""
        self.begun = 0.0

    def send(self) -> None:
        self.begun = time.perf_counter()
        self.buffer = b""
        self.socket.sendall(self._request)

    def complete(self) -> bool:
        """Read what is there; return whether the response is complete. Statuses but 200 are errors."""
        self.buffer += self.socket.recv(65536)
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"unexpected answer: {head[:80]!r}")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return False
        if b"connection: close" in head.lower():
            self.reconnect()
        return True

    def reconnect(self) -> None:
        self.socket.close()
        self.socket = socket.create_connection(self._address)


def run_load(port: int, path: str, seconds: float, connections: int = 32) -> Load:
    """Load ``127.0.0.1:port`` for `seconds` and return what was seen."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    for _ in range(connections):
        connection = _Connection(("127.0.0.1", port), request)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send()
    begun = time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        for key, _ in selector.select(0.1):
            connection = key.data
            before = connection.socket
            if connection.complete():
                latencies.append(time.perf_counter() - connection.begun)
                if connection.socket is not before:
                    selector.unregister(before)
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send()
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    selector.close()
    return Load(len(latencies), now - begun, latencies)


def serves(port: int) -> bool:
    """Return whether ``GET /ping`` is answered there."""
    try:
        return run_load(port, "/ping", 0.2, connections=1).requests > 0
    except (OSError, RuntimeError):
        return False


@contextmanager
def serving(
    command: list[str], port: int, stdout: int | None = None, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, from when it serves ``/ping`` on a port."""
    env = {**os.environ, **env}
    child = subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not serves(port):
            assert time.monotonic() < deadline, f"nothing is served: {command}"
            time.sleep(0.05)
        yield child
    finally:
        child.terminate()
        child.wait()
