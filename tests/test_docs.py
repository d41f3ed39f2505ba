"""The documentation names everything there is, and its examples work.

The tables made from the code are read as `docs/conf.py` puts them in, so that taking a table out of its
page is noticed.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import httpx
import pytest
import trio

import lva
import lva.testing
from lva import MonitoringPoint
from lva.check.codes import CODES
from lva.cli import main
from lva.events.types import EVENT_TYPES
from lva.host import receipt
from lva.host.delivery.ledger import ATTEMPTS, FAILED, OVERFLOW, REMOVED, SHUTDOWN
from lva.host.delivery.tap import STEPS
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.host.runtimes.loop import LINGER
from lva.host.runtimes.own_tasks import HELD_GRACE, RETRIEVAL_GRACE
from lva.luna import MODULES
from lva.plugins import batching_example, callbacks, file, history, influx, otlp, webhook
from lva.routes.query import query_parameters_of
from lva.settings import ENV_PREFIX, PluginSettings, Settings, keys_of
from lva.testing.blocks import BLOCK_LIMIT
from lva.testing.virtual import LOOP_PATIENCE, SOCKET_PATIENCE, THREAD_PATIENCE
from lva.web.handling.complete import CompleteRequest
from lva.web.resources.resource import Resource
from lva.web.resources.table import RESOURCES
from tests.event_samples import CHANGE, SEEN
from tests.support import ServiceProcess, clean_environment, copy_examples, host_settings, running

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(lva.__file__).parent
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
EXAMPLE_TESTS = sorted((DOCS / "examples" / "tests").glob("*.*"))
#: The pages that show examples.
GUIDES = ("tutorial", "writing", "asyncio", "batching", "howto")
#: The pages on which every code block is a file that a test runs.
ONLY_FILES = ("tutorial", "howto", "guarantees")


@functools.cache
def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def page(name: str) -> str:
    """Return a page's text with its generated tables put in."""
    tables = _tables().TABLES
    return re.sub(
        r"^\.\. generated:: (\S+)$",
        lambda match: tables[match[1]](),
        (DOCS / f"{name}.rst").read_text(),
        flags=re.MULTILINE,
    )


def test_every_generated_table_is_there() -> None:
    """Otherwise the documentation is not built."""
    names = {
        name
        for path in DOCS.glob("*.rst")
        for name in re.findall(r"^ *\.\. generated:: (\S+)$", path.read_text(), re.MULTILINE)
    }
    assert names <= set(_tables().TABLES)


def row(text: str, start: str) -> str:
    """Return the list-table row that begins with this cell."""
    match = re.search(
        rf"^ +\* - {re.escape(start)}.*?(?=^ +\* - |\n\n|\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert match, f"no row begins with {start!r}"
    return match[0]


def definition(text: str, key: str) -> str:
    """Return the part of a definition list that is about a key."""
    match = re.search(rf"^{re.escape(key)} : .*\n(?: .*\n)+", text, re.MULTILINE)
    assert match, f"no definition of {key!r}"
    return match[0]


# Nothing is left out


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    said = definition(page("settings"), f"``{name}``")
    assert str(Settings.model_fields[name].description).split()[0] in said
    assert f"``{ENV_PREFIX}`` and the key in capitals" in page("settings")


@pytest.mark.parametrize("name", keys_of(PluginSettings))
def test_every_plugin_setting_is_documented(name: str) -> None:
    assert definition(page("settings"), f"``{name}``")
    assert f"``{ENV_PREFIX}PLUGINS__NAME__KEY``" in page("settings")


@pytest.mark.parametrize("name", lva.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"^\.\. auto\w+:: lva\.{re.escape(name)}\b", page("reference"), re.MULTILINE)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda item: f"{item.verb} {item.path}")
def test_every_resource_is_documented(resource: Resource) -> None:
    there = page("operating" if resource.verb == "GET" else "live")
    assert row(there, f"``{resource.path}``")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its name, those of groups too."""
    pending: list[tuple[str, click.Command]] = [("lva", main)]
    for name, command in pending:
        if isinstance(command, click.Group):
            pending += [(f"{name} {key}", value) for key, value in command.commands.items()]
        else:
            yield name, command


@pytest.mark.parametrize(
    ("command", "option"),
    [(name, option) for name, command in commands() for item in command.params for option in item.opts
     if item.param_type_name == "option"],
)  # fmt: skip
def test_every_option_is_documented(command: str, option: str) -> None:
    assert row(command_section(command), f"``{option}``")


@pytest.mark.parametrize("command", [name for name, _ in commands()])
def test_every_command_says_what_it_does_and_how_it_ends(command: str) -> None:
    found = dict(commands())[command]
    assert "Exit codes: 0" in " ".join((found.help or "").split())
    assert command_section(command)


def command_section(command: str) -> str:
    """Return what the pages of the commands say of one."""
    page_text = page("commands") + page("terminal")
    match = re.search(
        rf"^``{command}``\n-+\n(.*?)(?=^``lva |\Z)", page_text, re.MULTILINE | re.DOTALL
    )
    assert match, f"{command} has no section"
    return match[1]


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_a_problem_is_documented(code: str) -> None:
    assert row(page("commands"), f"``{code}``")


@pytest.mark.parametrize("name", ONLY_FILES)
def test_every_code_block_is_a_file(name: str) -> None:
    text = (DOCS / f"{name}.rst").read_text()
    assert not re.search(
        r"^\.\. (code-block|code|sourcecode)::|^(?!\.\. ).*::$", text, re.MULTILINE
    )
    included = re.findall(r"^\.\. literalinclude:: (\S+)", text, re.MULTILINE)
    assert included
    for path in included:
        assert (DOCS / path).is_file(), path
        # Each of these directories has tests that go through all of its files.
        assert re.match(r"(examples|sessions)/", path)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_a_point_is_documented(step: str) -> None:
    assert row(page("terminal"), f"``{step}``")


@pytest.mark.parametrize("event", EVENT_TYPES)
def test_every_event_type_is_documented(event: str) -> None:
    assert row(page("concepts"), f"``{event}``")


def test_every_key_of_an_event_is_documented_and_none_is_gone() -> None:
    """The kind is a receiver that relies on a key: keys of documents are added, never taken away."""
    section = page("streams").split(".. _event-documents:")[1].split("Points\n^^^^^^")[0]
    for document in (CHANGE.as_dict(), SEEN.as_dict(), SEEN.as_dict()["image"]):
        assert all(f"``{key}``" in section for key in document)
    head = {"event_name", "event_id", "event_type", "event_create_time", "account_id", "epoch"}
    head |= {"stream_id", "stream", "time"}
    assert CHANGE.as_dict().keys() >= head | {"status", "before", "code", "reason"}
    assert SEEN.as_dict().keys() >= head | {"number", "analytics", "frame", "data", "image"}


@pytest.mark.parametrize("plugin", sorted(path.stem for path in PACKAGE.glob("plugins/*.py")))
def test_every_shipped_plugin_has_its_section(plugin: str) -> None:
    assert re.search(rf"^``{plugin}``\n-+$", page("shipped"), re.MULTILINE)


@pytest.mark.parametrize(
    "parameter", [item.name for item in query_parameters_of(history.History.points)]
)
def test_every_parameter_of_the_history_is_documented(parameter: str) -> None:
    assert re.search(rf"^``{parameter}`` ", page("shipped"), re.MULTILINE)


@pytest.mark.parametrize("key", history.Config.model_fields)
def test_every_key_of_the_history_is_documented(key: str) -> None:
    assert definition(page("shipped"), f"``{key}``")


@pytest.mark.parametrize("key", batching_example.Config.model_fields)
def test_every_key_of_the_pair_is_documented(key: str) -> None:
    assert definition(page("shipped"), f"``{key}``")


@pytest.mark.parametrize(
    "plugin",
    [callbacks, file, influx, otlp, webhook],
    ids=["callbacks", "file", "influx", "otlp", "webhook"],
)
def test_every_key_of_a_sink_is_documented(plugin: ModuleType) -> None:
    name = plugin.__name__.rpartition(".")[2]
    section = re.split(rf"^``{name}``\n-+$", page("shipped"), flags=re.MULTILINE)[1]
    section = re.split(r"^``\w+``\n-+$", section, flags=re.MULTILINE)[0]
    for key in plugin.Config.model_fields:
        assert definition(section, f"``{key}``")


@pytest.mark.parametrize("name", [name for name in vars(receipt) if name.startswith("EXIT_")])
def test_every_exit_code_is_documented(name: str) -> None:
    section = page("operating").split(".. _exit-codes:")[1]
    assert re.search(rf"^{getattr(receipt, name)} +\S", section, re.MULTILINE)


@pytest.mark.parametrize("state", [state.value for state in State])
def test_every_state_is_documented(state: str) -> None:
    assert re.search(rf"^``{state}`` ", page("concepts"), re.MULTILINE)


@pytest.mark.parametrize("reason", [OVERFLOW, ATTEMPTS, SHUTDOWN, FAILED, REMOVED])
def test_every_reason_for_dropping_is_documented(reason: str) -> None:
    assert f"``{reason}``" in page("concepts")


@pytest.mark.slow("its pictures are drawn from the imports of every file")
def test_every_package_and_every_room_is_in_the_architecture() -> None:
    text = page("architecture")
    for path in [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("*/*/__init__.py")]:
        assert re.search(rf"^ +(\| )?{path.parent.name}/? +\S", text, re.MULTILINE), path


@pytest.mark.parametrize("number", range(1, 11))
def test_every_guarantee_states_its_example_and_its_limits(number: int) -> None:
    section = re.search(
        rf"^G{number}: .*?(?=^G\d+: |\Z)", page("guarantees"), re.MULTILINE | re.DOTALL
    )
    assert section
    assert "*Example.*" in section[0]
    assert "*Limits.*" in section[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_shown_and_tested(example: Path) -> None:
    assert any(f".. literalinclude:: examples/{example.name}" in page(name) for name in GUIDES)
    here = Path(__file__).parent
    tests = [*here.glob("test_*.py"), *here.glob("plugins/*.py")]
    found = (f'"{example.stem}"', f'"{example.stem}.py"')
    assert any(text in path.read_text() for path in tests for text in found)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_of_the_original_service_is_documented(module: str) -> None:
    cells = row(page("asyncio"), f"``{module}``")
    assert all(f"``{name}``" in cells for name in MODULES[module])


@pytest.mark.parametrize(
    "name", [field.name for field in fields(CompleteRequest)] + ["json", "text"]
)
def test_every_attribute_of_a_request_on_asyncio_is_documented(name: str) -> None:
    assert row(page("asyncio"), f"``{name}``")


@pytest.mark.parametrize("seconds", [RETRIEVAL_GRACE, HELD_GRACE, LINGER])
def test_the_rules_for_tasks_on_asyncio_are_documented(seconds: float) -> None:
    assert re.search(rf"\b{seconds:g}\s+s\b", page("asyncio"))


@pytest.mark.parametrize("name", lva.testing.__all__)
def test_every_public_name_of_the_kit_is_documented(name: str) -> None:
    text = page("testing")
    assert re.search(rf"^\.\. auto\w+:: lva\.testing\.{re.escape(name)}\b", text, re.MULTILINE)


@pytest.mark.parametrize(
    "seconds", [BLOCK_LIMIT, SOCKET_PATIENCE, THREAD_PATIENCE, LOOP_PATIENCE], ids=str
)
def test_the_limits_of_the_kit_are_documented(seconds: float) -> None:
    assert re.search(rf"\b{seconds * 1000:.0f}\s+ms\b", page("testing"))


# The examples work


@pytest.mark.parametrize("name", [path.name for path in EXAMPLE_TESTS])
def test_every_example_of_a_test_is_shown(name: str) -> None:
    assert f".. literalinclude:: examples/tests/{name}" in page("testing")


@pytest.mark.soak
def test_the_examples_of_tests_pass(tmp_path: Path) -> None:
    for directory in ("plugins", "tests"):
        (tmp_path / directory).mkdir()
    copy_examples(tmp_path, *(example.stem for example in EXAMPLES))
    for example in EXAMPLE_TESTS:
        shutil.copy(example, tmp_path / ("tests" if example.suffix == ".py" else ""))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^12 passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_an_example_loads(tmp_path: Path, name: str) -> None:
    copy_examples(tmp_path, name)
    needed = {
        "collector": {"url": "http://127.0.0.1:9"},
        "http_sink": {"url": "http://127.0.0.1:9"},
    }
    needed |= {"partners": {"path": "points"}, "album": {"directory": "album"}}
    tables = {name: {"config": needed[name]}} if name in needed else {}
    (loaded,) = load_plugins(host_settings(tmp_path, [name], tables))
    assert loaded.classes or loaded.analytics


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """All examples that need no other service, in one process."""
    tmp_path = tmp_path_factory.mktemp("examples")
    names = ["doorbell", "route_counter", "disk_space", "cameras", "snapshots", "pair"]
    names += ["thermometers", "slowest"]
    copy_examples(tmp_path, *names)
    toml = """
        [plugins.disk_space.config]
        interval = 0.05

        [plugins.route_counter.config]
        report_every = 1

        [plugins.history]
        flush_interval = 0.05
    """
    with ServiceProcess(tmp_path, ["history", *names], toml) as process:
        process.wait_until_ready()
        yield process
        assert process.stop() == 0
        assert not [item for item in process.records if item["level"] not in {"INFO", "WARNING"}]


def points(service: ServiceProcess, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/history/points?{query}").json()["points"]
    return found


@pytest.mark.process
def test_doorbell_rings_and_tags_its_point(service: ServiceProcess) -> None:
    assert service.get("/doorbell").text == "ding dong\n"
    service.wait_until(lambda: points(service, "tag=door:front"))
    assert points(service, "tag=door:front")[0]["tags"]["route"] == "GET:/doorbell"


@pytest.mark.process
def test_route_counter_counts_each_route(service: ServiceProcess) -> None:
    service.get("/plugins/route_counter")
    service.wait_for(r"requests so far: .*GET:/plugins/<name>")


@pytest.mark.process
def test_disk_space_publishes_points_of_its_own(service: ServiceProcess) -> None:
    service.wait_until(lambda: len(points(service, "series=disk")) > 1)
    assert points(service, "series=disk&limit=1")[0]["fields"]["free"] > 0


@pytest.mark.process
def test_cameras_are_put_found_and_counted(service: ServiceProcess) -> None:
    missing = service.get("/cameras/7")
    assert (missing.status_code, missing.json()["detail"]) == (404, "There is no camera 7.")
    assert service.request("PUT", "/cameras/7", json={"name": "gate"}).status_code == 204
    assert service.get("/cameras/7").json() == {"camera": 7, "name": "gate"}
    assert service.get("/cameras/count").text == "1\n"
    assert service.request("POST", "/cameras/search?name=gat").json() == {"cameras": [7]}
    assert service.request("DELETE", "/cameras/7").headers["allow"] == "GET, PUT, OPTIONS, HEAD"
    service.wait_until(lambda: points(service, "tag=camera:7"))
    added = points(service, "tag=route:PUT:/cameras/<int:camera>&series=requests")
    assert added[0]["fields"]["cameras"] == 1


@pytest.mark.process
def test_pair_shows_what_its_other_class_collected(service: ServiceProcess) -> None:
    service.get("/livez")
    service.wait_until(lambda: "GET:/livez" in service.get("/newest").json())


@pytest.mark.process
def test_thermometers_are_put_and_watched(service: ServiceProcess) -> None:
    assert (
        service.request("PUT", "/thermometers/cellar", json={"degrees": "warm"}).status_code == 400
    )
    assert service.request("PUT", "/thermometers/cellar", json={"degrees": 11.5}).status_code == 204
    with service.stream("/thermometers") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "cellar=11.5"
        service.request("PUT", "/thermometers/attic", json={"degrees": 31})
        assert next(lines) == "cellar=11.5 attic=31"
    service.wait_until(lambda: points(service, "series=temperature&tag=thermometer:attic"))
    assert service.plugin("thermometers")["runtime"] == "asyncio"


@pytest.mark.process
def test_a_file_for_the_original_service_runs_as_it_stands(service: ServiceProcess) -> None:
    service.get("/livez")
    service.wait_until(lambda: service.get("/slowest").json().get("GET:/livez"))
    assert int(service.get("/slowest/count").text) >= 2
    service.wait_for(r"slowest requests so far: ")
    assert service.plugin("slowest")["runtime"] == "asyncio"


async def test_snapshots_stop_in_their_thread(tmp_path: Path) -> None:
    copy_examples(tmp_path, "snapshots")
    settings = host_settings(tmp_path, ["snapshots"])
    async with running(load_plugins(settings), settings) as host:
        await host.wait_until_running()
        plugin = host.plugin("snapshots")
        while plugin.taken < 2:
            await trio.sleep(0.01)
        part = await host.receipt_of("snapshots")
    assert (part.state, part.leaked_threads, part.problems) == ("stopped", [], [])


@pytest.mark.parametrize(
    ("status", "answers", "ledger"),
    [
        (200, ["ok", "ok", "ok"], {"delivered": 3, "rejected": 0}),
        (200, ["ok", "busy", "wrong"], {"delivered": 2, "rejected": 1, "retries": 1}),
        (400, [], {"delivered": 0, "rejected": 3, "retries": 0}),
        (503, [], {"delivered": 3, "rejected": 0, "retries": 1}),
    ],
)
async def test_collector_says_what_failed(
    tmp_path: Path, status: int, answers: list[str], ledger: dict[str, int], autojump_clock: Any
) -> None:
    copy_examples(tmp_path, "collector")
    settings = host_settings(
        tmp_path, ["collector"], {"collector": {"config": {"url": "http://collector"}}}
    )
    calls: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        count = request.content.count(b'"series"')
        calls.append(count)
        if len(calls) > 1:  # the second attempt finds the collector well
            return httpx.Response(200, json={"status": ["ok"] * count})
        return httpx.Response(status, json={"status": answers})

    async with running(load_plugins(settings), settings) as host:
        await host.wait_until_running()
        await host.plugin("collector").client.aclose()
        host.plugin("collector").client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        host.publish([MonitoringPoint("numbers", 1.0, {}, {"n": n}) for n in range(3)])
        part = await host.receipt_of("collector")
    assert {key: part.points[key] for key in ledger} == ledger


# The README


def readme_block(language: str, containing: str) -> str:
    """Return the one block of code in this language that contains a text."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return str(block)


@pytest.mark.process
@pytest.mark.slow("a service with a stream of pictures")
def test_the_stream_of_the_readme_shows_motion(tmp_path: Path) -> None:
    arguments = readme_block("sh", "install '.[video]'").rpartition("lva run ")[2].split()
    post, events = readme_block("sh", "curl").splitlines()
    found = re.fullmatch(r"curl 127.0.0.1:5240(\S+) -d '(.*)'", post)
    assert found
    with ServiceProcess(tmp_path, (), arguments=arguments) as service:
        service.wait_until_ready()
        made = service.request("POST", found[1], content=found[2])
        assert made.status_code == 201
        path = events.rpartition("5240")[2]
        service.wait_until(lambda: service.get(path).json()["events"])
        first = service.get(path).json()["events"][-1]
        assert (first["event_type"], first["analytics"]) == ("motion_start", "motion")
        assert set(first["data"]["box"]) == {"x", "y", "width", "height"}
        assert service.stop() == 0


@pytest.mark.process
def test_the_plugin_of_the_readme_works(tmp_path: Path) -> None:
    name = re.search(r"Save this as `plugins/(\w+)\.py`", (ROOT / "README.md").read_text())
    assert name
    source = readme_block("python", "class ")
    assert len(source.splitlines()) <= 10
    (tmp_path / "plugins").mkdir()
    path = tmp_path / "plugins" / f"{name[1]}.py"
    path.write_text(source)
    path.chmod(0o644)
    arguments = readme_block("sh", "--plugins-dir").split()[2:]
    # The command of the README as it stands: its options outweigh the environment of the test.
    with ServiceProcess(tmp_path, (), arguments=arguments) as service:
        service.wait_until_ready()
        session = readme_block("console", "curl").splitlines()
        path_of = [line.rpartition("5240")[2].rstrip("'") for line in session[::2]]
        assert service.get(path_of[0]).text == f"{session[1]}\n"
        service.wait_until(lambda: service.get(path_of[1]).json()["points"])
        (point,) = service.get(path_of[1]).json()["points"]
        assert point["tags"] == {
            "door": "front",
            "route": "GET:/doorbell",
            "service": "luna-video-agent",
            "status_code": 200,
        }
        assert service.stop() == 0


def test_the_plugin_of_the_readme_is_the_first_of_the_guide() -> None:
    assert readme_block("python", "class ") == (DOCS / "examples" / "doorbell.py").read_text()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_links_between_the_files_lead_somewhere(file: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / file).read_text()):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_command_of_the_readme() -> None:
    for part in readme_block("sh", "pytest").strip().split(" && ")[1:]:
        words = [word.removeprefix(".venv/bin/") for word in part.split()]
        script = (ROOT / ".ci" / "run").read_text()
        assert re.search(rf"/\.venv/bin/{words[0]}\"", script), part
        assert " ".join(words[2:]) in script
