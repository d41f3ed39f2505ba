"""Which plugin has started a thread, a job of Trio's worker threads, or a process.

Known from the start itself: the functions of the standard library that start one are wrapped, and what code
of a plugin starts is noted as its. A stack tells less: a library's thread has no frame of the plugin.

A thread that a plugin starts goes on as the plugin's: what it logs has the plugin's name, and what it starts
is the plugin's in turn. A process has in its environment who started it, and its own children inherit that,
those too that have lost their parent. One that is forked and executes no program has only its number.
"""

from __future__ import annotations

import _posixsubprocess
import contextlib
import functools
import os
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Final

import trio._core._thread_cache as trio_threads

from lva.host.process import forks
from lva.logs.loggers import current_plugin

#: The environment variable that says who has started a process.
VARIABLE: Final = "LVA_STARTED_BY"
#: How the names of the threads begin that Trio keeps for its jobs; whose these are changes with the job.
_TRIO_THREAD: Final = "Trio thread "
#: How the programs begin that `multiprocessing` runs once for the whole process, and ends with it.
_HELPERS: Final = (b"from multiprocessing.resource_tracker ", b"from multiprocessing.forkserver ")
#: So many numbers of processes are kept before those that have ended are looked for.
_MANY: Final = 256
#: Where, among its arguments, `fork_exec` has the environment.
_ENVIRONMENT: Final = 5


@dataclass(eq=False)
class Job:
    """Work that a plugin has handed to one of Trio's worker threads.

    Attributes:
        plugin: The plugin's name.
        name: What it is, for people.
        ident: The thread that does it; None before it has begun.
    """

    plugin: str
    name: str
    ident: int | None = None


_threads: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
_jobs: dict[Job, None] = {}
_processes: dict[int, tuple[str, Any]] = {}
_starters: set[str] = set()


def starter_of(thread: threading.Thread) -> str | None:
    """Return the plugin that has started a thread, if one has."""
    return _threads.get(thread)


def jobs_of(plugins: Iterable[str]) -> list[Job]:
    """Return the jobs in Trio's worker threads of these plugins. Any thread may call."""
    names = set(plugins)
    return [job for job in list(_jobs) if job.plugin in names]


def has_started_processes(plugin: str) -> bool:
    """Return whether a plugin has started a process since `take_processes`."""
    return plugin in _starters


def take_processes(plugin: str) -> list[Any]:
    """Return, and forget, the processes (`psutil.Process`) that a plugin has started."""
    _starters.discard(plugin)
    numbers = [number for number, (name, _) in list(_processes.items()) if name == plugin]
    taken = (_processes.pop(number, None) for number in numbers)
    return [noted[1] for noted in taken if noted is not None]


#: Whose file is being imported.
_importing: ContextVar[str | None] = ContextVar("lva_importing", default=None)


def importing(plugin: str) -> str:
    """Return under which name processes are noted that a plugin's file starts while it is imported."""
    return f"{plugin} (import)"


@contextlib.contextmanager
def imported(plugin: str) -> Iterator[None]:
    """Note the processes that are started inside as those of a plugin's file."""
    install()
    token = _importing.set(importing(plugin))
    try:
        yield
    finally:
        _importing.reset(token)


def _starter() -> str | None:
    return current_plugin.get() or _importing.get()


def mark_of(plugin: str) -> str:
    """Return what stands in the environment of the processes that a plugin starts."""
    return f"{_service()} {plugin}"


@functools.cache
def _service() -> str:
    """Return which service it is, so that another one's processes are told from this one's.

    Known from `install` on, not from the import: two services may be forked from one interpreter.
    """
    return os.urandom(6).hex()


def note_process(pid: int, plugin: str | None = None) -> None:
    """Note that a plugin, or the one whose code runs now, has started a process."""
    plugin = plugin or _starter()
    if plugin is None or pid <= 0 or forks.in_child:
        return  # in a child, locks of threads that are not there may be held for ever
    import psutil  # takes a moment, and most plugins start nothing

    _starters.add(plugin)
    try:
        _processes[pid] = (plugin, psutil.Process(pid))
    except psutil.NoSuchProcess:
        return
    if len(_processes) > _MANY:
        for number, (_, process) in list(_processes.items()):
            if not process.is_running():
                _processes.pop(number, None)


def kill_all() -> None:
    """Kill every process that was noted and still runs: the service ends at once. Any thread may call."""
    for _, process in list(_processes.values()):
        with contextlib.suppress(Exception):  # whatever it is, the service ends now
            process.kill()  # which looks whether the number is another's by now


def install() -> None:
    """Begin to take note; once for the process, and for good."""
    if isinstance(trio_threads.THREAD_CACHE, _NotingCache):
        return
    _service()
    # The one object that there is, since others may hold it.
    trio_threads.THREAD_CACHE.__class__ = _NotingCache
    for owner, name, wrap in (
        (threading.Thread, "start", _noting_thread),
        (BaseProcess, "start", _noting_worker),
        (os, "fork", _noting_fork),
        (os, "forkpty", _noting_fork),
        (os, "posix_spawn", _noting_spawn),
        (os, "posix_spawnp", _noting_spawn),
        (os, "system", _noting_system),
        (subprocess.Popen, "_execute_child", _undisturbed),
        (_posixsubprocess, "fork_exec", _noting_program),
        (subprocess, "_fork_exec", _noting_program),
    ):
        function = getattr(owner, name)
        setattr(owner, name, functools.wraps(function)(wrap(function)))


# Threads


def _noting_thread(start: Callable[[threading.Thread], None]) -> Any:
    def noting(thread: threading.Thread) -> None:
        plugin = current_plugin.get()
        if plugin is not None and not thread.name.startswith(_TRIO_THREAD):
            _threads[thread] = plugin
            _let_run_as(thread, plugin)
        start(thread)

    return noting


def _let_run_as(thread: threading.Thread, plugin: str) -> None:
    """Let what runs in a thread, which begins with an empty context, be the plugin's."""
    instance = vars(thread)
    before = instance.pop("run", None)

    def run() -> None:
        current_plugin.set(plugin)
        # As it was before; otherwise the thread and this function would hold one another.
        del instance["run"]
        if before is not None:
            instance["run"] = before
        thread.run()

    thread.run = run  # type: ignore[method-assign] # the one way in that every kind of thread takes


class _NotingCache(trio_threads.ThreadCache):
    """Trio's worker threads; knows whose the work is that they do."""

    __slots__ = ()

    def start_thread_soon(
        self, fn: Callable[[], Any], deliver: Callable[[Any], object], name: str | None = None
    ) -> None:
        plugin = current_plugin.get()
        if plugin is None:
            super().start_thread_soon(fn, deliver, name)
            return
        job = Job(plugin, name or "a job")

        def work() -> Any:
            job.ident = threading.get_ident()
            try:
                return fn()
            finally:
                _jobs.pop(job, None)

        _jobs[job] = None
        try:
            super().start_thread_soon(work, deliver, name)
        except BaseException:
            _jobs.pop(job, None)
            raise


# Processes


def _noting_worker(start: Callable[[BaseProcess], None]) -> Any:
    def noting(process: BaseProcess) -> None:
        start(process)
        note_process(process.pid or 0)  # also when another process than this one has forked it

    return noting


def _noting_fork(fork: Callable[[], Any]) -> Any:
    def noting() -> Any:
        result = fork()
        plugin = _starter()
        pid = result[0] if isinstance(result, tuple) else result
        if pid:
            note_process(pid)
        elif plugin is not None:
            os.environ[VARIABLE] = mark_of(plugin)  # for what the child starts
        return result

    return noting


def _noting_spawn(spawn: Callable[..., int]) -> Any:
    def noting(
        path: Any, argv: Any, env: Mapping[Any, Any] | None, /, *args: Any, **options: Any
    ) -> int:
        if (plugin := _starter()) is not None:
            env = {**(os.environ if env is None else env), VARIABLE: mark_of(plugin)}
        pid = spawn(path, argv, env, *args, **options)
        note_process(pid)
        return pid

    return noting


def _noting_system(system: Callable[[Any], int]) -> Any:
    def noting(command: Any) -> int:
        if _starter() is None:
            return system(command)
        # The same, by what knows whom it starts: what the shell leaves in the background is nobody's child.
        code = subprocess.Popen(command, shell=True, close_fds=False).wait()  # noqa: S602 - a shell is asked for
        return -code if code < 0 else code << 8

    return noting


def _noting_program(fork_exec: Callable[..., int]) -> Any:
    def noting(*args: Any) -> int:
        plugin = _starter()
        if plugin is None or _is_helper(args[0]):
            return fork_exec(*args)
        given = args[_ENVIRONMENT]
        if given is None:
            given = [name + b"=" + value for name, value in os.environb.items()]
        name = f"{VARIABLE}=".encode()
        kept = [item for item in given if not item.startswith(name)]
        changed = [*kept, name + mark_of(plugin).encode()]
        pid = fork_exec(*args[:_ENVIRONMENT], changed, *args[_ENVIRONMENT + 1 :])
        note_process(pid)
        return pid

    return noting


def _undisturbed(execute_child: Callable[..., None]) -> Any:
    def starting(popen: Any, *args: Any) -> None:
        with forks.undisturbed():
            execute_child(popen, *args)

    return starting


def _is_helper(arguments: Iterable[Any]) -> bool:
    return any(os.fsencode(argument).startswith(_HELPERS) for argument in arguments)
