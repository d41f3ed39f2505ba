"""What every task of a plugin is doing: a tree, by who started whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

import trio
from typing_extensions import TypedDict

from lva.contract import RuntimeName
from lva.errors import counted
from lva.host.life.leaks import Footprint, trio_tasks_of
from lva.host.runtimes.places import lines_of
from lva.logs.loggers import redact
from lva.stacks import frames_of_coroutine

#: How many tasks are shown, and how deep the tree gets; what is deeper stands at the deepest place.
MOST_TASKS: Final = 500
DEEPEST: Final = 30
_TRIO_DIR: Final = f"{Path(trio.__file__).parent}{os.sep}"


class TaskNode(TypedDict):
    """A task."""

    name: str
    """As Trio or asyncio has it."""
    runtime: RuntimeName
    where: str
    """What it waits at or runs, the innermost line first."""
    children: list[TaskNode]
    """Those that it has started."""


class _TaskRow(NamedTuple):
    """One task, before it has its place in the tree."""

    task: object
    starter: object
    node: TaskNode


def task_tree(life: Footprint) -> list[TaskNode]:
    """Return the tasks of a plugin on the service's event loop and on its own. In Trio's thread only.

    A task stands at the top whose starter is none of the plugin's, or has ended.
    """
    rows = [*_trio_rows(life), *_asyncio_rows(life)]
    tree = _planted(rows[:MOST_TASKS])
    if (more := len(rows) - MOST_TASKS) > 0:
        tree.append(_node(counted(more, "more task"), life.loaded.runtime, "not shown"))
    return tree


def _node(name: str, runtime: RuntimeName, where: str) -> TaskNode:
    # A plugin may have named its task after what it connects to.
    return {"name": redact(name), "runtime": runtime, "where": where, "children": []}


def _trio_rows(life: Footprint) -> Iterator[_TaskRow]:
    for task in trio_tasks_of(life):
        nursery = task.parent_nursery
        where = lines_of(_telling(task))
        yield _TaskRow(task, nursery and nursery.parent_task, _node(task.name, "trio", where))


def _telling(task: trio.lowlevel.Task) -> list[FrameType]:
    """Return a task's frames without Trio's and the service's own, unless there is nothing else."""
    every = [*frames_of_coroutine(task.coro)]
    frames = [frame for frame in every if not frame.f_code.co_filename.startswith(_TRIO_DIR)]
    own = [frame for frame in frames if not str(frame.f_globals.get("__name__")).startswith("lva.")]
    return own or frames[-1:] or every[:1]


def _asyncio_rows(life: Footprint) -> Iterator[_TaskRow]:
    thread = life.loop_thread()
    if thread is not None:
        for task, name, where, maker in thread.tasks():
            yield _TaskRow(task, maker, _node(name, "asyncio", where))


def _planted(rows: list[_TaskRow]) -> list[TaskNode]:
    """Put each task below its starter."""
    by_task = {row.task: row for row in rows}
    top: list[TaskNode] = []
    for row in rows:
        starters = []
        starter = by_task.get(row.starter)
        while starter is not None:
            starters.append(starter.node)
            starter = by_task.get(starter.starter)
        # The starters from the innermost outwards; the tree ends at the deepest place.
        place = starters[-min(len(starters), DEEPEST - 1)]["children"] if starters else top
        place.append(row.node)
    return top
