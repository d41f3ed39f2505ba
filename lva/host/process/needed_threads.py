"""Threads without which the service could be neither stopped in order nor ended."""

from __future__ import annotations

import threading


class NoThreadError(RuntimeError):
    """The system has no thread for the service; the message says what to do."""


def start_needed(thread: threading.Thread) -> None:
    """Start a thread that the service cannot do without.

    Raises:
        NoThreadError: There is none left.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(
            f"no thread is left for {thread.name}; raise the limit on tasks (ulimit -u, TasksMax or"
            " pids.max) or on memory"
        ) from error
