"""How many worker threads each plugin may have at a time: a bound of its own, Trio's default number.

`trio.to_thread.run_sync`, and with it name look-ups and `trio.Path`, takes the run's default limiter when it
is given none. That is one for all: forty threads that block would keep every plugin, and the service, from
having another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio
import trio._threads

from lva.logs.loggers import current_plugin

#: How many threads at a time a plugin has from the default limiter. A plugin may set another number.
THREADS: Final = 40


class LimiterOfEach:
    """Stands for the run's default limiter, and is another one for each plugin's code.

    Has the methods and attributes of `trio.CapacityLimiter`, which has no subclasses.

    Args:
        service: The limiter of what runs for no plugin.
    """

    _service: trio.CapacityLimiter
    _of_plugins: dict[str, trio.CapacityLimiter]
    _lent: dict[object, trio.CapacityLimiter]

    def __init__(self, service: trio.CapacityLimiter) -> None:
        # Past `__setattr__`, which sets the attributes of the limiter that is meant.
        vars(self).update(_service=service, _of_plugins={}, _lent={})

    def of(self, plugin: str | None) -> trio.CapacityLimiter:
        """Return a plugin's limiter; the service's own for None."""
        if plugin is None:
            return self._service
        if plugin not in self._of_plugins:
            self._of_plugins[plugin] = trio.CapacityLimiter(THREADS)
        return self._of_plugins[plugin]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of(current_plugin.get()), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.of(current_plugin.get()), name, value)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """As Trio's."""
        limiter = self.of(current_plugin.get())
        await limiter.acquire_on_behalf_of(borrower)
        self._lent[borrower] = limiter

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """As Trio's."""
        limiter = self.of(current_plugin.get())
        limiter.acquire_on_behalf_of_nowait(borrower)
        self._lent[borrower] = limiter

    def release_on_behalf_of(self, borrower: object) -> None:
        """As Trio's. What ran for a plugin may be given back by who runs for none."""
        limiter = self._lent.pop(borrower, None) or self.of(current_plugin.get())
        limiter.release_on_behalf_of(borrower)

    async def acquire(self) -> None:
        """As Trio's."""
        await self.acquire_on_behalf_of(trio.lowlevel.current_task())

    def acquire_nowait(self) -> None:
        """As Trio's."""
        self.acquire_on_behalf_of_nowait(trio.lowlevel.current_task())

    def release(self) -> None:
        """As Trio's."""
        self.release_on_behalf_of(trio.lowlevel.current_task())

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


@contextmanager
def a_limiter_for_each() -> Iterator[None]:
    """Let the run's default limiter be a `LimiterOfEach` while inside. In a Trio task.

    Cancellation, Errors: of the block pass; the limiter is what it was before.
    """
    # Trio has no way to set it; the variable is read at each call that needs it.
    variable: Any = trio._threads._limiter_local  # noqa: SLF001 - no setter is public
    before = trio.to_thread.current_default_thread_limiter()
    variable.set(LimiterOfEach(before))
    try:
        yield
    finally:
        variable.set(before)
