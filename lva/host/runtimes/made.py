"""What is made on a plugin's own loop and has to be closed: connections, servers and subprocesses."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any, Final

from lva.host.process.starts import note_process
from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.host")


class Made:
    """All that was made on one loop, told apart by what it can do, since uvloop's is of types of its own.

    Args:
        plugin: The plugin's name.
    """

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin
        self._lock = threading.Lock()  # another thread may look
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._processes: list[Any] = []  # uvloop's, which have no weak references

    def note(self, item: Any) -> None:
        """Note something that has to be closed."""
        if hasattr(item, "get_pid"):
            note_process(item.get_pid(), self._plugin)  # uvloop starts it by itself
        with self._lock:
            try:
                self._made.add(item)
            except TypeError:
                alive = [kept for kept in self._processes if kept.get_returncode() is None]
                self._processes = [*alive, item]

    def close(self) -> list[str]:
        """Close connections and servers; return which were open."""
        found = []
        for item in self._all():
            if hasattr(item, "is_serving"):
                if item.is_serving():
                    found.append("a server")
                item.close()
            elif not hasattr(item, "get_returncode") and not item.is_closing():
                found.append(_connection(item))
                getattr(item, "abort", item.close)()
        return found

    def close_processes(self) -> None:
        """Close what is left of subprocesses, which the host ends."""
        made = self._all()
        self._processes = []
        for item in made:
            if hasattr(item, "get_returncode"):
                item.close()

    def kill_processes(self) -> None:
        """Kill the subprocesses of a loop that does not end. Any thread may call; raises nothing."""
        for item in self._all():
            try:
                if hasattr(item, "get_returncode") and item.get_returncode() is None:
                    LOGGER.warning(
                        "plugin %s: its event loop does not end; killing subprocess %d of it",
                        self._plugin,
                        item.get_pid(),
                    )
                    item.kill()
            except ProcessLookupError:
                continue  # it has just ended
            except Exception:
                LOGGER.exception("plugin %s: a subprocess of it cannot be killed", self._plugin)

    def _all(self) -> list[Any]:
        with self._lock:
            return [*self._made, *self._processes]


def _connection(transport: Any) -> str:
    accepted = getattr(transport, "_server", None) is not None
    with contextlib.suppress(Exception):
        if (peer := transport.get_extra_info("peername")) is not None:
            where = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else f"{peer}"
            return f"a connection {'from' if accepted else 'to'} {where}"
    return f"an open {type(transport).__name__}"
