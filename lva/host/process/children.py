"""Child processes that a plugin leaves: found, named, and ended.

A process that outlives its plugin is abandoned, even if that was the purpose: nobody would end it.
"""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Iterable
from typing import Any, Final

import trio

from lva.host.process.starts import VARIABLE, has_started_processes, mark_of, take_processes
from lva.host.process.threads import in_thread
from lva.logs.loggers import redact

#: How long, in seconds of real time, processes may take to end: by themselves, after SIGTERM, after SIGKILL.
_MOMENT: Final = 0.2
_AFTER_TERM: Final = 1.0
_AFTER_KILL: Final = 1.0
#: How often their end is looked for, in seconds.
_LOOK: Final = 0.01
#: So many characters of a command line are shown.
_SHOWN: Final = 200


async def end_children(plugin: str, most: float) -> tuple[list[str], list[str]]:
    """End what a plugin has started and left: SIGTERM, and SIGKILL for what then goes on.

    Cancellation: does not reach it.

    Errors: of processes that end meanwhile, or are not ours to end, are no more than that.

    Args:
        plugin: The plugin's name.
        most: How long SIGTERM may take to work, in seconds; never longer than a second.

    Returns:
        What there was, and what there still is: each with its command line, its number, and how it ended.
    """
    if not has_started_processes(plugin):
        return [], []
    work = functools.partial(_end_children, plugin, max(0.0, min(most, _AFTER_TERM)))
    with trio.CancelScope(shield=True):
        ended = await in_thread(work, trio.CapacityLimiter(1))
    return ended  # noqa: RET504 - mypy takes a scope for what may swallow errors


def _end_children(plugin: str, patience: float) -> tuple[list[str], list[str]]:
    found = _wait(_children_of(plugin), _MOMENT)
    if not found:
        return [], []
    named = {process: _named(process) for process in found}
    _signal(found, "terminate")
    stubborn = _wait(found, patience)
    _signal(stubborn, "kill")
    left = _wait(stubborn, _AFTER_KILL)
    how = {
        process: "still there after SIGKILL"
        if process in left
        else f"ended by {'SIGKILL' if process in stubborn else 'SIGTERM'}"
        for process in found
    }
    lines = {process: f"{named[process]}, {how[process]})" for process in found}
    return [*lines.values()], [lines[process] for process in left]


def _children_of(plugin: str) -> list[Any]:
    """Return the processes (`psutil.Process`) of a plugin that run, with their descendants."""
    import psutil  # takes a moment, and most plugins start nothing

    found: dict[Any, None] = {}
    for process in [*take_processes(plugin), *_marked(mark_of(plugin))]:
        try:
            if process.is_running():  # and its number is not another's by now
                found |= dict.fromkeys([process, *process.children(recursive=True)])
        except psutil.Error:
            continue
    return [process for process in found if _runs(process)]


def _marked(mark: str) -> Iterable[Any]:
    import psutil

    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) == mark:
                yield process
        except psutil.Error:  # another user's, or over
            continue


def _runs(process: Any) -> bool:
    import psutil

    try:
        # One that has ended and that nobody has waited for is no more than its exit code.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _wait(processes: Iterable[Any], seconds: float) -> list[Any]:
    """Return those that still run after so long. Whoever started them is left to wait for them."""
    end = time.monotonic() + seconds
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < end:
        time.sleep(_LOOK)
        left = [process for process in left if _runs(process)]
    return left


def _signal(processes: Iterable[Any], method: str) -> None:
    import psutil

    for process in processes:
        try:
            getattr(process, method)()
        except psutil.Error:
            continue  # it is over, or not ours to end; which of them is seen next


def _named(process: Any) -> str:
    """Return a process's command line and number, without the bracket's end."""
    import psutil

    try:
        command = shlex.join(process.cmdline()) or process.name()
    except psutil.Error:
        command = "unknown command"
    if command == _own_command():
        command = f"a fork of the service: {command}"
    command = redact(command)
    if len(command) > _SHOWN:
        command = f"{command[: _SHOWN - 1]}…"
    return f"{command} (process {process.pid}"


@functools.cache
def _own_command() -> str:
    import psutil

    return shlex.join(psutil.Process().cmdline())
