"""`lva check --run` and `--points`: the plugin is really run, with what the settings have for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lva.check import running
from lva.check.running import read_points
from lva.cli import main
from lva.errors import ConfigurationError
from tests.event_samples import ITEMS, documents
from tests.host.loading.test_installed import install
from tests.support import write_plugin

SINK = """
from pydantic import BaseModel
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    class Config(BaseModel):
        path: str
        fail: str = ""
    async def handleEvent(self, points, logger):
        if self.config.fail == "error":
            raise ValueError("no more of it")
        if self.config.fail == "reject":
            raise PermanentDeliveryError("never")
        with open(self.config.path, "a") as file:  # lva: ignore
            file.writelines(f"{point.fields['n']}\\n" for point in points)
"""
FORGETS = """
class Forgets(BaseBackgroundPlugin):
    async def initialize(self):
        await trio.lowlevel.checkpoint()
        self.links = []
    async def close(self):
        self.links.clear()
"""


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_modules_left: None) -> Path:
    """The current directory, with a directory for plugins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


def check(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["check", *arguments], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def sample(tmp_path: Path, count: int) -> str:
    """Write a file of numbered points, as the plugin `file` does."""
    lines = [
        json.dumps({"series": "numbers", "time": 1.0, "tags": {}, "fields": {"n": n}})
        for n in range(count)
    ]
    (tmp_path / "sample.jsonl").write_text("\n".join([*lines, ""]))
    return "sample.jsonl"


def configure(tmp_path: Path, **config: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items()]
    (tmp_path / "lva.toml").write_text("\n".join(["[plugins.sink.config]", *lines]))
    (tmp_path / "lva.toml").chmod(0o644)


@pytest.mark.slow("a plugin is run")
def test_run_says_that_a_right_plugin_keeps_the_contract(plugins: Path) -> None:
    write_plugin(plugins, "cam", "class Cam(BaseBackgroundPlugin): ...")
    result = check("plugins/cam.py", "--run", "--json")
    (report,) = json.loads(result.stdout)["plugins"]
    (note,) = report["notes"]
    passed, of = note.split(" steps")[0].split(" of ")
    assert int(passed) == int(of) > 5
    assert (result.exit_code, report["problems"]) == (0, [])


@pytest.mark.slow("what the kit waits for is in real time")
def test_run_names_the_guarantee_and_the_line(plugins: Path) -> None:
    path = write_plugin(plugins, "forgets", FORGETS)
    assert check("plugins/forgets.py").exit_code == 0
    result = check("plugins/forgets.py", "--run", "--json")
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)["plugins"]
    problem = report["problems"][0]
    assert (problem["code"], problem["level"], problem["file"]) == ("run", "error", str(path))
    assert problem["message"].startswith("G")
    assert "no attribute 'links'" in problem["message"]
    assert "self.links.clear()" in path.read_text().splitlines()[problem["line"] - 1]


def test_run_leaves_out_what_cannot_be_loaded(plugins: Path) -> None:
    write_plugin(plugins, "cam", "1 / 0")
    result = check("plugins/cam.py", "--run")
    assert result.exit_code == 1
    assert "cam: not run" in result.output


@pytest.mark.slow("what the kit waits for is in real time")
def test_run_finds_an_installed_plugin_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    install(tmp_path / "site")
    result = check("doorbell", "--run")
    assert result.exit_code == 0, result.output
    assert "steps passed" in result.output
    for name in [key for key in sys.modules if key.partition(".")[0] == "acme_lva"]:
        del sys.modules[name]


def test_points_arrive_where_the_configuration_says(plugins: Path, tmp_path: Path) -> None:
    write_plugin(plugins, "sink", SINK)
    write_plugin(plugins, "cam", "class Cam(BaseBackgroundPlugin): ...")
    configure(tmp_path, path=str(tmp_path / "out"))
    result = check("plugins/sink.py", "plugins/cam.py", "--points", sample(tmp_path, 2500))
    assert result.exit_code == 0, result.output
    assert "sink: 2500 of 2,500 points delivered" in result.output
    assert (tmp_path / "out").read_text().split() == [str(n) for n in range(2500)]


@pytest.mark.slow("what the kit waits for is in real time")
@pytest.mark.parametrize(
    ("fail", "code", "said"),
    [
        ("error", 1, "3 neither delivered nor rejected within 0.3 s; the last error was: "),
        ("reject", 0, "of 3 points 3 rejected and 0 neither delivered nor rejected"),
    ],
)
def test_points_that_are_not_delivered(
    fail: str, code: int, said: str, plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "POINTS_LIMIT", 0.3)
    write_plugin(plugins, "sink", SINK)
    configure(tmp_path, path="out", fail=fail)
    result = check("plugins/sink.py", "--points", sample(tmp_path, 3))
    assert result.exit_code == code, result.output
    assert said in result.output
    assert "0 of 3 points delivered" in result.output
    if fail == "error":
        assert "no more of it" in result.output


def test_a_sink_that_does_not_start_says_why(plugins: Path, tmp_path: Path) -> None:
    source = (
        "class Sink(BaseEventPlugin):\n    eventName = 'monitoring_event'\n"
        "    async def initialize(self):\n        raise OSError('nobody is there')\n"
        "    async def handleEvent(self, points, logger): ...\n"
    )
    write_plugin(plugins, "sink", source)
    result = check("plugins/sink.py", "--points", sample(tmp_path, 3))
    assert result.exit_code == 1
    assert "nobody is there" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no points"),
        ("\n[]\n", ":2: not a point: a point is a JSON object"),
        ("{}\n", ":1: not a point: 'series' is missing"),
        ("x\n", ":1: not a point: Expecting value"),
        ('{"series": "a", "time": "x"}', ":1: not a point: "),
        ('{"series": "a", "time": 1, "tags": []}', "tags and fields must be JSON objects"),
        ('{"series": "a", "time": 1, "tags": {"a": null}}', ":1: not a point: "),
        ("[" * 100_000, ":1: not a point: "),
        ("x\n" * 30, "sample: 20 more lines"),
    ],
    ids=["empty", "list", "no series", "no JSON", "time", "tags", "tag", "deep", "many"],
)
def test_a_file_without_points(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sample"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_points(path)
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_wrong_usage(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "sample").write_bytes(content)
    result = check("--points", "sample")
    assert result.exit_code == 2
    assert "sample: " in result.output


def test_a_line_of_points_ends_where_json_says(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    path.write_text('{"series": "a", "time": 1, "tags": {"t": "x\u2028y"}}\r\n', encoding="utf-8")
    assert read_points(path)[0].tags == {"t": "x\u2028y"}


def test_a_plugin_that_gets_no_points_says_so(plugins: Path, tmp_path: Path) -> None:
    write_plugin(plugins, "cam", "class Cam(BaseBackgroundPlugin): ...")
    result = check("plugins/cam.py", "--points", sample(tmp_path, 3))
    assert "cam: no event plugin, so it gets no points" in result.output


def test_events_of_streams_are_read_beside_points(tmp_path: Path) -> None:
    """Kind: what `file` writes can be sent again, whatever it is."""
    path = tmp_path / "points.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in documents(*ITEMS.values())))
    assert read_points(path) == [*ITEMS.values()]
    wrong = [{"event_name": "alarm"}, {"event_name": "stream_event"}]
    wrong += [{"event_name": "analytics_event", "image": 1}]
    path.write_text("\n".join(map(json.dumps, wrong)))
    with pytest.raises(ConfigurationError, match="available: analytics_event") as raised:
        read_points(path)
    assert len(raised.value.problems) == 3
