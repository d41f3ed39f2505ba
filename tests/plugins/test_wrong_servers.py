"""Brokers' plugins at an address where something else listens: points wait, and each attempt is one line."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.sinks import ledger_of, life_of, running_sink
from tests.support import numbered, until

CERTIFICATE = Path(__file__).with_name("localhost.pem")
PAGE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def tls(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.wrap_socket(connection, server_side=True)


def http(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(PAGE)


def silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def closing(connection: socket.socket) -> None:
    """Do nothing: it is closed at once."""


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection, in a thread of its own, with a function; yield the port."""

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=handle, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


BROKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "redis_stream": lambda port: {"url": f"redis://127.0.0.1:{port}", "stream": "s"},
    "rabbitmq": lambda port: {"url": f"amqp://127.0.0.1:{port}", "routing_key": "q"},
}


@pytest.mark.slow("servers in real time, one of which says nothing")
@pytest.mark.parametrize(
    ("name", "serve"),
    [
        *((name, serve) for name in BROKERS for serve in (tls, http, closing)),
        ("redis_stream", silent),
        pytest.param("rabbitmq", silent, marks=pytest.mark.soak),  # its good-bye is waited for
    ],
)
async def test_points_wait_while_something_else_listens_where_a_broker_should(
    tmp_path, name, serve, caplog
):
    """Kind: any other server than the one that is meant; no point is blamed, no attempt floods the log."""
    if name == "rabbitmq" and "CI" not in os.environ:
        pytest.importorskip("aio_pika")
    with listening(serve) as port:
        config = {"timeout": 0.3, **BROKERS[name](port)}
        async with running_sink(tmp_path, name, config, False, shutdown_timeout=2) as host:
            host.publish(numbered(5))
            await until(lambda: life_of(host).record.restarts > 1)
            account = ledger_of(host)
            assert (account.accepted, account.queued + account.in_flight) == (5, 5)
            await until(lambda: name in host.host.not_ready())
    crashes = [record for record in caplog.records if record.getMessage().startswith("crashed: ")]
    assert len(crashes) > 1
    assert not [each for each in crashes if each.exc_info or "\n" in each.getMessage()]
