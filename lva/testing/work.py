"""A plugin is left to its own work, for as many virtual minutes as the faults of every day need to show."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from lva.host.life.states import ENDED, State
from lva.testing.report import Breach
from lva.testing.trial import Trial, crash_problem

#: How long, in virtual seconds, a plugin is left to its work.
WORK: Final = 600.0
#: How long, in real seconds, that may take: at each jump of time its threads and sockets are waited for.
PATIENCE: Final = 2.0

#: What the host says of a plugin whose work is over, where `restart = "always"` makes that a crash.
_HAS_ENDED: Final = "its work has ended"


@contextmanager
def some_minutes() -> Iterator[None]:
    """Leave the block after `WORK` virtual seconds, or once these have taken `PATIENCE` real ones."""
    token = trio.lowlevel.current_trio_token()
    with trio.move_on_after(WORK) as scope:
        timer = threading.Timer(PATIENCE, token.run_sync_soon, [scope.cancel])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


async def leave_to_work(run: Trial) -> list[Breach]:
    """Wait some minutes, or until the running plugin crashes; return that crash, which is its own doing.

    How long it has worked is then in `Trial.worked`.
    """
    began = trio.current_time()
    problems: list[Breach] = []
    with some_minutes():
        while run.life.state.value not in ENDED and not problems:
            state = await run.wait_for(State.BACKOFF, *ENDED, within=math.inf)
            problems = crashed_by_itself(run)
            if state is State.BACKOFF:
                await run.wait_for(State.RUNNING, *ENDED)
    run.worked = trio.current_time() - began
    return problems


def crashed_by_itself(run: Trial) -> list[Breach]:
    """Return a crash that is the plugin's own doing, if there was one."""
    error = run.life.record.last_error
    if error is None or _HAS_ENDED in error:
        return []
    return [crash_problem(run, "it crashed without anybody's doing")]
