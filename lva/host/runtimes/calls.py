"""Calls of plugin code, which the caller can cancel, wait for as long as it likes, and abandon.

Nothing that a plugin raises gets out of one.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from lva.host import HOST_DIR
from lva.host.runtimes.errors import awaitable, split_cancelled, unwrap, without_host_frames
from lva.host.watch.clock import enter_plugin
from lva.stacks import frames_of_coroutine, line_of

_HOST_DIR: Final = str(HOST_DIR)


class Call:
    """One call of plugin code, which can be abandoned.

    Cancellation: who waits for `done` may stop to wait; the call goes on until `cancel`, and as long as its
    code ignores that.

    Errors: whatever the code raises is in `error`; nothing gets out.

    Attributes:
        what: What is called, for messages: ``"history.close"``.
        done: Set when the call has ended and, on Trio, all tasks below it with it.
        value: What it returned.
        error: What it raised, cancellation apart. None if it returned or was only cancelled.
        returned: Whether it returned.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.done: trio.Event = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.returned: bool = False

    def _returned(self, value: Any) -> None:
        self.value = value
        self.returned = True

    def _raised(self, error: BaseException) -> None:
        self.error = without_host_frames(error)

    def cancel(self) -> None:
        """Ask the call to end."""
        raise NotImplementedError

    def place(self) -> str:
        """Say where it is, as ``file:line in function``."""
        raise NotImplementedError


class TrioCall(Call):
    """A call in a task of its own, below a guard task, which is in the host's nursery.

    Attributes:
        nursery: The nursery that the call's task is in, once it is open. The call ends with all of it.
        elsewhere: Says where it is, if that is not where its task waits.
    """

    def __init__(
        self, what: str, plugin: str, fn: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        super().__init__(what)
        self.nursery: trio.Nursery | None = None
        self.elsewhere: Callable[[], str] | None = None
        self._plugin = plugin
        self._fn = fn
        self._args = args
        self._cancelled = False
        self._task: trio.lowlevel.Task | None = None

    def cancel(self) -> None:
        self._cancelled = True
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    def place(self) -> str:
        return waiting_at(self._task) if self.elsewhere is None else self.elsewhere()

    async def run(self) -> None:
        """Be the guard: open the nursery that the plugin's code is below, and wait for all of it.

        Cancellation: the host's own is raised again once the plugin's tasks have ended; all other is the
        plugin's, or was asked for with `cancel`, and ends here.

        Errors: end here, in `error`.
        """
        try:
            # The plugin's code is in a task below, because breaking Trio's nesting rules breaks the
            # nursery that the breaking task is in.
            async with trio.open_nursery() as self.nursery:
                if self._cancelled:
                    self.nursery.cancel_scope.cancel()
                self.nursery.start_soon(self._body, name=self.what)
            if self.nursery.cancel_scope.cancel_called and not self._cancelled:
                self.returned = False  # the plugin's code cancelled it
        except BaseException as error:
            cancelled, own = split_cancelled(error)
            try:
                if cancelled is not None and trio.current_effective_deadline() == -math.inf:
                    raise cancelled from None
                self._raised(unwrap(error) if own is None else own)
            finally:
                del cancelled, own  # or error, traceback and frame would keep one another alive
        finally:
            self.done.set()

    async def _body(self) -> None:
        self._task = trio.lowlevel.current_task()
        enter_plugin(self._plugin)
        # Here the plugin's code is called.
        self._returned(await awaitable(self.what, self._fn(*self._args)))


def waiting_at(task: trio.lowlevel.Task | None) -> str:
    """Say where a task is suspended, as ``file:line in function``, innermost own frame first.

    A task that waits in the host's own code for the children of a nursery is where its first child is.
    """
    if task is None:
        return "not started"
    frames = [*frames_of_coroutine(task.coro)]
    known = [frame for frame in frames if "/trio/" not in frame.f_code.co_filename][-1:]
    own = all(frame.f_code.co_filename.startswith(_HOST_DIR) for frame in known)
    place = line_of(known[0]) if known else "not started"
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return waiting_at(children[0]) if own and children else place
