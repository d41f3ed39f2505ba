"""The same requests through nginx: what it passes on as one request is read as that, and as nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from lva.http.connection import HttpConnection
from lva.http.idle import IdleConnections
from tests.http_server.corpus import cases

PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [pytest.mark.process, pytest.mark.soak]

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format passed escape=none '$upstream_status $request_method $request_uri';
    access_log {directory}/access.log passed;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    underscores_in_headers on;
    ignore_invalid_headers off;
    upstream service {{ server 127.0.0.1:{port}; keepalive 1; }}
    server {{
        listen unix:{directory}/front;
        client_header_timeout 50ms;
        client_body_timeout 50ms;
        keepalive_timeout 0;
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass_request_headers on;
            proxy_request_buffering off;
        }}
    }}
}}
"""


class Behind:
    """The server behind nginx, which notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"]
        self.asked.append(
            (scope["method"], (scope["raw_path"] + (b"?" + query if query else b"")).decode())
        )
        while (message := await receive()).get("more_body", False):
            pass
        if message["type"] == "http.request":
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"ok"})

    async def serve(self, stream: trio.SocketStream) -> None:
        async def succeed(begun: bytes) -> None:
            self.asked.append(("another protocol", repr(begun)))

        await HttpConnection(self.app, stream, {}, IdleConnections(), succeed).run()


@asynccontextmanager
async def proxied(directory: Path) -> AsyncIterator[Behind]:
    behind = Behind()
    # nginx serves as a user that can reach no file of ours.
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    configuration = CONFIGURATION.format(directory=directory, port=port)
    (directory / "nginx.conf").write_text(configuration)
    command = [
        PROGRAM or "nginx",
        "-c",
        str(directory / "nginx.conf"),
        "-e",
        str(directory / "error.log"),
    ]
    with subprocess.Popen(command) as nginx:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, behind.serve, [listener])
                while not (directory / "front").exists():
                    assert nginx.poll() is None, (directory / "error.log").read_text()
                    await trio.sleep(0.01)
                yield behind
                nursery.cancel_scope.cancel()
        finally:
            nginx.terminate()


async def ask(directory: Path, data: bytes) -> None:
    """Send a case, and read until nginx closes the connection."""
    with trio.move_on_after(2):
        async with await trio.open_unix_socket(directory / "front") as client:
            try:
                await client.send_all(data)
                async for _ in client:
                    pass
            except trio.BrokenResourceError:
                pass  # it was refused before all was sent


@pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="nginx is not installed")
async def test_what_nginx_passes_on_is_read_as_it_meant_it(tmp_path: Path) -> None:
    found = [case for case in dict.fromkeys(cases()) if case]
    wrong = []
    async with proxied(tmp_path) as behind:
        access = tmp_path / "access.log"
        seen = served = 0
        for case in found:
            behind.asked.clear()
            await ask(tmp_path, case)
            # nginx notes a request after its connection's end; of what it takes for no request, nothing.
            with trio.move_on_after(0.5):
                while len(lines := access.read_text(errors="replace").splitlines()) <= seen:
                    await trio.sleep(0.002)
            passed = [line.split(" ", 2) for line in lines[seen:]]
            seen = len(lines)
            answered = [(method, target) for status, method, target in passed if status == "200"]
            begun = [
                (method, target) for _, method, target in passed
            ]  # some never get to their end
            served += len(answered)
            if behind.asked not in (answered, begun):
                wrong.append((case, passed, list(behind.asked)))
    assert served > 150
    assert not wrong, "\n".join(map(repr, wrong[:10]))
