"""Checking several plugins together: where they are, their configuration, their routes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lva.check.plugins import CheckReport, check_plugins, toml_line
from lva.host.loading.load import SHIPPED_DIR
from lva.settings import Settings
from tests.support import write_plugin

ROUTE = """
class {name}(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("{path}", self.show)
    async def show(self, request): ...
"""
CONFIGURED = """
from pydantic import BaseModel
class Cam(BaseBackgroundPlugin):
    class Config(BaseModel):
        url: str
        port: int = 1
"""


pytestmark = pytest.mark.usefixtures("no_modules_left")


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A directory for plugins, which the settings of `check` name."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    return directory


def check(plugins: Path, *targets: str, **settings: Any) -> list[CheckReport]:
    options: dict[str, Any] = {"plugins_dir": (plugins,), "active_plugins": (), **settings}
    return check_plugins(targets, Settings(**options), options.pop("file", None))


def told(report: CheckReport) -> list[str]:
    return [f"{problem.level} {problem}" for problem in report.problems]


@pytest.mark.parametrize("blank", ["\x0c", "# \u2028", '"""a\x1cb"""', "# \x85"], ids=ascii)
def test_a_comment_counts_whatever_the_lines_before_it_hold(plugins: Path, blank: str) -> None:
    path = plugins / "cam.py"
    path.write_text(
        f"{blank}\nimport time\nfrom lva import BaseBackgroundPlugin\n"
        "class Cam(BaseBackgroundPlugin):\n"
        "    async def start(self):\n"
        "        time.sleep(1)  # lva: ignore[blocking]\n",
        encoding="utf-8",
    )
    path.chmod(0o600)
    assert told(check(plugins, str(path))[0]) == []


# Where plugins are


@pytest.mark.slow("every shipped plugin is parsed")
def test_all_that_ships_is_right() -> None:
    paths = [str(path) for path in sorted(SHIPPED_DIR.glob("*.py"))]
    reports = check_plugins(paths, Settings(active_plugins=()))
    assert len(reports) == len(paths) > 5
    for report in reports:
        assert report.ok, told(report)
        # What has to be configured says so; nothing else looks wrong.
        assert {problem.code for problem in report.problems} <= {"config"}


def test_a_name_and_a_path_are_the_same_plugin(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plugin(plugins, "cam", "class Cam(BaseBackgroundPlugin): ...")
    monkeypatch.chdir(plugins)
    for target in ("cam", str(path), "cam.py", "../plugins/cam.py"):
        (report,) = check(plugins, target)
        assert (report.name, report.ok, report.file) == ("cam", True, path), told(report)


def test_a_file_of_no_plugin_directory(plugins: Path, tmp_path: Path) -> None:
    path = write_plugin(tmp_path / "elsewhere", "cam", "class Cam(BaseBackgroundPlugin): ...")
    (report,) = check(plugins, str(path))
    assert report.loaded is not None
    assert report.loaded.path == path


def test_files_of_one_name_in_two_directories_are_two_plugins(
    plugins: Path, tmp_path: Path
) -> None:
    one = write_plugin(tmp_path / "one", "cam", "class One(BaseBackgroundPlugin): ...")
    two = write_plugin(tmp_path / "two", "cam", "class Two(BaseEventPlugin): ...")
    first, second = check(plugins, str(one), str(two))
    assert first.loaded is not None
    assert first.loaded.classes[0].__name__ == "One"
    assert [problem.code for problem in second.problems] == ["abstract"]


@pytest.mark.parametrize(
    ("imported", "called"),
    [
        ("from .io.disk import fetch as get", "get()"),
        ("from .io import disk", "disk.fetch()"),
        ("from .io import fetch_all", "fetch_all()"),
        ("from . import io", "io.fetch_all()"),
        ("from cam.io import disk", "disk.fetch()"),
    ],
)
def test_a_call_that_blocks_in_another_file_of_the_package_is_found(
    plugins: Path, imported: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = plugins / "cam"
    (package / "io").mkdir(parents=True)
    (package / "io" / "disk.py").write_text("from time import sleep as s\ndef fetch():\n    s(1)\n")
    (package / "io" / "__init__.py").write_text(
        "from . import disk\ndef fetch_all():\n    disk.fetch()\n"
    )
    (package / "__init__.py").write_text(
        f"from lva import BaseBackgroundPlugin\n{imported}\n"
        f"class Cam(BaseBackgroundPlugin):\n    async def start(self):\n        {called}\n"
    )
    monkeypatch.syspath_prepend(plugins)
    (report,) = check(plugins, str(package))
    (problem,) = report.problems
    assert (problem.code, problem.line) == ("blocking", 5)
    assert f"{called} calls time.sleep() in line 3 of disk.py, which blocks" in problem.text
    for name in [key for key in sys.modules if key.partition(".")[0] == "cam"]:
        del sys.modules[name]


def test_a_package_is_checked_as_a_whole(plugins: Path) -> None:
    package = plugins / "cam"
    write_plugin(package, "__init__", "from .impl import Cam", "")
    impl = write_plugin(
        package, "impl", "class Cam(BaseBackgroundPlugin):\n    def start(self): ..."
    )
    unused = write_plugin(package, "unused", "def f(:", "")
    for target in ("cam", str(package), str(package / "__init__.py")):
        (report,) = check(plugins, target)
        assert {(p.file, p.line, p.code) for p in report.problems} == {
            (impl, 6, "not-async"),
            (unused, 1, "syntax"),
        }


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("camm", "no such plugin"),
        ("histroy", "did you mean 'history'?"),
        ("__init__", "no such plugin"),
    ],
)
def test_a_name_of_nothing(target: str, said: str, plugins: Path) -> None:
    (report,) = check(plugins, target)
    (problem,) = report.problems
    assert (problem.code, report.file, report.ok) == ("name", None, False)
    assert said in problem.text


def test_a_name_that_is_taken(plugins: Path) -> None:
    path = write_plugin(plugins, "history", "class History(BaseBackgroundPlugin): ...")
    (report,) = check(plugins, str(path))
    assert "found twice" in report.problems[0].text


def test_a_file_that_others_may_write_is_not_run(plugins: Path, tmp_path: Path) -> None:
    path = write_plugin(plugins, "cam", f"open({str(tmp_path / 'ran')!r}, 'w')")
    path.chmod(0o666)
    (report,) = check(plugins, "cam")
    assert [problem.code for problem in report.problems] == ["trust"]
    assert not (tmp_path / "ran").exists()


def test_all_that_is_wrong_comes_at_once(plugins: Path) -> None:
    write_plugin(
        plugins,
        "cam",
        """
        class Cam(BaseEventPlugin):
            eventName = "monitoring"
            host_settings = {"batchsize": 1}
            Config = dict
            def initialize(self):
                self.addRoute("x", None)
            async def close(self):
                time.sleep(1)
        """,
    )
    (report,) = check(plugins, "cam")
    codes = {problem.code for problem in report.problems}
    assert codes >= {"abstract", "host-settings", "config-model", "not-async", "route", "blocking"}
    lines = [problem.line or 0 for problem in report.problems]
    assert lines == sorted(lines)


def test_what_the_source_shows_is_told_even_if_it_cannot_be_imported(plugins: Path) -> None:
    source = "import no_such_thing\nclass Cam(BaseBackgroundPlugin):\n    def start(self): ..."
    write_plugin(plugins, "cam", source)
    (report,) = check(plugins, "cam")
    assert [problem.code for problem in report.problems] == ["import", "not-async"]
    assert (report.kind, report.runtime) == ("background", "trio")


def test_a_file_that_nobody_would_write_ends_nothing(plugins: Path) -> None:
    chain = "x" + ".a" * 900
    source = f"class Cam(BaseBackgroundPlugin):\n    async def start(self):\n        {chain}()\n"
    write_plugin(plugins, "cam", source)
    write_plugin(
        plugins, "deep", f"x = {'(' * 150}1{')' * 150}\nclass Deep(BaseBackgroundPlugin): ..."
    )
    first, second = check(plugins, "cam", "deep")
    assert all(problem.level == "warning" for problem in first.problems)
    assert second.ok


def test_what_a_plugin_prints_goes_to_standard_error(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plugin(
        plugins, "cam", "import sys\nprint('hello', sys.argv)\nclass Cam(BaseBackgroundPlugin): ..."
    )
    check(plugins, "cam")
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("", "hello ['cam']\n")


def test_what_the_host_refuses_is_not_to_be_ignored(plugins: Path) -> None:
    write_plugin(
        plugins,
        "cam",
        "class Cam(BaseEventPlugin):  # lva: ignore\n    def start(self): ...  # lva: ignore",
    )
    (report,) = check(plugins, "cam")
    assert [problem.code for problem in report.problems] == ["abstract"]


def test_nothing_is_written_for_a_spool(plugins: Path, tmp_path: Path) -> None:
    write_plugin(
        plugins,
        "cam",
        """
        class Cam(BaseEventPlugin):
            eventName = "monitoring_event"
            host_settings = {"spool": "disk"}
            async def handleEvent(self, points, logger): ...
        """,
    )
    (report,) = check(plugins, "cam", state_dir=tmp_path / "state")
    assert report.ok
    assert not (tmp_path / "state").exists()


# Configuration


@pytest.mark.parametrize(
    ("toml", "said", "line"),
    [
        (
            "[plugins.cam.config]\nurl = 'x'\nprot = 1\n",
            "prot: unknown key; did you mean 'port'?",
            3,
        ),
        ("[plugins.cam.config]\nport = 1\n", "url: field required", 1),
        ("[plugins.cam]\nconfig = {url = 5}\n", "url: input should be a valid string", 2),
        ("[plugins]\ncam.config.url = 5\n", "url: input should be a valid string", 2),
        ("[plugins.cam]\n", "url: field required", None),
    ],
)
def test_a_wrong_key_is_shown_with_its_line(
    toml: str, said: str, line: int | None, plugins: Path, tmp_path: Path
) -> None:
    import tomllib

    file = tmp_path / "lva.toml"
    file.write_text(toml)
    write_plugin(plugins, "cam", CONFIGURED)
    settings = Settings(
        active_plugins=(), plugins_dir=(plugins,), plugins=tomllib.loads(toml)["plugins"]
    )
    (report,) = check_plugins(["cam"], settings, file)
    (problem,) = report.problems
    assert said in problem.text
    assert (problem.level, problem.code) == ("error", "config")
    assert (problem.file, problem.line) == ((file, line) if line else (None, None))


def test_a_configuration_that_is_not_written_yet_is_a_warning(plugins: Path) -> None:
    write_plugin(plugins, "cam", CONFIGURED)
    (report,) = check(plugins, "cam")
    assert report.ok
    said = (
        "warning plugins.cam.config.url: field required; set it there, or as"
        " LUNA_VIDEO_AGENT_PLUGINS__CAM__CONFIG__URL; the settings have no [plugins.cam.config] yet"
    )
    assert told(report) == [said]
    (report,) = check(plugins, "cam", active_plugins=("cam",))
    assert not report.ok


def test_the_line_of_a_key() -> None:
    text = 'bind = "x"\n\n[plugins.Cam]\ncritical = true\n[plugins."cam".config]\nurl = 1\n[other]\nurl = 2\n'
    assert toml_line(text, "plugins.cam.config", "url") == 6
    assert toml_line(text, "plugins.cam.config", "port") == 5
    assert toml_line(text, "plugins.dam.config", "url") is None


# Routes


def test_two_plugins_that_want_one_path(plugins: Path) -> None:
    write_plugin(plugins, "one", ROUTE.format(name="One", path="/cams/<int:camera>"))
    write_plugin(plugins, "two", ROUTE.format(name="Two", path="/cams/<int:number>"))
    first, second = check(plugins, "one", "two")
    routes = [problem for problem in second.problems if "belongs to plugin 'one'" in problem.text]
    assert len(routes) == 1
    assert routes[0].line == 8
    assert not any("belongs" in problem.text for problem in first.problems)


def test_the_path_of_an_active_plugin(plugins: Path) -> None:
    write_plugin(plugins, "mine", ROUTE.format(name="Mine", path="/history/points"))
    (report,) = check(plugins, "mine", active_plugins=("history",))
    assert any("belongs to plugin 'history'" in problem.text for problem in report.problems)
    (report,) = check(plugins, "mine")
    assert report.ok


def test_a_path_that_is_added_under_a_condition_may_be_taken(plugins: Path) -> None:
    write_plugin(plugins, "one", ROUTE.format(name="One", path="/cams"))
    source = ROUTE.format(name="Two", path="/cams").replace(
        "self.addRoute", "if self.config: self.addRoute"
    )
    write_plugin(plugins, "two", source)
    _, second = check(plugins, "one", "two")
    assert second.ok
    assert told(second)[0].startswith("warning")
