"""Brokers' plugins at an address where something else listens: points wait, and each attempt is one line."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import ServiceProcess

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


@pytest.mark.process
@pytest.mark.soak
def test_points_wait_while_something_else_listens_where_a_broker_should(tmp_path: Path) -> None:
    """Kind: any other server than the one that is meant; no point is blamed, no attempt floods the log."""
    with ExitStack() as stack:
        toml, names = "", []
        for serve in (tls, http, silent, closing):
            port = stack.enter_context(listening(serve))
            brokers = {
                "redis_stream": f'url = "redis://127.0.0.1:{port}"\nstream = "s"',
                "rabbitmq": f'url = "amqp://127.0.0.1:{port}"\nrouting_key = "q"',
            }
            for plugin, config in brokers.items():
                name = f"{plugin}_{serve.__name__}"
                names.append(name)
                toml += f'[plugins.{name}]\nfrom = "{plugin}"\nbackoff_initial = 0.1\nbackoff_max = 0.2\n'
                toml += f"[plugins.{name}.config]\ntimeout = 0.3\n{config}\n"
        with ServiceProcess(tmp_path, names, toml) as service:

            def tried() -> bool:
                plugins = service.get("/plugins").json()["plugins"]  # which is a point for each
                return all(plugin["restarts"] > 1 for plugin in plugins)

            service.wait_until(tried)
            service.wait_until(
                lambda: service.get("/readyz").json().get("reasons", {}).keys() == {*names}
            )

            def kept() -> bool:
                """Return whether all points wait; one look may come between two places that they wait in."""
                accounts = [each["ledger"] for each in service.get("/plugins").json()["plugins"]]
                return all(
                    account["queued"] + account["in_flight"] == account["accepted"] > 0
                    and not account["dropped"]
                    for account in accounts
                )

            service.wait_until(kept)
            crashes = [item for item in service.records if item["message"].startswith("crashed: ")]
            assert {item["plugin"] for item in crashes} == {*names}
            assert [
                item for item in crashes if "exception" in item or "\n" in item["message"]
            ] == []
