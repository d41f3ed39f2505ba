"""Calls that do not belong where they are: blocking ones in coroutines, Trio on asyncio, lost coroutines.

Only what happens in a coroutine itself counts, and in functions of the plugin's files that it calls. What is
handed to a worker thread is not called there, so it is let pass without knowing of threads at all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from lva.check.blocking import Blocking, blocking
from lva.check.source import Function, PluginSource, calls, dotted, in_package
from lva.contract import RuntimeName
from lva.errors import PluginProblem, hint
from lva.events.types import EVENT_TYPES

#: What needs an event loop of its kind, and is of no use on the other.
_ASYNCIO_CALLS: Final = frozenset(
    f"asyncio.{name}"
    for name in (
        "sleep", "create_task", "gather", "wait", "wait_for", "to_thread", "get_running_loop",
        "get_event_loop", "ensure_future", "timeout", "timeout_at", "TaskGroup", "open_connection",
        "start_server", "shield", "open_unix_connection", "create_subprocess_exec",
        "create_subprocess_shell", "as_completed", "current_task", "all_tasks", "Queue", "Event",
        "Lock", "Condition", "Semaphore",
    )
)  # fmt: skip
_ASYNCIO_ONLY: Final = (
    "aiohttp.",
    "aio_pika.",
    "aioredis.",
    "asyncpg.",
    "aiofiles.",
    "redis.asyncio.",
)
_TRIO_CALLS: Final = frozenset(
    f"trio.{name}"
    for name in (
        "sleep", "sleep_until", "sleep_forever", "open_nursery", "move_on_after", "fail_after", "CancelScope",
        "to_thread.run_sync", "open_tcp_stream", "open_ssl_over_tcp_stream", "serve_tcp", "open_file",
        "run_process", "current_time", "lowlevel.checkpoint", "open_memory_channel", "Event", "Lock",
        "Condition", "Semaphore", "CapacityLimiter", "open_unix_socket", "serve_listeners",
    )
)  # fmt: skip
#: Coroutine functions of the runtimes: calling them without `await` does nothing.
_COROUTINES: Final = frozenset(
    {f"trio.{name}" for name in ("sleep", "sleep_until", "sleep_forever", "to_thread.run_sync", "run_process",
                                 "open_tcp_stream", "lowlevel.checkpoint", "serve_tcp", "open_file")}
    | {f"asyncio.{name}" for name in ("sleep", "wait", "wait_for", "to_thread", "open_connection")}
)  # fmt: skip
#: What runs a coroutine on an event loop of its own.
_RUNNERS: Final = frozenset(
    (
        "asyncio.run",
        "trio.run",
        "anyio.run",
        "asyncio.run_coroutine_threadsafe",
        "anyio.from_thread.run",
    )
)


_JOIN: Final = "threading.Thread().join"
_ENDERS: Final = frozenset(("sys.exit", "exit", "quit"))


def call_problems(
    source: PluginSource, style: RuntimeName, package: Mapping[Path, PluginSource]
) -> Iterator[PluginProblem]:
    """Yield the calls of a file that are wrong where they are.

    Args:
        source: The file.
        package: All files of the plugin, by their paths.
        style: Where its coroutines run. A call that blocks on asyncio blocks its own plugin only, and so is
            reported as a warning.
    """
    foreign = _foreign(source)
    for function in source.functions:
        if function.is_async and function not in foreign:
            yield from _blocks(source, function, style, package)
            yield from _belongs_elsewhere(source, function, style)
            if style == "trio":
                yield from _swallows(source, function)
        yield from _not_awaited(source, function)
        yield from _forbidden(source, function)
        yield from _unknown_events(source, function)


def _foreign(source: PluginSource) -> set[Function]:
    """Return the coroutines that the file runs on event loops of its own, in threads of its own."""
    pending: list[Function] = []
    for function in source.functions:
        for call in calls(function):
            name = source.resolve(call.func, function) or ""
            own_loop = (
                isinstance(call.func, ast.Attribute) and call.func.attr == "run_until_complete"
            )
            if name in _RUNNERS or own_loop or name.endswith("asyncio.Runner().run"):
                for node in (item for argument in call.args for item in ast.walk(argument)):
                    if isinstance(node, ast.Name | ast.Attribute):
                        found = source.local(node, function)
                        pending += [found] if found is not None else []
    foreign: set[Function] = set()
    while pending:
        function = pending.pop()
        if function not in foreign:
            foreign.add(function)
            pending += function.inner.values()
            found_calls = (source.local(call.func, function) for call in calls(function))
            pending += [inner for inner in found_calls if inner is not None]
    return foreign


def _blocks(
    source: PluginSource,
    function: Function,
    style: RuntimeName,
    package: Mapping[Path, PluginSource],
) -> Iterator[PluginProblem]:
    for call in calls(function):
        found = _known(source, call, function)
        if found is not None and found.name == _JOIN and function.node.name == "close":
            continue  # which is where a plugin's own thread is ended
        if found is not None:
            told = (
                f"{found.name}() blocks: in the coroutine {function.name}() it {found.told(style)}"
            )
            yield _blocking_problem(source, call, told, found, style)
            continue
        inner = _runs_at_once(source, call, function, package)
        for file, where, found in _below(*inner, {inner[1]}, package) if inner else ():
            line = f"line {where.lineno}" + ("" if file is source else f" of {file.path.name}")
            told = (
                f"{ast.unparse(call.func)}() calls {found.name}() in {line}, which blocks:"
                f" in the coroutine {function.name}() it {found.told(style)}"
            )
            yield _blocking_problem(source, call, told, found, style)
            break  # one call, one problem


def _blocking_problem(
    source: PluginSource, call: ast.Call, text: str, found: Blocking, style: RuntimeName
) -> PluginProblem:
    level = found.level if style == "trio" else "warning"
    return source.problem(call, text, "blocking", level)


def _below(
    source: PluginSource,
    function: Function,
    seen: set[Function],
    package: Mapping[Path, PluginSource],
) -> Iterator[tuple[PluginSource, ast.Call, Blocking]]:
    """Yield the blocking calls that a plain function leads to, each with its file."""
    for call in calls(function):
        found = _known(source, call, function)
        if found is not None:
            if not source.ignores(call.lineno, "blocking"):
                yield source, call, found
        elif (inner := _runs_at_once(source, call, function, package)) and inner[1] not in seen:
            seen.add(inner[1])
            yield from _below(*inner, seen, package)


def _known(source: PluginSource, call: ast.Call, function: Function) -> Blocking | None:
    name = source.resolve(call.func, function)
    return blocking(call, name, source.lines) if name else None


def _runs_at_once(
    source: PluginSource, call: ast.Call, function: Function, package: Mapping[Path, PluginSource]
) -> tuple[PluginSource, Function] | None:
    """Return the plain function of the plugin that a call runs at once, with its file."""
    inner = source.local(call.func, function)
    found = (source, inner) if inner is not None else None
    if found is None and (name := source.resolve(call.func, function)) and "()" not in name:
        found = in_package(package, source, name)
    if found is None or found[1].is_async or found[1].is_generator or found[1].node.decorator_list:
        return None
    return found


def _belongs_elsewhere(
    source: PluginSource, function: Function, style: RuntimeName
) -> Iterator[PluginProblem]:
    """Look for asyncio in Trio style, and for Trio in asyncio style."""
    if any("sniffio" in name for name in source.imports.values()):
        return  # it looks for itself where it runs
    for call in calls(function):
        name = source.resolve(call.func, function) or ""
        if name in _RUNNERS:
            text = f"{name}() in the coroutine {function.name}(): an event loop is running already"
            yield source.problem(call, text, "runtime")
        elif style == "trio" and (name in _ASYNCIO_CALLS or name.startswith(_ASYNCIO_ONLY)):
            text = (
                f"{name}() does not work in Trio style; use Trio's counterpart, or set"
                ' runtime = "asyncio" on the class'
            )
            yield source.problem(call, text, "runtime")
        elif style == "asyncio" and name in _TRIO_CALLS:
            text = f"{name}() does not work in asyncio style; use asyncio's counterpart"
            yield source.problem(call, text, "runtime")


def _not_awaited(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Look for statements that make a coroutine and throw it away."""
    for node in function.body:
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
            continue
        call = node.value
        name = source.resolve(call.func, function)
        inner = source.local(call.func, function) if name is None else None
        is_coroutine = (
            inner is not None
            and inner.is_async
            and not inner.is_generator
            and not inner.node.decorator_list
        )
        if name in _COROUTINES or is_coroutine:
            text = f"{ast.unparse(call.func)}() is a coroutine and not awaited, so it never runs"
            yield source.problem(call, text, "not-awaited")


def _swallows(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Look for `except` clauses that keep Trio's cancellation from getting through."""
    for node in function.body:
        if not isinstance(node, ast.Try) or not _awaits(node.body):
            continue
        for handler in node.handlers:
            caught = _caught(source, handler, function)
            if caught is not None and not any(
                isinstance(item, ast.Raise) for part in handler.body for item in ast.walk(part)
            ):
                text = (
                    f"`{caught}` without `raise` around an await swallows the cancellation, and the plugin"
                    " cannot be stopped; catch Exception"
                )
                yield source.problem(handler, text, "cancellation", "warning")
            if caught is not None:
                break  # those after it do not see the cancellation


def _awaits(body: list[ast.stmt]) -> bool:
    nodes = (item for part in body for item in ast.walk(part))
    return any(isinstance(item, ast.Await | ast.AsyncFor | ast.AsyncWith) for item in nodes)


def _caught(source: PluginSource, handler: ast.ExceptHandler, function: Function) -> str | None:
    """Return how a handler catches Trio's Cancelled, if it does."""
    if handler.type is None:
        return "except:"
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    for node in types:
        is_base = isinstance(node, ast.Name) and node.id == "BaseException"
        if is_base or source.resolve(node, function) == "trio.Cancelled":
            return f"except {ast.unparse(handler.type)}:"
    return None


def _forbidden(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Look for what takes something away from the service."""
    for call in calls(function):
        name = source.resolve(call.func, function) or ""
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name in ("signal.signal", "trio.open_signal_receiver") or method == "add_signal_handler":
            text = "signals are the service's; to clean up at the end, define close()"
            yield source.problem(call, text, "signal")
        elif name == "os._exit":
            text = "os._exit() ends the service without closing anything; raise an exception"
            yield source.problem(call, text, "exit")
        elif name in _ENDERS:
            text = f"{name}() ends nothing but this plugin: it is a crash; raise an exception that says why"
            yield source.problem(call, text, "exit", "warning")
        elif name == "trio.lowlevel.spawn_system_task":
            text = "a system task that raises ends the service; use self.nursery.start_soon()"
            yield source.problem(call, text, "system-task", "warning")
        elif name == "threading.Thread" and not _is_daemon(source, call):
            text = "a thread that is no daemon outlives the plugin; pass daemon=True, and end it in close()"
            yield source.problem(call, text, "thread", "warning")


def _unknown_events(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Look for points that are published as an event that there is not."""
    for call in calls(function):
        if not call.args or dotted(call.func) != "self.app.publish":
            continue
        name = source.text_of(call.args[0], function)
        if name is not None and name not in EVENT_TYPES:
            text = f"there is no event {name!r} to publish{hint(name, EVENT_TYPES)}"
            yield source.problem(call, text, "event-name")


def _is_daemon(source: PluginSource, call: ast.Call) -> bool:
    if any(keyword.arg in ("daemon", None) for keyword in call.keywords):
        return True
    return any(".daemon = True" in line for line in source.lines)
