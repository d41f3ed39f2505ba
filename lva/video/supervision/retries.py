"""Attempts to get a stream's frames again: how many there may be, and the back-off before each."""

from __future__ import annotations

from typing import Final

import trio

from lva.video.codes import SLOW, StreamState, in_words
from lva.video.definition import Retry
from lva.video.supervision.stream import Stream

#: For how long, in seconds, frames must come until earlier failures are forgotten.
FORGIVEN: Final = 10.0
#: Longest back-off in seconds, and the shortest for what will not get better soon.
MOST_DELAY: Final = 60.0
SLOW_DELAY: Final = 10.0
#: The first back-off, in seconds, when a worker died: nobody outside is hurt by another.
CRASH_DELAY: Final = 0.1


class Retries:
    """The attempts of one stream since it was begun.

    Args:
        stream: It.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._failures = {"eof_retry": 0, "decode_error_retry": 0}
        self._restarts = 0
        self._frames_since: float | None = None

    def frames_come(self) -> None:
        """Note that the first frame of a connection has come."""
        self._frames_since = trio.current_time()

    def used_up(self, code: str) -> StreamState | None:
        """Count a failure; return the state to end in if no attempt is left."""
        if self._frames_since is not None and trio.current_time() - self._frames_since > FORGIVEN:
            self._failures = dict.fromkeys(self._failures, 0)
            self._restarts = 0
        self._frames_since = None
        name, retry = self._retry(code)
        self._failures[name] += 1
        if retry.attempt_count is None or self._failures[name] <= retry.attempt_count:
            return None
        return StreamState.DONE if code == "end_of_stream" else StreamState.FAILURE

    async def wait(self, code: str, reason: str) -> None:
        """Wait for the next attempt, the stream being in `restart` meanwhile, and in `pending` then.

        Cancellation: ends the wait; the attempt counts.
        """
        name, retry = self._retry(code)
        attempt = self._failures[name]
        first = CRASH_DELAY if code == "worker_crashed" and attempt == 1 else retry.delay
        delay = self._delay(code, first, attempt)
        reconnects = self._stream.ledger.reconnects
        reconnects[code] = reconnects.get(code, 0) + 1
        self._stream.move(
            StreamState.RESTART,
            f"attempt to reconnect {_count(attempt, retry.attempt_count)} in {delay:.1f} s:"
            f" {in_words(code, reason)}",
            code,
        )
        await trio.sleep(delay)
        self._stream.move(StreamState.PENDING, "connecting")

    async def after_blame(self, code: str, reason: str) -> None:
        """Wait a moment after analytics ended the worker.

        The source is not at fault, so no attempt is used up: a plugin is set aside before it does so often.
        """
        reconnects = self._stream.ledger.reconnects
        reconnects[code] = reconnects.get(code, 0) + 1
        what = f"the worker is started again: {in_words(code, reason)}"
        self._stream.move(StreamState.RESTART, what, code)
        await trio.sleep(self._jittered(CRASH_DELAY))
        self._stream.move(StreamState.PENDING, "connecting")

    async def restart(self) -> bool:
        """After a failure: wait for the next `autorestart`; return False at once if there is none."""
        wanted = self._stream.definition.autorestart
        if wanted is None or self._restarts == wanted.attempt_count:
            return False
        self._restarts += 1
        self._failures = dict.fromkeys(self._failures, 0)
        delay = self._jittered(wanted.delay)
        attempt = _count(self._restarts, wanted.attempt_count)
        self._stream.move(StreamState.RESTART, f"autorestart {attempt} in {delay:.1f} s")
        await trio.sleep(delay)
        self._stream.move(StreamState.PENDING, "restarted after a failure")
        return True

    def _retry(self, code: str) -> tuple[str, Retry]:
        name = "eof_retry" if code == "end_of_stream" else "decode_error_retry"
        return name, getattr(self._stream.definition, name)

    def _delay(self, code: str, first: float, attempt: int) -> float:
        """Return the back-off: doubled with each attempt, at most a minute, with half of it jittered."""
        first = max(first, SLOW_DELAY) if code in SLOW else first
        most = max(first, min(MOST_DELAY, first * 2.0 ** min(attempt - 1, 16)))
        return self._jittered(most)

    def _jittered(self, delay: float) -> float:
        return delay * self._stream.services.rng.uniform(0.5, 1.0)


def _count(attempt: int, most: int | None) -> str:
    return str(attempt) if most is None else f"{attempt} of {most}"
