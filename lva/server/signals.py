"""The signals that stop the service, heard in a thread of its own.

Python runs the handlers of signals in the main thread, once that returns from whatever C function it is in,
which may be never; and a plugin may put its own in their place. The wake-up descriptor is written to at once,
whoever handles the signal. So a thread reads it, and nothing depends on what the main thread does. A C
function that also keeps the interpreter's lock cannot be helped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import trio

from lva.host.process.needed_threads import start_needed
from lva.host.process.pieces import Piece
from lva.host.process.state import note_own
from lva.host.receipt import EXIT_UNCLEAN
from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.service")

#: All ask for a stop. SIGHUP comes when a terminal is closed, SIGQUIT from Ctrl-\ in one.
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: What ``nohup`` and shells set to be ignored stays so.
_LEFT_IGNORED: Final = frozenset({signal.SIGHUP, signal.SIGQUIT})
#: By default these end the process, and timers and limits that a plugin sets send them.
_HARMLESS: Final = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGXCPU)
#: Programs that wrap the service (``timeout``, ``uv run``) pass a Ctrl-C on that the terminal has also
#: sent to the whole group; both are one wish. In seconds.
_SAME_WISH: Final = 0.05
#: How long, in seconds, the thread waits after a failure of its own.
_NEXT_TRY: Final = 0.1


class Signals:
    """The first signal asks for a stop, the second ends the process at once.

    Works from the moment `handled` is entered, before there is an event loop. The callbacks may be called in
    any thread, and twice.

    Attributes:
        received: The first one.
        on_first: Called with its number.
        on_second: Called with that of the second; without it, the process just ends.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.on_first: Callable[[int], None] | None = None
        self.on_second: Callable[[int], None] | None = None
        self._received_at = 0.0
        self._reader = self._writer = self._set = -1
        self._token: trio.lowlevel.TrioToken | None = None
        self._heard: dict[int, int] = dict.fromkeys(SIGNALS, 0)
        self._handled: dict[int, int] = dict.fromkeys(SIGNALS, 0)
        self._wishes: dict[tuple[int, int], object] = {}

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside, and as before afterwards. In the main thread.

        Resources: a pipe, and a daemon thread that hears signals while the event loop is blocked; both stay
        until the process ends.

        Raises:
            NoThreadError: There is no thread to hear them in.
        """
        self._open_pipe()
        start_needed(threading.Thread(target=self._hear, name="lva-signals", daemon=True))
        before = {number: signal.signal(number, self._handle) for number in _ours()}
        harmless = {number: signal.signal(number, _do_nothing) for number in _deadly()}
        try:
            with self._wakes_us():
                yield
        finally:
            for number, handler in before.items():
                # Once told to stop, the exit code is decided: no later signal may change it.
                signal.signal(number, handler if self.received is None else signal.SIG_IGN)
            for number, handler in harmless.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def left_to_trio(self) -> Iterator[None]:
        """Let `trio.run` take the wake-up descriptor, which it takes for its own, while inside."""
        signal.set_wakeup_fd(-1)
        try:
            yield
        finally:
            self._token = (
                None  # also where the event loop has failed, and nothing in it is unwound yet
            )
            self.keep_hearing()

    @contextlib.contextmanager
    def heard_beside_trio(self) -> Iterator[None]:
        """Take Trio's place there again, and wake it in turn, while inside."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            with self._wakes_us():
                yield
        finally:
            self._token = None

    def keep_hearing(self) -> bool:
        """Take the wake-up descriptor; return whether it was somebody else's. In the main thread."""
        was = self._set
        try:
            return self._be_woken() != was and self._token is not None
        except (OSError, ValueError):
            return False  # the pipe was closed, or is another thing by now: that is another matter

    @property
    def state(self) -> Piece:
        """The wake-up descriptor as state of the process that plugins must leave alone."""
        return Piece(
            "the wake-up descriptor of signals", self.keep_hearing, lambda _: None, shown=False
        )

    @contextlib.contextmanager
    def _wakes_us(self) -> Iterator[None]:
        before = self._be_woken()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)

    def _be_woken(self) -> int:
        """Take the wake-up descriptor; return what it was."""
        self._set = self._writer  # which another thread may replace
        return signal.set_wakeup_fd(self._set, warn_on_full_buffer=False)

    def _open_pipe(self) -> None:
        # No sockets: a plugin can give all of these a timeout by `socket.setdefaulttimeout`.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._reader, self._writer = reader, writer
        note_own(reader)
        note_own(writer)

    def _hear(self) -> None:
        while True:
            try:
                for number in os.read(self._reader, 64):
                    if number in self._heard:
                        self._note_heard(number)
                if (token := self._token) is not None:
                    with contextlib.suppress(trio.RunFinishedError):
                        token.run_sync_soon(int, idempotent=True)
            except Exception:
                LOGGER.exception("hearing signals failed; the thread begins anew")
                time.sleep(_NEXT_TRY)
                with contextlib.suppress(OSError):
                    self._open_pipe()  # which the main thread uses once it calls `keep_hearing`

    def _note_heard(self, number: int) -> None:
        self._heard[number] += 1
        self._note(number, self._heard[number])

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal that the thread does not hear of: somebody else has the wake-up descriptor."""
        self._handled[number] += 1
        self._note(number, self._handled[number])

    def _note(self, number: int, count: int) -> None:
        """Note a signal that was heard or handled so many times; whichever is first, however far apart."""
        wish = object()
        if self._wishes.setdefault((number, count), wish) is not wish:
            return
        if self.received is None:
            self.received = number
            self._received_at = time.monotonic()
            if self.on_first is not None:
                self.on_first(number)
        elif time.monotonic() - self._received_at < _SAME_WISH:
            return
        elif self.on_second is not None:
            self.on_second(number)
        else:
            os._exit(EXIT_UNCLEAN)


def _ours() -> Iterator[signal.Signals]:
    for number in SIGNALS:
        if number not in _LEFT_IGNORED or signal.getsignal(number) is not signal.SIG_IGN:
            yield number


def _deadly() -> Iterator[signal.Signals]:
    for number in _HARMLESS:
        if signal.getsignal(number) is signal.SIG_DFL:
            yield number


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass
