"""A worker process as the service has it: started, heard, and ended for sure."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final

import trio

from lva.contract import AnalyticsInfo
from lva.video import messages
from lva.video.board import STEPS, Board, new_board
from lva.video.growth import largest_growth
from lva.video.processes.child import Child, has_ended, start_module
from lva.video.processes.forks import ForkServer
from lva.video.processes.printed import Printed

#: Rungs of the stop ladder: how long, in seconds, each is waited for.
AFTER_MESSAGE: Final = 0.5
AFTER_SIGTERM: Final = 1.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
#: Bytes that are read at once.
_PIECE: Final = 16 * 1024
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def worker_spec(plugin: AnalyticsInfo, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker is sent of an analytics plugin.

    Args:
        plugin: It.
        parameters: The stream's, over the defaults.
    """
    return {
        "name": plugin.name,
        "path": plugin.path,
        "files": dict(plugin.files),
        "module": plugin.module,
        "class_module": plugin.cls.__module__,
        "class": plugin.cls.__name__,
        "parameters": dict(parameters),
    }


class WorkerProcess:
    """The process of one stream.

    Made by `open_worker`, which has it `watch`.

    Attributes:
        board: What it counts, and where it is.
        printed: What it writes to its descriptors 1 and 2.
        rung: What ended it: ``"message"``, ``"SIGTERM"``, ``"SIGKILL"``; None while it runs, or if it ended
            by itself.
        hangs: Whether asking it to end is useless.
        patience: For how many seconds it is waited for once it was asked.
    """

    def __init__(
        self,
        child: Child,
        connection: trio.SocketStream,
        board: Board,
        printed: Printed,
        analytics: Sequence[str],
    ) -> None:
        self.board: Board = board
        self.printed: Printed = printed
        self.rung: str | None = None
        self.hangs: bool = False
        self.patience: float = AFTER_MESSAGE
        self._child = child
        self._code: int | None = None
        self._connection = connection
        self._analytics = analytics
        self._sending = trio.Lock()
        self._waiting = trio.Lock()
        self._cpu = 0.0
        self._stat = self._statm = -1
        self._received = bytearray()

    def watch(self) -> None:
        """Open what tells its memory and processor time, which are read often.

        Resources: two descriptors, which `close` closes, also if only one of them could be opened.

        Raises:
            OSError: It cannot be opened, or the process has gone.
        """
        self._stat = os.open(f"/proc/{self.pid}/stat", os.O_RDONLY)
        self._statm = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._code

    def memory(self) -> int | None:
        """Return its resident memory in bytes; None once it has gone."""
        with suppress(ProcessLookupError):
            return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE or None
        return None

    def shown(self) -> dict[str, int | None]:
        """Return what `/streams/ID` shows: its memory has that of what its plugins started."""
        own, board = self.memory(), self.board
        memory = None if own is None else own + board["processes_bytes"]
        return {"pid": self.pid, "memory": memory, "processes": board["processes"]}

    @property
    def running(self) -> str | None:
        """The analytics plugin whose code runs in it, or ran when it died; None if that is not known."""
        if len(self._analytics) == 1:
            return self._analytics[0]
        return self._analytics[self.board["step_analytics"]] if self.board["step"] else None

    def culprit(self) -> str | None:
        """Return the analytics plugin that has started processes, as far as that is known."""
        if len(self._analytics) == 1:
            return self._analytics[0]
        step = self.step()
        return None if step is None else step[0]

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used; once it has gone, what was last read."""
        with suppress(OSError):
            fields = os.pread(self._stat, 1024, 0).rpartition(b")")[2].split()
            self._cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return self._cpu

    def step(self) -> tuple[str, str] | None:
        """Return the analytics plugin that it is in, or was in when it died, and where; None if in none."""
        step, number = self.board["step"], self.board["step_analytics"]
        # A plugin that writes where it should not may have written there.
        if not (0 < step < len(STEPS) and 0 <= number < len(self._analytics)):
            return None
        name, frame = self._analytics[number], self.board["step_frame"]
        return name, f"{name}, {STEPS[step]}()" + (f" at frame {frame}" if frame else "")

    def grew_most(self, memory: int) -> tuple[str, int] | None:
        """Return the analytics plugin whose calls added most of its memory, and how many bytes; or None.

        Args:
            memory: How many bytes it has.
        """
        found = largest_growth(self.board, memory)
        # A plugin that writes where it should not may have written there.
        if found is None or found[0] >= len(self._analytics):
            return None
        return self._analytics[found[0]], found[1]

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; nothing happens if the process has gone.

        Cancellation: may leave half a message; the process is to be ended then.
        """
        async with self._sending:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._connection.send_all(messages.encode(dict(message)))

    async def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """Wait for the next message; None once it has gone, or sends what is no message.

        Cancellation: loses nothing.
        """
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, messages.MessageError):
            if await self._gathered(messages.HEAD.size):
                text, data = messages.lengths(bytes(self._received[: messages.HEAD.size]))
                whole = messages.HEAD.size + text + data
                if await self._gathered(whole):
                    body = bytes(self._received[messages.HEAD.size : whole])
                    del self._received[:whole]
                    return messages.decode(body[:text]), body[text:]
        return None

    async def _gathered(self, count: int) -> bool:
        """Wait until so many bytes have come; return whether they have before its end."""
        while len(self._received) < count:
            piece = await self._connection.receive_some(max(count - len(self._received), _PIECE))
            if not piece:
                return False
            self._received += piece
        return True

    async def wait(self) -> int:
        """Wait until it has ended, what its plugins started in its group too; return its exit code.

        Cancellation: ends the wait; the process is not touched.
        """
        async with self._waiting:
            if self._code is None:
                self._code = await self._child.exit_code()
        return self._code

    async def stop(self) -> None:
        """End it for sure: by a message, then SIGTERM, then SIGKILL; then it is reaped.

        Cancellation: does not cut it short; it takes at most a second and a half and a moment.
        """
        with trio.CancelScope(shield=True):
            if not self.hangs and not has_ended(self._child):
                with trio.move_on_after(self.patience):
                    await self.send({"type": "stop"})
                    await self.wait()
                self._note("message")
            if not has_ended(self._child):
                signal.pidfd_send_signal(self._child.pidfd, signal.SIGTERM)
                with trio.move_on_after(AFTER_SIGTERM):
                    await self.wait()
                self._note("SIGTERM")
            if not has_ended(self._child):
                self.kill()
                await self.wait()
                self._note("SIGKILL")
            await self.wait()

    def kill(self) -> None:
        """End it at once; `wait` reaps it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._child.pidfd, signal.SIGKILL)

    def _note(self, rung: str) -> None:
        if self.rung is None and has_ended(self._child):
            self.rung = rung

    def close(self) -> None:
        """Close the descriptors; the process has ended."""
        self._connection.socket.close()
        self.printed.close()
        os.close(self._child.pidfd)
        for descriptor in {self._stat, self._statm} - {-1}:
            os.close(descriptor)
        self._stat = self._statm = -1


@asynccontextmanager
async def open_worker(
    spec: Mapping[str, Any], forks: ForkServer | None = None
) -> AsyncIterator[WorkerProcess]:
    """Start a worker and send it its stream; at the end of the block it has ended and is reaped.

    Cancellation: in the block, the worker is stopped first, as by `WorkerProcess.stop`; as it starts, none
        is left.

    Args:
        spec: The first message: stream, source, analytics.
        forks: The process that it is forked from; without it, it is a program of its own.

    Raises:
        OSError: No process or descriptor can be had.
    """
    # What the service keeps if the worker starts, and what it gives away.
    with ExitStack() as kept, ExitStack() as given:
        ours, theirs = socket.socketpair()
        kept.callback(ours.close)
        given.callback(theirs.close)
        printed, output = os.pipe2(os.O_CLOEXEC)
        kept.callback(os.close, printed)
        given.callback(os.close, output)
        os.set_blocking(output, False)
        board, descriptor = new_board()
        kept.callback(board.close)
        given.callback(os.close, descriptor)
        descriptors = theirs.fileno(), descriptor, output
        child: Child = (
            start_module("lva.video.worker.main", *descriptors)
            if forks is None
            else await forks.fork(*descriptors)
        )
        kept.pop_all()
    connection = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    names = [str(each["name"]) for each in spec["analytics"]]
    worker = WorkerProcess(child, connection, board, Printed(printed), names)
    begun = False
    try:
        worker.watch()
        await worker.send(spec)
        begun = True
        yield worker
    finally:
        await worker.stop()
        worker.close()
        if not begun:
            board.close()  # nobody has it
