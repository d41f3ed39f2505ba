"""A RabbitMQ server of the tests' own: on loopback, with its data in a directory of theirs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from tests.plugins.programs import Program, program
from tests.support import free_port

T = TypeVar("T")

#: What its TLS port shows, with the key.
CERTIFICATE: Final = Path(__file__).parent / "localhost.pem"
#: Debian's wrapper in /usr/sbin changes to the user `rabbitmq`; this is what it calls.
_PROGRAMS: Final = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


class RabbitMQServer(Program):
    """One node, which keeps its port and its data over restarts.

    Its name service, epmd, is started beside it, since the node would leave one behind that it had
    started itself. Where RabbitMQ is missing the test is skipped, on CI it fails.

    Args:
        directory: Where its data, log and cookie go; removed at the end.
    """

    patience = 100.0

    def __init__(self, directory: Path) -> None:
        path = next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
        self.directory = directory
        self.port, self.tls_port, dist_port, epmd_port = (free_port() for _ in range(4))
        (directory / "enabled_plugins").write_text("[].")
        (directory / "rabbitmq.conf").write_text(
            "log.console = true\n"
            f"listeners.ssl.default = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.certfile = {CERTIFICATE}\nssl_options.keyfile = {CERTIFICATE}\n"
        )
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node, instead of watching over it
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODENAME": f"lva-{self.port}@localhost",
        }
        command = [path or program("rabbitmq-server"), "-noinput"]
        super().__init__(command, directory / "output", start=True, env=env, cwd=directory)
        self._epmd = subprocess.Popen(
            ["epmd", "-address", "127.0.0.1", "-port", str(epmd_port)], env=env
        )

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._epmd.kill()
        self._epmd.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return f"amqp://127.0.0.1:{self.port}/"

    def _answers(self) -> bool:
        """Return whether the node greets a client."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\0\0\x09\x01")
                return connection.recv(1) == b"\x01"  # the start of Connection.Start
        except OSError:
            return False

    def restore(self) -> None:
        """Have the node up, whatever a test did to it."""
        if self.runs:
            self.resume()
        else:
            self.start()

    # What tests ask of it. Not to be called on an asyncio loop; on Trio, in a worker thread.

    def do(self, work: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Do something over a channel of its own."""

        async def main() -> T:
            async with await aio_pika.connect(self.url, timeout=20) as connection:
                return await work(await connection.channel())

        return asyncio.run(main())

    def declare(self, queue: str, **arguments: Any) -> None:
        """Declare a durable queue."""
        self.do(lambda channel: channel.declare_queue(queue, durable=True, arguments=arguments))

    def delete(self, queue: str) -> None:
        """Delete a queue."""
        self.do(lambda channel: channel.queue_delete(queue))

    def send(self, queue: str, *bodies: bytes, **properties: Any) -> None:
        """Put messages into a queue, in order."""

        async def send(channel: AbstractChannel) -> None:
            for body in bodies:
                message = aio_pika.Message(body, delivery_mode=2, **properties)
                await channel.default_exchange.publish(message, queue)

        self.do(send)

    def count(self, queue: str) -> int:
        """Return how many messages are ready in a queue: those given to a consumer do not count."""

        async def count(channel: AbstractChannel) -> int:
            return (await channel.get_queue(queue)).declaration_result.message_count or 0

        return self.do(count)

    def take(self, queue: str) -> list[AbstractIncomingMessage]:
        """Take all ready messages out of a queue."""

        async def take(channel: AbstractChannel) -> list[AbstractIncomingMessage]:
            source = await channel.get_queue(queue)
            messages = []
            while (message := await source.get(fail=False)) is not None:
                await message.ack()
                messages.append(message)
            return messages

        return self.do(take)
