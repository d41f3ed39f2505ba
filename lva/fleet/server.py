"""The Redis server as an agent has it: scripts that are run with short limits, in threads.

The server says on each connection which of its runs it is, and each script names that run. So no agent
goes on with a server that has been restarted, and may have lost data, as if it had not: see `open.lua`.
"""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from typing import Any, Final

import trio
from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from lva.fleet.config import FleetConfig

#: The version of what is kept: agents of another one cannot use it.
FORMAT: Final = "1"
#: What is kept, as `scripts/prelude.lua` names it; the first is the key of the fleet itself.
KEYS: Final = (
    "", "streams", "versions", "wanted", "states", "leases", "epochs", "offers", "changed", "removed",
    "beats", "agents", "resumed",
)  # fmt: skip


#: What a replica refuses to do, and what a server adds to an error of a script: where that is in it.
_REPLICA: Final = re.compile("read only replica|MASTER is down")
_WHERE: Final = re.compile(
    r"(ERR )?Error running script \(call to \w+\): (@user_script: ?\d+: )+(-[A-Z]+ )?"
    r"|\.? script: \w+, on @user_script:\d+\.?"
)
#: Most characters that are told of an error.
_MOST_WORDS: Final = 300


class FleetServerError(Exception):
    """The server cannot be used now, or refuses; the message says which, and why."""


class OldServerError(FleetServerError):
    """The server was started again, and this agent has not opened it since: it may have lost data."""


class _OtherRunError(RedisError):
    """A connection is to another run of the server than the one before."""


class FleetServer:
    """One connection to the server, used by one caller at a time.

    Args:
        config: Where it is.
        logger: Where it is told what could not be done.

    Attributes:
        commands: How many commands were sent.
    """

    def __init__(self, config: FleetConfig, logger: logging.Logger) -> None:
        self.commands: int = 0
        self._url = config.url
        self._logger = logger
        self._limit = min(2.0, config.lease / 4)
        self._run_id = ""
        self._client: Any = Redis.from_url(
            config.url,
            **config.client_options(),
            decode_responses=True,
            encoding_errors="surrogateescape",  # what another program has written is told back as it was
            max_connections=1,
            socket_timeout=self._limit,
            socket_connect_timeout=self._limit,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._connected,
        )
        prefix = f"lva:{{{config.name}}}"
        self._keys = [f"{prefix}:{key}" if key else prefix for key in KEYS]
        self._scripts: dict[str, Script] = {}
        self._prelude = _script("prelude")
        self._thread = trio.CapacityLimiter(1)

    @property
    def keys(self) -> dict[str, str]:
        """The keys of what is kept, by their names in `KEYS`."""
        return dict(zip(KEYS, self._keys, strict=True))

    async def run(self, script: str, *arguments: str | int) -> list[Any]:
        """Run one of `lva/fleet/scripts` and return its reply, without the ``ok`` at its head.

        Cancellation: leaves it running; it may have been carried out.

        Raises:
            OldServerError: Nobody has opened the server since it was started.
            ScriptRefusedError: The script says no; nothing was done.
            FleetServerError: The server is unreachable, too slow, or has what another program has written.
        """
        reply: list[Any] = await self._in_thread(self._run, script, arguments)
        if reply[0] == "ok":
            return reply[1:]
        if reply[0] == "boot":
            raise OldServerError("the server was started again")
        raise ScriptRefusedError(*map(str, reply))

    async def attempt(self, script: str, *arguments: str | int) -> list[Any] | None:
        """Run a script as `run` does; return None if it refuses: another agent was faster, a beat tells more.

        Cancellation: as that of `run`.

        Raises:
            FleetServerError: As `run`.
        """
        try:
            return await self.run(script, *arguments)
        except ScriptRefusedError:
            return None

    async def insist(self, script: str, *arguments: str | int) -> bool:
        """Run a script; return whether it was carried out. If not, the lease ends by itself.

        Cancellation: as that of `run`.
        """
        try:
            return await self.attempt(script, *arguments) is not None
        except FleetServerError as error:
            self._logger.warning("fleet: %s was not carried out: %s", script, error)
            return False

    async def read(self, command: str, *arguments: str | int) -> Any:
        """Run a command that only reads.

        Cancellation: leaves the thread to its own limits.

        Raises:
            FleetServerError: As `run`.
        """
        return await self._in_thread(self._read, command, arguments)

    async def evicts(self) -> str | None:
        """Return the server's policy if it may delete keys of the fleet when its memory is full.

        Raises:
            FleetServerError: As `run`.
        """
        found = await self.read("INFO", "memory")
        policy = str(found.get("maxmemory_policy", ""))
        return policy if policy.startswith("allkeys") and found.get("maxmemory") else None

    async def close(self) -> None:
        """Close the connection."""
        await self._in_thread(self._client.close)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        try:
            return await trio.to_thread.run_sync(
                work, *arguments, limiter=self._thread, abandon_on_cancel=True
            )
        except _OtherRunError as error:
            raise OldServerError(str(error)) from None
        except ResponseError as error:
            raise FleetServerError(f"{self._url} refuses: {_words(error)}") from error
        except (RedisError, OSError) as error:
            raise FleetServerError(f"{self._url}: {_words(error)}") from error

    def _run(self, name: str, arguments: tuple[str | int, ...]) -> list[Any]:
        script = self._scripts.get(name)
        if script is None:
            text = f"{self._prelude}\n{_script(name)}"
            script = self._scripts[name] = self._client.register_script(text)
        self.commands += 1
        if not self._run_id:
            self._client.ping()
        try:
            found: list[Any] = script(keys=self._keys, args=[self._run_id, *arguments])
        except ResponseError as error:
            if _REPLICA.search(str(error)):  # the address may lead to another server by now
                self._client.connection_pool.disconnect()
            if "WRONGTYPE" in str(error):
                raise ResponseError(self._wrong_key() or str(error)) from None
            raise
        return found

    def _wrong_key(self) -> str | None:
        """Return which key another program has written to, so that no script can use it."""
        for name, key in self.keys.items():
            kind = self._client.type(key)
            if kind not in ("none", "zset" if name in ("changed", "removed") else "hash"):
                return f"the key {key} is a {kind}, which no agent has written"
        return None

    def _read(self, command: str, arguments: tuple[str | int, ...]) -> Any:
        self.commands += 1
        return self._client.execute_command(command, *arguments)

    def _connected(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        match = re.search(r"^run_id:(\w+)", connection.read_response(), re.MULTILINE)
        if match is None:
            raise RedisError("the server does not say which of its runs this is (INFO server)")
        before, self._run_id = self._run_id, match[1]
        if before not in (
            "",
            self._run_id,
        ):  # what is about to be sent was meant for the run before
            raise _OtherRunError("the server was started again")


class ScriptRefusedError(Exception):
    """A script did nothing, because of what is there.

    Args:
        why: As the script says.
        more: What it adds.
    """

    def __init__(self, why: str, *more: str) -> None:
        super().__init__(why, *more)
        self.why: str = why
        self.more: tuple[str, ...] = more


def _words(error: Exception) -> str:
    return _WHERE.sub("", str(error)).removesuffix(".")[:_MOST_WORDS]  # one ends so in Redis 6.2


def _script(name: str) -> str:
    return files("lva.fleet").joinpath("scripts", f"{name}.lua").read_text("utf-8")
