"""`running_plugin`, which is the fixture `lva_host`."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lva import MonitoringPoint
from lva.testing import check_event_contract, check_plugin, contract, running_plugin
from lva.testing.subject import subject_of
from tests.support import clean_environment

PUMP = """
import trio
from lva import BaseBackgroundPlugin, BaseEventPlugin

class Pump(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/pump", self.get)

    async def get(self, request):
        return {"pumping": True}

class Gauge(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        logger.info("%d points", len(points))
"""


LEAKING = PUMP.replace('self.addRoute("/pump", self.get)', 'self.file = open("/dev/null")')


async def test_the_real_web_layer_answers(lva_host: Any, autojump_clock: Any):
    async with lva_host(PUMP) as host:
        assert (await host.client.get("/pump")).json() == {"pumping": True}
        assert (await host.client.get("/readyz")).status_code == 200
        assert (await host.client.get(f"/plugins/{host.name}")).json()["state"] == "running"
        missing = await host.client.get("/pumps")
        assert (missing.status_code, missing.json()["error_code"]) == (404, "not_found")
        # Each request has made points, two of them for the one that failed.
        assert (await host.settled()).delivered == 5
        assert any("points" in message for message in host.log.messages)


async def test_points_states_and_the_receipt(lva_host: Any, autojump_clock: Any):
    async with lva_host(PUMP) as host:
        host.publish(7)
        assert (await host.settled()).delivered == 7
        host.crash()
        await host.wait_for("backoff")
        await host.wait_for("running")
        assert host.states[-2:] == ["initializing", "running"]
        assert host.calls.count("Pump.initialize()") == 2
        assert host.status["restarts"] == 1
        part = await host.stop()
        assert (part.state, part.restarts, part.points["delivered"]) == ("stopped", 1, 7)
        assert host.state == "stopped"


async def test_a_start_that_fails_has_its_cause(autojump_clock: Any):
    broken = PUMP.replace('self.addRoute("/pump", self.get)', 'raise OSError("no water")')
    with pytest.raises(AssertionError, match="OSError: no water") as caught:
        async with running_plugin(broken):
            pass
    assert isinstance(caught.value.__cause__, OSError)
    assert 'raise OSError("no water")' in str(caught.value)


async def test_a_file_that_does_not_load(autojump_clock: Any):
    with pytest.raises(AssertionError, match="does not load"):
        async with running_plugin(PUMP.replace("async def get(", "async def get((")):
            pass


@pytest.mark.slow("a host is stopped in real time")
async def test_what_is_left_fails_the_test(autojump_clock: Any):
    with pytest.raises(AssertionError, match="leaked: the file /dev/null"):
        async with running_plugin(LEAKING) as host:
            module, plugin = host.module, host.plugin
    assert module.Pump
    plugin.file.close()


@pytest.mark.slow("a host is stopped in real time")
async def test_what_is_tolerated_does_not(autojump_clock: Any):
    async with running_plugin(LEAKING, tolerate=["G7"]) as host:
        plugin = host.plugin
    plugin.file.close()


FAILING = PUMP.replace('return {"pumping": True}', 'raise ZeroDivisionError("dry")').replace(
    'logger.info("%d points", len(points))', "self.gauges.read(points)"
)


@pytest.mark.parametrize(
    ("act", "guarantee", "says", "line"),
    [
        (
            "publish",
            "G5",
            "3 points for Gauge dropped, each attempt failed",
            "self.gauges.read",
        ),
        (
            "request",
            "route",
            "the handler of GET /pump raised ZeroDivisionError: dry",
            "raise Zero",
        ),
    ],
)
async def test_what_only_the_log_would_tell_fails_the_test(
    autojump_clock: Any, act: str, guarantee: str, says: str, line: str
):
    """Points that are dropped after all attempts, and a handler's exception: the block itself passes."""

    async def use(tolerate: list[str]) -> None:
        async with running_plugin(
            FAILING, settings={"series": ["numbers"]}, tolerate=tolerate
        ) as host:
            if act == "publish":
                host.publish([MonitoringPoint("numbers", 1.0, {}, {})] * 3)
                await host.settled()
            else:
                assert (await host.client.get("/pump")).status_code == 500

    with pytest.raises(AssertionError) as caught:
        await use([])
    assert guarantee in str(caught.value)
    assert says in str(caught.value)
    assert line in str(caught.value)
    await use([guarantee])


@pytest.mark.slow("a host is stopped in real time")
async def test_the_error_of_the_block_comes_first(autojump_clock: Any):
    with pytest.raises(KeyError, match="mine"):
        async with running_plugin(LEAKING) as host:
            plugin = host.plugin
            raise KeyError("mine")
    plugin.file.close()


async def test_logging_is_as_before(autojump_clock: Any):
    root, own = logging.getLogger(), logging.getLogger("lva")
    before = (list(root.handlers), root.level, own.level, sys.stdout, sys.stderr)
    async with running_plugin(PUMP):
        assert own.level == logging.DEBUG
    assert (list(root.handlers), root.level, own.level, sys.stdout, sys.stderr) == before


async def test_the_checks_refuse_to_run_inside_an_event_loop():
    with pytest.raises(RuntimeError, match="call it from a plain"):
        check_plugin(PUMP)
    with pytest.raises(RuntimeError, match="lva_host"):
        check_event_contract(PUMP)


def test_a_plugin_that_gets_no_points_is_not_said_to_account_for_them():
    source = "from lva import BaseBackgroundPlugin\n\nclass P(BaseBackgroundPlugin):\n    pass\n"
    with pytest.raises(AssertionError, match="no event plugin"):
        check_event_contract(source)
    with pytest.raises(ValueError, match="no points"):
        check_event_contract(PUMP, [])


@pytest.mark.slow("starts an interpreter or checks a whole contract")
def test_a_plugin_that_was_ended_by_force_says_nothing_when_python_ends():
    script = (
        "from lva.testing.contract import check_plugin\n"
        "assert not check_plugin('''\n"
        "import trio\n"
        "from lva import BaseBackgroundPlugin\n"
        "class P(BaseBackgroundPlugin):\n"
        "    async def start(self):\n"
        "        with trio.CancelScope(shield=True):\n"
        "            await trio.sleep_forever()\n"
        "''').ok\n"
    )
    assert _output(script) == ""


def test_wrong_keys_for_the_host_are_explained():
    report = contract.check_plugin(PUMP, settings={"restarts": "never"})
    (step,) = report.failures
    assert (
        step.message == "plugins.plugin_under_test.restarts: unknown key; did you mean 'restart'?"
    )


def test_a_path_a_package_and_a_name(tmp_path: Path):
    (tmp_path / "pump.py").write_text(PUMP)
    (tmp_path / "well").mkdir()
    (tmp_path / "well" / "__init__.py").write_text(PUMP)
    (tmp_path / "pump.py").chmod(0o666)  # whoever may write there: that is for the service
    for source in (tmp_path / "pump.py", str(tmp_path / "well"), tmp_path / "well/__init__.py"):
        with subject_of(source) as subject:
            loaded = subject.load(subject.settings(None, None))
        assert [cls.__name__ for cls in loaded.classes] == ["Pump", "Gauge"]
    with subject_of("background_plugin_example") as subject:
        assert subject.load(subject.settings(None, None)).name == "background_plugin_example"
    with pytest.raises(FileNotFoundError, match="there is no plugin at"):
        check_plugin(tmp_path / "pumps.py")


def test_a_report_is_for_people_and_for_machines(tmp_path: Path):
    path = tmp_path / "pump.py"
    path.write_text(PUMP + "\n    async def close(self):\n        self.water.drain()\n")
    report = contract.check_plugin(path)
    assert not report.ok
    assert str(report) == (
        f"{path} breaks its contract (1 problem)\n\n"
        "G1 closed exactly once: Gauge.close() raised AttributeError: 'Gauge' object has no attribute"
        " 'water'\n"
        "  step: start, then stop\n"
        f"  at:   {path}:{len(PUMP.splitlines()) + 3}\n"
        "            self.water.drain()\n"
        "  hint: close() must cope with an initialize() that got half-way"
    )
    values = report.as_dict()
    assert values["ok"] is False
    assert [step["code"] for step in values["steps"] if not step["ok"]] == ["self.water.drain()"]


def test_a_configuration_that_is_missing_is_a_step():
    report = contract.check_plugin("webhook")
    (step,) = report.failures
    assert step.guarantee == "a plugin that loads"
    assert "url" in step.message


def test_the_service_does_not_import_the_kit():
    code = "import sys, lva.cli; print(*{'pytest', 'lva.testing'} & {*sys.modules})"
    assert _output(code) == ""


@pytest.mark.slow("starts an interpreter or checks a whole contract")
def test_the_checks_need_no_pytest_and_no_locale():
    """A plugin's text is UTF-8, wherever the tests run."""
    code = (
        "import sys; sys.modules |= {'pytest': None, 'pytest_trio': None, '_pytest': None}\n"
        "from lva.testing.contract import check_plugin\n"
        "head = 'from lva import BaseBackgroundPlugin\\nclass P(BaseBackgroundPlugin):\\n'\n"
        "print(check_plugin(head + '    x = \"\\u00e9\"\\n').ok)\n"
    )
    assert _output(code, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") == "True"


def _output(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_test_on_asyncio_is_told_whose_loop_it_needs() -> None:
    """Another pytest plugin may take the test: nothing is begun, and nothing stays captured."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, sys.stdout, sys.stderr, list(sys.meta_path))

    async def taken() -> None:
        async with running_plugin("history"):
            raise AssertionError("it was entered")

    with pytest.raises(RuntimeError, match="asyncio_mode = strict"):
        asyncio.run(taken())
    assert (list(root.handlers), root.level, sys.stdout, sys.stderr, list(sys.meta_path)) == before


#: What pytest-asyncio is to other plugins: its name, and its setting.
ASYNCIO = """
class Asyncio:
    pass

def pytest_addoption(parser):
    parser.addini("asyncio_mode", "strict or auto", default="strict")

def pytest_configure(config):
    config.pluginmanager.register(Asyncio(), "asyncio")
"""


def run_pytest(directory: Path, test: str, *arguments: str) -> str:
    """Run a test between one that starts a loop itself and one that looks for what is left."""
    (directory / "conftest.py").write_text(ASYNCIO)
    (directory / "test_it.py").write_text(KIT + test + NOTHING_LEFT)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "."]
    done = subprocess.run(
        command, cwd=directory, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    return done.stdout


KIT = """
import logging, sys, pytest, trio

async def enter(lva_host):
    async with lva_host("history"):
        pass

def test_plain(lva_host):
    trio.run(enter, lva_host)
"""
NOTHING_LEFT = """

def test_what_is_left():
    places = [*logging.getLogger().handlers, *sys.meta_path, sys.stdout]
    assert not [it for it in places if type(it).__module__.startswith("lva")]
"""
TEST = "\nasync def test_it(lva_host):\n    await enter(lva_host)\n"
MARKED = "\n@pytest.mark.anyio" + TEST


@pytest.mark.soak
@pytest.mark.parametrize(
    ("test", "arguments", "says"),
    [
        (TEST, ["-o", "asyncio_mode=auto"], "takes every async test: set asyncio_mode = strict"),
        (TEST, ["-o", "asyncio_mode=auto", "-o", "trio_mode=true"], "from pytest-trio: set asyn"),
        (TEST, ["-o", "asyncio_mode=auto", "-n1"], "takes every async test: set asyncio_mode"),
        (TEST, ["-p", "no:trio"], "pytest-trio is not active"),
        (MARKED, ["-p", "no:trio"], "have the fixture anyio_backend return 'trio'"),
        (MARKED, [], "have the fixture anyio_backend return 'trio'"),
    ],
)
def test_plugins_beside_the_kit_that_run_its_tests_elsewhere_are_told_of(
    tmp_path: Path, test: str, arguments: list[str], says: str
) -> None:
    """Kind: another plugin takes an async test; others, and plain tests, go on as if it was not there."""
    output = run_pytest(tmp_path, test, *arguments)
    assert says in " ".join(output.split())
    passed = 3 if test is MARKED else 2  # anyio's second backend is Trio
    assert f"{passed} passed" in output
