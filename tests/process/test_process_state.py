"""What plugin code changes of the whole process is put back, and said once, with the plugin's name.

The kind: state that belongs to nobody in particular, changed by a plugin or by a library of it, at import, in
`initialize()` or while it runs. The service goes on as if nothing had been changed: it answers, stops at a
signal, and ends with a receipt and the right exit code.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

#: By what is said to be changed, then by name: what a plugin does.
ACTS: dict[str, dict[str, str]] = {
    "the handler of SIGTERM": {
        "sigterm_own": "signal.signal(signal.SIGTERM, print)",
        "sigterm_ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "sigterm_received": "receiver = trio.open_signal_receiver(signal.SIGTERM)\n"
        "receiver.__enter__(); kept.append(receiver)",
        "sigterm_default": "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
    },
    "the handler of SIGINT": {"sigint": "signal.signal(signal.SIGINT, signal.default_int_handler)"},
    "the handler of SIGHUP": {"sighup": "signal.signal(signal.SIGHUP, signal.SIG_DFL)"},
    "the handler of SIGUSR1": {"sigusr1": "signal.signal(signal.SIGUSR1, print)"},
    "the handler of SIGCHLD": {"sigchld": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"},
    "the handler of SIGALRM": {"sigalrm": "signal.signal(signal.SIGALRM, print)"},
    "the wake-up descriptor of signals": {
        "no_wakeup": "signal.set_wakeup_fd(-1)",
        "asyncio_signals": "loop = asyncio.new_event_loop()\n"
        "loop.add_signal_handler(signal.SIGUSR2, print)\n"
        "loop.remove_signal_handler(signal.SIGUSR2)\n"
        "loop.close()",
    },
    "the signal mask": {"mask": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"},
    "the timer of signal.alarm()": {
        "alarm": "signal.alarm(1)",
        "timer": "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)",
    },
    "the timer ITIMER_VIRTUAL": {"virtual_timer": "signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)"},
    "sys.excepthook": {"excepthook": "sys.excepthook = print"},
    "sys.unraisablehook": {"unraisablehook": "sys.unraisablehook = print"},
    "sys.tracebacklimit": {"tracebacklimit": "sys.tracebacklimit = 0"},
    "threading.excepthook": {"thread_hook": "threading.excepthook = print"},
    "the filters that make warnings errors": {
        "warnings": "warnings.simplefilter('error')",
        "one_warning": "warnings.filterwarnings('error', category=DeprecationWarning)",
    },
    "the working directory from": {
        "chdir": "os.chdir('/')",
        "chdir_removed": "import tempfile\nwith tempfile.TemporaryDirectory() as d: os.chdir(d)",
    },
    "the environment (": {
        "environ_cleared": "os.environ.clear()",
        "path_gone": "del os.environ['PATH']",
        "time_zone": "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
        "home": "os.environ['HOME'] = '/nowhere'",
        "environ_replaced": "os.environ = {'A': '1'}",
    },
    "sys.modules (": {
        "module_gone": "del sys.modules['json']",
        "module_false": "sys.modules['sqlite3'] = sys",
        "no_modules": "sys.modules.clear()",
        "modules_gone": "[sys.modules.pop(n) for n in [*sys.modules] if n.startswith('lva.')]",
    },
    "sys.meta_path": {"finders_gone": "sys.meta_path.clear()"},
    "the umask from": {"umask": "os.umask(0o777)"},
    "the locale from": {"locale": "locale.setlocale(locale.LC_ALL, 'C')"},
    "the switch interval from": {"switch_interval": "sys.setswitchinterval(2)"},
    "gc.isenabled() from": {"gc_off": "gc.disable()"},
    "gc.get_threshold() from": {"gc_threshold": "gc.set_threshold(0)"},
    "gc.get_debug() from": {"gc_debug": "gc.set_debug(gc.DEBUG_UNCOLLECTABLE)"},
    "the recursion limit from": {
        "recursion_low": "sys.setrecursionlimit(200)",
        "recursion_high": "sys.setrecursionlimit(10**6)",
    },
    "sys.get_int_max_str_digits() from": {"digits": "sys.set_int_max_str_digits(0)"},
    "sys.get_asyncgen_hooks()": {"asyncgen_hooks": "sys.set_asyncgen_hooks(print, print)"},
    "the trace function from": {"trace": "sys.settrace(nothing)"},
    "the profile function from": {"profile": "sys.setprofile(nothing)"},
    "threading.gettrace() from": {"thread_trace": "threading.settrace(nothing)"},
    "threading.getprofile() from": {"thread_profile": "threading.setprofile(nothing)"},
    "threading.stack_size() from": {"stack_size": "threading.stack_size(1 << 20)"},
    "socket.getdefaulttimeout() from": {"socket_timeout": "socket.setdefaulttimeout(0.01)"},
    "RLIMIT_NOFILE from": {"descriptors": "lower(resource.RLIMIT_NOFILE, 3)"},
    "RLIMIT_AS from": {"memory": "lower(resource.RLIMIT_AS, 1 << 20)"},
    "RLIMIT_CPU from": {"processor_seconds": "lower(resource.RLIMIT_CPU, 1)"},
    "RLIMIT_FSIZE from": {"file_size": "lower(resource.RLIMIT_FSIZE, 0)"},
    "RLIMIT_NPROC from": {"processes": "lower(resource.RLIMIT_NPROC, 0)"},
    "the processors it may run on from": {"affinity": "os.sched_setaffinity(0, one_processor())"},
}
#: There is none at import yet, or what is said is another thing.
NOT_AT_IMPORT = {"no_wakeup", "asyncio_signals", "no_modules", "sigterm_received"}
#: One of each kind that any thread can do: all of them are put back in the same way.
FEW = (
    "excepthook", "warnings", "chdir", "time_zone", "module_gone", "gc_off", "recursion_low",
    "socket_timeout", "descriptors",
)  # fmt: skip
NAMES = {name: said for said, acts in ACTS.items() for name in acts}
CODE = {name: code for acts in ACTS.values() for name, code in acts.items()}

TOP = """
import asyncio, gc, locale, os, resource, signal, socket, sys, threading, time, warnings
import trio
from lva import *

kept = []

def nothing(*args): ...

def lower(which, soft):
    resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))

def one_processor():
    return {min(os.sched_getaffinity(0))} if len(os.sched_getaffinity(0)) > 1 else {0}

"""
ACTOR = """
class Actor(BaseBackgroundPlugin):
    runtime = %r

    async def initialize(self):
        self.addRoute("/act/" + __name__.rpartition(".")[2], self.route, {"post"})
        if %r == "initialize":
            act()

    async def route(self, request):
        act()
        return pluginHTTPResponse(statusCode=204)
"""
BARE = 'class Closer(BaseBackgroundPlugin):\n    """Does nothing else."""\n'
#: Says what the state was when it was imported and initialized, before the others were, and what it is.
WITNESS = """
def found():
    limits = (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)
    os.umask(mask := os.umask(0o77))
    signal.set_wakeup_fd(wakeup := signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
    hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)
    traced = (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile())
    modules = ("json", "sqlite3", "lva.app", "lva.host.delivery.spool")
    return {
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "zone": time.tzname,
        "umask": mask,
        "wake-up": wakeup,
        "locale": locale.setlocale(locale.LC_ALL),
        "handlers": [str(signal.getsignal(n)) for n in signal.valid_signals() - {signal.SIGPROF}],
        "timers": [signal.getitimer(signal.ITIMER_REAL), signal.getitimer(signal.ITIMER_VIRTUAL)],
        "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "hooks": [str(hooks), hasattr(sys, "tracebacklimit")],
        "strict": [str(item) for item in warnings.filters if item[0] == "error"],
        "modules": [sys.modules[name].__name__ for name in modules if name in sys.modules],
        "finders": [str(item) for item in sys.meta_path],
        "switch": sys.getswitchinterval(),
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "numbers": [sys.getrecursionlimit(), sys.get_int_max_str_digits(), threading.stack_size()],
        "asyncgen": str(sys.get_asyncgen_hooks()),
        "traced": str(traced),
        "timeout": socket.getdefaulttimeout(),
        "limits": [resource.getrlimit(which) for which in limits],
        "processors": sorted(os.sched_getaffinity(0)),
    }

imported = found()

class Witness(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/state", self.state)
        self.initialized = found()

    async def state(self, request):
        now = found()
        return pluginHTTPResponse(body=[imported, self.initialized, now])
"""
#: What the service itself changes between the imports and the start of plugins.
SET_BY_THE_SERVICE = {"switch", "wake-up", "asyncgen"}


def actors(tmp_path: Path, names: Sequence[str], where: str, style: str = "trio") -> ServiceProcess:
    """Return a service with a plugin for each act, and a witness that comes before them."""
    write_plugin(tmp_path / "plugins", "witness", WITNESS, TOP)
    for name in names:
        act = f"def act():\n{textwrap.indent(CODE[name], '    ')}\n"
        at_import = "act()\n" if where == "import" else ""
        source = act + at_import + ACTOR % (style, where)
        write_plugin(tmp_path / "plugins", name, source, TOP)
    write_plugin(tmp_path / "plugins", "spare", BARE + "    pass\n")
    return ServiceProcess(tmp_path, ["witness", *names, "spare"])


def said_by(service: ServiceProcess, name: str) -> list[str]:
    """Return what is said of a plugin's changes."""
    return [
        record["message"]
        for record in service.records
        if record.get("plugin") == name and record["message"].startswith("changed ")
    ]


def check(service: ServiceProcess, names: list[str], subtests: pytest.Subtests) -> None:
    """Check that each change was said once, that nothing else was, and that the end is as always."""
    for name in names:
        with subtests.test(act=name):
            (said,) = said_by(service, name)
            assert re.match(f"changed {re.escape(NAMES[name])}.*; put back$", said)
            assert service.receipt_of(name)["state"] == "stopped"
    assert "somebody changed" not in service.output
    assert service.receipt["exit_code"] == 0
    assert service.receipt["reason"] == "received SIGTERM"


def test_at_import(tmp_path: Path, subtests: pytest.Subtests) -> None:
    names = [n for n in CODE if n not in NOT_AT_IMPORT and "the handler of" not in NAMES[n]]
    with actors(tmp_path, names, "import") as service:
        imported, _, now = service.wait_until_ready().get("/state").json()
        assert service.stop() == 0
    check(service, names, subtests)
    assert {key for key in now if now[key] != imported.get(key)} <= SET_BY_THE_SERVICE


def test_in_initialize(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Kind: process-wide state that a plugin changes; a stop is in order whoever takes its signal."""
    names = ["sigterm_own", "alarm", *FEW]
    with actors(tmp_path, names, "initialize") as service:
        _, initialized, now = service.wait_until_ready().get("/state").json()
        assert service.stop() == 0
    check(service, names, subtests)
    assert now == initialized


def test_while_it_runs_on_an_event_loop_of_its_own(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Other loops may have run a little too; then all are listed, and none is accused."""
    with actors(tmp_path, FEW, "running", "asyncio") as service:
        service.wait_until_ready()
        for name in FEW:
            with subtests.test(act=name):
                assert service.request("POST", f"/act/{name}").status_code == 204
                what = f"changed {re.escape(NAMES[name])}.*; put back"
                listed = rf"somebody {what}; running at that time: [^\"]*\b{name}\b"
                service.wait_for(rf'"lva.plugin.{name}", "message": "{what}|{listed}')
        _, initialized, now = service.get("/state").json()
        assert service.stop() == 0
    assert now == initialized
    assert service.receipt["exit_code"] == 0


def test_while_it_runs(tmp_path: Path, subtests: pytest.Subtests) -> None:
    names = [*CODE]
    with actors(tmp_path, names, "running") as service:
        service.wait_until_ready()
        # A change of a plugin's state is looked after: from then on, nobody who has started runs.
        assert service.request("POST", "/plugins/spare/stop").status_code == 200
        for name in names:
            assert service.request("POST", f"/act/{name}").status_code == 204
            service.wait_for(f'"lva.plugin.{name}", "message": "changed ')
        _, initialized, now = service.get("/state").json()
        assert service.stop() == 0
    check(service, names, subtests)
    assert now == initialized


def test_signals_at_import_are_refused(tmp_path: Path) -> None:
    names = [n for n in CODE if n not in NOT_AT_IMPORT and "the handler of" in NAMES[n]]
    with actors(tmp_path, names, "import") as service:
        assert service.wait() == 2
    for name in names:
        assert re.search(
            rf"{name}\.py: sets a handler for {NAMES[name].split()[-1]};", service.output
        )


CLOSED = "changed file descriptors of the service, which are closed"


def test_descriptors_closed_at_import_are_refused(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "closer", "import os\nos.closerange(3, 999)\n" + BARE)
    with ServiceProcess(tmp_path, ["closer"]) as service:
        assert service.wait() == 2
    assert "closer.py: closes file descriptors of the service" in service.output


@pytest.mark.parametrize("where", ["initialize", "start"])
def test_descriptors_closed_later_are_the_end_with_a_receipt(tmp_path: Path, where: str) -> None:
    """The event loop's are among them, so there is no going on: but the end is told, and who made it."""
    act = f"    async def {where}(self):\n        import os\n        os.closerange(3, 999)\n"
    write_plugin(tmp_path / "plugins", "closer", BARE + act)
    with ServiceProcess(tmp_path, ["closer"]) as service:
        assert service.wait() == 70
    found = said_by(service, "closer")
    assert len(found) == 1, service.output
    assert found[0].startswith(CLOSED)
    assert service.receipt["exit_code"] == 70
    assert service.receipt["reason"] == "the event loop failed"


def test_an_exit_handler_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    source = "import atexit\natexit.register(time.sleep, 100)\n"
    write_plugin(tmp_path / "plugins", "leaver", source + BARE)
    with ServiceProcess(tmp_path, ["leaver"]) as service:
        service.wait_until_ready()
        assert service.stop(10) == 0
    assert service.receipt["exit_code"] == 0
