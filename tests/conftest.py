"""What holds for every test."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from lva.host.plugin_modules import PACKAGE
from lva.host.runtimes.patience import Patience
from lva.logs import loggers as logs
from lva.settings import ENV_PREFIX
from tests.process.moments import LONG

#: Fixtures that start RabbitMQ, which takes eight seconds.
RABBITMQ = {"node", "rabbitmq_node"}
#: A test that takes longer, in seconds, has one of these markers.
SLOW = 0.25
REASONS = {"slow", "process", "soak"}
#: Modules whose first test has one of these wait for most of their time.
WAIT = {"process", "slow"}
#: Seconds until a test of the soak tier has failed, if it does not say so itself: on a busy machine as well.
SOAK_TIMEOUT = 240
#: Names those that have none at the end, as on CI. One run on a busy machine proves nothing: `tests.steady`
#: fails for those that were slow in every run.
NAME_SLOW = "LVA_NAME_SLOW_TESTS"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Have three workers more than there are cores: the tests wait for three quarters of their time.

    Two of these are left out where tests measure time.
    """
    more = 3 if config.option.markexpr == "not soak" else 1
    named = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    return int(named) if named else len(os.sched_getaffinity(0)) + more


def pytest_configure(config: pytest.Config) -> None:
    """Try the same examples in each plain run, and keep bytecode in pytest's cache where Python keeps none.

    To compile all anew would be ten seconds of each process that runs tests, and a fifth of the start of each
    service.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        # As under nohup, or in the background. A process that is started then would ignore it as well.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    hypothesis.settings.register_profile("lva", derandomize=not LONG)
    hypothesis.settings.load_profile("lva")
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") and hasattr(config, "cache"):
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Have each process begin with other files: what one has compiled is not compiled by the others.

    It matters where nothing is compiled yet, as in a fresh clone: there it is ten seconds of each process.
    """
    gc.disable()
    config = session.config
    workers = getattr(config, "workerinput", None)
    if workers is None or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    number = int(workers["workerid"].removeprefix("gw"))
    begin = len(files) * number // workers["workercount"]
    for file in files[begin:] + files[:begin]:
        name = ".".join(file.relative_to(config.rootpath).with_suffix("").parts)
        with contextlib.suppress(Exception, pytest.skip.Exception):  # the collection tells of it
            importlib.import_module(name)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Put what starts RabbitMQ into the soak tier, and random examples in their long form; give it time."""
    for item in items:
        random = LONG and getattr(getattr(item, "function", None), "is_hypothesis_test", False)
        if random or RABBITMQ.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.soak)
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SOAK_TIMEOUT))
    yield
    if workers := getattr(config, "workerinput", None):
        items[:] = dealt(items, workers["workercount"])


def dealt(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return tests in an order in which every other process begins with modules that wait.

    Each process gets an equal part of them. If many waited at the end, the processors would be without work.
    """
    modules = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
    waiting = [tests for tests in modules if any(map(tests[0].get_closest_marker, WAIT))]
    others = [test for tests in modules if tests not in waiting for test in tests]
    shares = [waiting[number :: processes // 2 or 1] for number in range(processes // 2 or 1)]
    order: list[pytest.Item] = []
    for number, share in enumerate(shares, 1):
        order += chain.from_iterable(share)
        rest = len(items) * 2 * number // processes - len(order)
        order += others[: max(rest, 0)]
        del others[: max(rest, 0)]
    return order + others


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were slow and do not say why, where somebody wants to know."""
    if not {"CI", NAME_SLOW} & os.environ.keys():
        return
    for report in terminalreporter.stats.get("passed", []):
        if report.duration > SLOW and not REASONS.intersection(report.keywords):
            terminalreporter.write_line(
                f"slow without a reason: {report.duration:.2f} s {report.nodeid}"
            )


def pytest_collection_finish() -> None:
    """Spare what is there before the first test from garbage collections, of which many are asked for.

    Those that Python makes by itself are rarer than usual: they took a twentieth of the time of the tests,
    and a sixth of that of the collection, in which there are none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def constructors_are_waited_for(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the host wait for constructors where time is virtual: that does not wait for their threads.

    On a busy machine, an hour of it may pass before a thread has its first turn.
    """
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(Patience, "BRIEFLY", 10.0)


@pytest.fixture(autouse=True, scope="session")
def certificates_are_read_once() -> Iterator[None]:
    """Spare each HTTP client that a plugin makes the 20 ms in which the system's certificates are read."""
    read = ssl.create_default_context
    files = ("SSL_CERT_FILE", "SSL_CERT_DIR")

    @functools.cache
    def kept(_files: tuple[str | None, ...], **where: Any) -> ssl.SSLContext:
        return read(**where)

    def create(*purpose: ssl.Purpose, **options: Any) -> ssl.SSLContext:
        if purpose or not options.keys() <= {"cafile", "capath"}:
            return read(*purpose, **options)
        context = kept(tuple(os.environ.get(name) for name in files), **options)
        assert context.check_hostname, (
            "what is changed must not be a default context: others have it"
        )
        return context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", create)
        yield


@pytest.fixture(autouse=True)
def logging_is_as_before() -> Iterator[None]:
    """Let what the service logs be seen in `caplog`, whichever test has set up its output before."""
    root = logging.getLogger()
    level, output = root.level, logs._output
    logs._output = None
    yield
    logs._output = output
    root.setLevel(level)


@pytest.fixture
def clean_slate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_modules_left: None) -> None:
    """An empty current directory, no settings but the test's, and no plugin module of another test."""
    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Let no garbage collection free or close anything meanwhile: in a service, it may be late."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def no_modules_left() -> Iterator[None]:
    """Leave no plugin module and no finder behind."""
    before = list(sys.meta_path)
    yield
    sys.meta_path[:] = before
    for name in [key for key in sys.modules if key.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
