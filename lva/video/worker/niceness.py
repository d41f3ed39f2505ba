"""How much a worker gives way to other processes; the worker's side.

A worker has a session of its own. Where Linux groups processes by session (``sched_autogroup``), it shares
the processor between the groups first, and the niceness of a process counts within its group alone.
"""

from __future__ import annotations

import os
from pathlib import Path


class Niceness:
    """Of this process and its session.

    Args:
        more: By how much it is to be higher than it is.
    """

    def __init__(self, more: int) -> None:
        self._of_session: int | None = os.nice(more) or None

    def tell_session(self) -> None:
        """Give the session the same; to be called each second or so, until the kernel takes it.

        It takes ten a second from all who are not root.
        """
        if self._of_session is None:
            return
        try:
            Path("/proc/self/autogroup").write_text(str(self._of_session), encoding="ascii")
        except BlockingIOError:
            return
        except OSError:  # sessions are not grouped, or /proc is read-only
            pass
        self._of_session = None
