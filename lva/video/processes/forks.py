"""Workers are forked from one process that has imported what each needs: `remains` starts it.

A worker starts in a fifth of the processor time, and shares most of its memory with the others.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
from contextlib import suppress
from typing import Final, Self

import trio

from lva.boot_clock import boot_time
from lva.video.processes.child import OwnChild, has_ended, start_module

#: Seconds until the code of a process that has ended is not waited for any longer.
PATIENCE: Final = 1.0
_LOST: Final = -signal.SIGKILL  # what a worker ends with when the process it was forked from does


class ForkedChild:
    """A process that was forked for us, and is reaped by the one it was forked from."""

    def __init__(self, pid: int, pidfd: int, reports: trio.socket.SocketType) -> None:
        self.pid: int = pid
        self.pidfd: int = pidfd
        self._reports = reports

    async def exit_code(self) -> int:
        """Wait until it has ended; see `lva.video.processes.child.Child`."""
        await trio.lowlevel.wait_readable(self.pidfd)
        code = b""
        with trio.move_on_after(PATIENCE), suppress(ConnectionResetError):
            code = await self._reports.recv(16)
        self._reports.close()
        return int(code) if code else _LOST


class ForkServer:
    """The process that workers are forked from; it is started when one is wanted, and again when it has died.

    Use as an async context manager; at its end the process has ended.

    Resources: the process and a socket to it. All workers end with it; their descriptors are the callers'.

    Cancellation: does not reach the end of the block, which takes little more than `PATIENCE` at most.

    Attributes:
        until: The time, as `lva.boot_clock.boot_time` has it, at which the process and all workers end.
    """

    def __init__(self) -> None:
        self._child: OwnChild | None = None
        self._orders: trio.socket.SocketType | None = None
        self._ordering = trio.Lock()
        self.until: float = math.inf

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await self._end()

    def warm_up(self) -> None:
        """Start the process, which takes a moment, before a worker is wanted.

        Raises:
            OSError: No process can be had.
        """
        if self._child is None:
            self._start()

    async def end_at(self, until: float) -> None:
        """Have the kernel end the process and all workers at a time, even if all of them are stopped then.

        Until another time is set, no worker starts from then on.

        Cancellation: the process may not know of the time then.

        Args:
            until: As `lva.boot_clock.boot_time` has it; infinity for never.
        """
        self.until = until
        await self._send_until()

    async def _send_until(self) -> None:
        if self._orders is not None:
            with suppress(ConnectionError):  # it has died, and is told when it is started again
                await self._orders.send(str(self.until).encode())

    async def fork(self, *descriptors: int) -> ForkedChild:
        """Have a worker forked that gets three descriptors.

        Cancellation: ends the wait. A worker may have been forked; it ends when the caller closes its end of
        the connection.

        Raises:
            OSError: No process can be had, or none any more.
        """
        async with self._ordering:
            self.warm_up()
            try:
                return await self._ordered(descriptors)
            except ConnectionError:  # it has died
                await self._end()
                self._start()
                return await self._ordered(descriptors)

    async def _ordered(self, descriptors: tuple[int, ...]) -> ForkedChild:
        if self._orders is None:
            raise ConnectionResetError("the process that workers are forked from is not running")
        if boot_time() >= self.until:
            raise TimeoutError("workers were to end by now")
        if self.until < math.inf:  # the process may be another one than before
            await self._send_until()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reports = trio.socket.from_stdlib_socket(ours)
        try:
            with theirs:
                await self._orders.sendmsg([b"fork"], [_rights(*descriptors, theirs.fileno())])
            told, ancillary, _, _ = await reports.recvmsg(16, socket.CMSG_SPACE(4))
            if not told:
                raise ConnectionResetError("the process that workers are forked from has died")
            if (number := int(told)) < 0:
                raise OSError(-number, os.strerror(-number))
        except BaseException:
            reports.close()
            raise
        if not ancillary:
            reports.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return ForkedChild(number, int.from_bytes(ancillary[0][2], "little"), reports)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._child = start_module("lva.video.processes.remains", theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self._orders = trio.socket.from_stdlib_socket(ours)

    async def _end(self) -> None:
        """Let it end: it does so when nobody can ask it for anything any more."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if (child := self._child) is None:
            return
        self._child = None
        with trio.move_on_after(PATIENCE):
            await child.exit_code()
        if not has_ended(child):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        await child.exit_code()
        os.close(child.pidfd)


def _rights(*descriptors: int) -> tuple[int, int, bytes]:
    data = b"".join(number.to_bytes(4, "little") for number in descriptors)
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, data
