"""Where a plugin's code runs, and how the host calls it without depending on it ever returning.

There are two places: the service's own Trio loop (`TrioRuntime`), and for asyncio-style files an asyncio
loop in a thread of its own (`AsyncioRuntime`). The rest of the host knows only `Runtime`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from lva.host.runtimes.calls import Call, TrioCall
from lva.host.runtimes.loop import LoopThread
from lva.host.runtimes.own_tasks import OnFailure
from lva.host.runtimes.patience import Patience


@dataclass(frozen=True, slots=True)
class Constructed:
    """What calling a plugin class led to: an instance or an error."""

    instance: Any = None
    error: BaseException | None = None


#: Calls a route's handler, in a request's task, with a request that is complete and the path's variables.
Across = Callable[..., Awaitable[Any]]


class Runtime(Protocol):
    """Where the code of one plugin runs. Everything the host asks of it.

    Attributes:
        across: Calls the handlers of the plugin's routes; None if they run where requests are handled.
    """

    across: Across | None

    def report_to(self, on_failure: OnFailure) -> None:
        """Say what is called, on Trio, for errors in tasks of the plugin that the host did not start."""

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class; return None if it had not returned after `timeout` seconds.

        Cancellation: ends the wait; the call is abandoned.
        """

    def call(self, what: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> Call:
        """Start calling a coroutine function of the plugin; see `Call` for cancellation and errors.

        It is a `TrioCall` (`calls.py`) or an `AsyncioCall` (`on_asyncio.py`).
        """

    def begin(self, body: Callable[[], Awaitable[Any]]) -> TrioCall:
        """Start the host's task for one attempt, in the plugin's nursery, on the service's loop.

        Args:
            body: What the task runs: it calls the plugin's methods by `run` and `follow`.
        """

    def equip(self, members: Iterable[Any], nursery: trio.Nursery) -> None:
        """Give the instances what they may use during an attempt; on Trio, the body's nursery."""

    def run(self, what: str, fn: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """Call a method of the plugin, to be awaited in the body.

        Cancellation: of the body reaches the method, and is waited for.

        Errors: the method's own are raised.
        """

    def follow(self, what: str, fn: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """Call `start()`, to be awaited in the body.

        Cancellation: reaches it on Trio; on asyncio it goes on, and ends after `close()`.

        Errors: its own are raised.
        """

    async def all_done(self) -> None:
        """Wait until the plugin's tasks outside of the body's nursery have ended."""

    async def settle(self, patience: Patience, limit: float) -> list[str] | None:
        """After `close()`: end what is left of the attempt; return what it was, or None if it does not end.

        Cancellation: does not reach it.

        Args:
            patience: What bounds the wait.
            limit: For how long at most, in seconds.
        """

    async def end(self, patience: Patience, limit: float) -> bool:
        """After the last attempt: end the place itself; return whether it has ended. See `settle`."""

    def stubborn(self) -> tuple[list[str], list[str]]:
        """Name the tasks and the threads of the runtime's own that have not ended."""

    def not_ended(self) -> str:
        """Say what of the runtime's own has not ended, for messages."""
        tasks, threads = self.stubborn()
        what = "; ".join([*tasks, *threads]) or "its event loop, which got no turn in that time"
        return f"not ended, although cancelled: {what}"

    def loop_thread(self) -> LoopThread | None:
        """Return the thread of the plugin's asyncio loop, while it has one."""
