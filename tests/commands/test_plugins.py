"""`lva plugins`: what is listed, and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lva.cli import main
from lva.commands.options import print_table
from lva.host.loading.load import SHIPPED_DIR
from lva.settings import EMBEDDED_PLUGINS
from tests.host.loading.test_installed import install
from tests.support import write_plugin


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, clean_slate: None) -> Path:
    """The current directory, with a directory for plugins and no settings but the test's."""
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


def listing(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["plugins", *arguments], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def listed(*arguments: str) -> dict[str, dict[str, Any]]:
    result = listing("--json", "--plugins-dir", "plugins", *arguments)
    assert result.exit_code == 0, result.output
    return {item["name"]: item for item in json.loads(result.stdout)["plugins"]}


@pytest.mark.slow("all that ships is imported")
def test_everything_that_ships_is_listed_and_right() -> None:
    found = listed()
    assert {path.stem for path in SHIPPED_DIR.glob("*.py")} - {"__init__"} == set(found)
    assert list(found)[: len(EMBEDDED_PLUGINS)] == list(EMBEDDED_PLUGINS)
    for name, item in found.items():
        assert item["problems"] == []
        assert item["enabled"] is (name in EMBEDDED_PLUGINS)
        assert (item["origin"], item["summary"] != "") == ("shipped", True)
        style = "asyncio" if name in {"rabbitmq", "redis_stream"} else "trio"
        assert item["runtime"] == ("worker" if item["kind"] == "analytics" else style)
    analytics = {name for name, item in found.items() if item["kind"] == "analytics"}
    assert analytics == {"codes", "faces", "motion", "people", "picture_health"}


@pytest.mark.slow("every shipped plugin is loaded")
def test_a_plugin_is_described_and_only_run_if_it_is_enabled(plugins: Path, tmp_path: Path) -> None:
    source = f"from lva import *\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n"
    source += "class Cam(BaseBackgroundPlugin): ..."
    path = write_plugin(plugins, "cam", source, '"""Looks at things.\n\nMore."""\n')
    write_plugin(plugins, "helper", "def f(): ...")
    expected = {
        "name": "cam",
        "enabled": False,
        "kind": "background",
        "runtime": "trio",
        "file": str(path),
        "origin": "plugins_dir",
        "summary": "Looks at things.",
        "problems": [],
    }
    found = listed()
    assert found["cam"] == expected
    assert "helper" not in found
    assert not (tmp_path / "ran").exists()
    assert listed("--active", "cam")["cam"] == {**expected, "enabled": True}
    assert (tmp_path / "ran").exists()


@pytest.mark.slow("every plugin is loaded")
def test_problems_are_listed(plugins: Path) -> None:
    write_plugin(plugins, "raises", "1 / 0")
    write_plugin(plugins, "syntax", "def f(:")
    write_plugin(plugins, "open", "class Open(BaseBackgroundPlugin): ...").chmod(0o666)
    write_plugin(plugins, "file", "class File(BaseBackgroundPlugin): ...")
    found = listed("--active", "raises", "--active", "gone")
    for name, said in {
        "raises": "ZeroDivisionError",
        "gone": "no such plugin",
        "syntax": "invalid syntax",
        "open": "everybody may write it",
        "file": "found twice",
    }.items():
        assert len(found[name]["problems"]) == 1, found[name]
        assert said in found[name]["problems"][0]
    assert "/plugins/syntax.py:5: invalid syntax" in found["syntax"]["problems"][0]


@pytest.mark.slow("every plugin is loaded")
def test_the_table_and_what_is_wrong(plugins: Path, tmp_path: Path) -> None:
    write_plugin(plugins, "cam", "class Cam(BaseBackgroundPlugin):\n    runtime = 'asyncio'")
    write_plugin(plugins, "syntax", "def f(:")
    result = listing("--plugins-dir", "plugins", "--plugins-dir", "gone")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["name", "enabled", "kind", "runtime", "file", "summary"]
    (cam,) = [line for line in lines if line.startswith("cam ")]
    assert cam.split() == ["cam", "background", "asyncio", "plugins/cam.py"]
    (history,) = [line for line in lines if line.startswith("history ")]
    assert history.split()[:4] == ["history", "yes", "event+background", "trio"]
    wrong = next(line for line in lines if line.startswith("settings: "))
    assert wrong == f"settings: plugins_dir: {tmp_path}/gone: there is no such directory"
    assert lines[-1].startswith("syntax: ")
    assert lines[-1].endswith("plugins/syntax.py:5: invalid syntax")


@pytest.mark.slow("all that ships is looked at")
def test_installed_plugins_are_listed(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    package = install(
        site, "doorbell = acme_lva.doorbell\nbad-name = acme_lva\nlost = acme_lva.lost"
    )
    document = json.loads(listing("--json", "--plugins-dir", "gone").stdout)
    assert "gone" in document["settings"][0]
    found = {item["name"]: item for item in document["plugins"]}
    assert found["doorbell"]["file"] == str(package / "doorbell.py")
    assert found["doorbell"]["origin"] == "acme-lva 1.2"
    assert (found["doorbell"]["summary"], found["doorbell"]["problems"]) == ("Rings.", [])
    assert "is no plugin name" in found["bad-name"]["problems"][0]
    assert "names the module 'acme_lva.lost', which does not exist" in found["lost"]["problems"][0]
    assert "acme_lva.doorbell" not in sys.modules


def test_wrong_settings() -> None:
    result = listing("--config", "no.toml")
    assert result.exit_code == 2
    assert "no.toml: there is no such settings file" in result.output


def test_in_a_narrow_terminal_no_word_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(
        ("name", "summary"),
        [("a_rather_long_name", "Says what it is for in many words, too many.")],
    )
    assert capsys.readouterr().out.splitlines() == [
        "name",
        "    summary",
        "a_rather_long_name",
        "    Says what it is for in many words, …",
    ]
