"""`lva new`: every combination is right at once, and nothing is overwritten."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lva.check.plugins import check_plugins
from lva.cli import main
from lva.settings import Settings
from tests.support import clean_environment

KINDS = ((), ("--event",), ("--background",), ("--event", "--background"))
OF_STREAMS = [
    ("--event-type=analytics_event",),
    ("--kind=event+background", "--event-type=stream_event", "--asyncio"),
]
ANALYTICS = ("--kind", "analytics")
COMBINATIONS = [
    (*kind, *style, *package)
    for kind, style, package in itertools.product(KINDS, ((), ("--asyncio",)), ((), ("--package",)))
]
COMBINATIONS += [ANALYTICS, (*ANALYTICS, "--package"), *OF_STREAMS]
COMBINATIONS += [("--kind=event",), ("--kind=background",)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, clean_slate: None) -> Iterator[Path]:
    """An empty current directory, with a umask that lets a group write."""
    umask = os.umask(0o002)
    yield tmp_path
    os.umask(umask)


def new(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["new", *arguments], catch_exceptions=False)


@pytest.mark.slow("a plugin is loaded twice")
@pytest.mark.parametrize("options", COMBINATIONS, ids=" ".join)
def test_what_is_written_is_right(options: tuple[str, ...], here: Path) -> None:
    result = new("door_bell", *options)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    check, enable = (
        next(line for line in lines if line.startswith(f"{what} it:"))
        for what in ("check", "enable")
    )
    checked = CliRunner().invoke(main, check.split()[3:], catch_exceptions=False)
    assert checked.exit_code == 0, checked.output
    needed = " --active streams" if options[:2] == ANALYTICS else ""
    own = f"--active history --active resource_monitor{needed} --active door_bell"
    assert enable.endswith(own)
    root = here / "door_bell" if "--package" in options else here
    plugin = root / "door_bell" if "--package" in options else root / "plugins" / "door_bell.py"
    (report,) = check_plugins([str(plugin)], Settings(active_plugins=()))
    assert report.problems == []
    assert report.loaded is not None
    assert report.loaded.name == "door_bell"
    if options[:2] == ANALYTICS:
        assert report.loaded.analytics is not None
        assert report.loaded.analytics.cls.__name__ == "DoorBell"
    else:
        assert [cls.__name__ for cls in report.loaded.classes] == ["DoorBell"]
    assert report.loaded.runtime == ("asyncio" if "--asyncio" in options else "trio")
    words = {word for option in options for word in re.split(r"\W+", option.partition("type=")[0])}
    kinds = words & {"event", "background", "analytics"}
    kinds = kinds or {"background"}
    assert set(report.loaded.kind.split("+")) == kinds
    test = root / "tests" / "test_door_bell.py"
    compile(test.read_text(), test, "exec")
    assert all(not path.stat().st_mode & 0o022 for path in here.rglob("*"))


def test_the_package_has_its_entry_point(here: Path) -> None:
    new("bell", "--package")
    project = tomllib.loads((here / "bell" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lva.plugins"] == {"bell": "bell"}
    assert project["name"] == "lva-bell"


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["--directory", "a/b", "--tests", "c"], {"a/b/bell.py", "c/test_bell.py"}),
        (
            ["--package", "--directory", "a"],
            {
                "a/bell/bell/__init__.py",
                "a/bell/tests/test_bell.py",
                "a/bell/README.md",
                "a/bell/pyproject.toml",
            },
        ),
    ],
    ids=["file", "package"],
)
def test_where_it_is_put(arguments: list[str], files: set[str], here: Path) -> None:
    assert new("bell", *arguments).exit_code == 0
    assert {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()} == files
    (test,) = here.rglob("test_bell.py")
    line = next(line for line in test.read_text().splitlines() if line.startswith("PLUGIN"))
    namespace = {"Path": Path, "__file__": str(test)}
    exec(line, namespace)
    assert (here / "a").resolve() in Path(str(namespace["PLUGIN"])).parents
    assert Path(str(namespace["PLUGIN"])).exists()


def test_an_event_type_is_for_event_plugins(here: Path) -> None:
    result = new("bell", "--background", "--kind=background", "--event-type=stream_event")
    assert result.exit_code == 2
    result = new("bell", "--kind=background", "--event-type=stream_event")
    assert "is for event plugins" in result.output
    assert "'stream_event', 'analytics_event'" in new("bell", "--event-type=alarm").output


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("door-bell", "is no plugin name"),
        ("../bell", "is no plugin name"),
        ("1bell", "is no plugin name"),
        ("class", "not a Python keyword"),
        ("__init__", "is no plugin name"),
        ("history", "is taken by"),
        ("readyz", "belongs to the service"),
    ],
)
def test_a_name_that_cannot_be_used(name: str, said: str, here: Path) -> None:
    result = new(name)
    assert result.exit_code == 2
    assert said in result.output
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kind", "analytics", "--asyncio"), "leave --asyncio out"),
        (("--kind", "event", "--background"), "not both"),
        (("--kind", "camera"), "'analytics'"),
    ],
)
def test_kinds_that_do_not_go_together(options: tuple[str, ...], said: str, here: Path) -> None:
    result = new("bell", *options)
    assert (result.exit_code, list(here.iterdir())) == (2, [])
    assert said in result.output


@pytest.mark.parametrize("name", ["lva", "queue", "trio"])
def test_a_name_that_a_package_cannot_have(name: str, here: Path) -> None:
    result = new(name, "--package")
    assert (result.exit_code, list(here.iterdir())) == (2, [])
    assert "choose another for a package" in result.output


@pytest.mark.parametrize(
    "there", ["plugins/bell.py", "tests/test_bell.py", "plugins/bell/__init__.py"]
)
def test_nothing_is_overwritten(there: str, here: Path) -> None:
    path = here / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    result = new("bell")
    assert result.exit_code == 2
    assert "exists already" in result.output or "is taken by" in result.output
    assert [item for item in here.rglob("*") if item.is_file()] == [path]
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["any", "config", "x", "_", "Path", "HTTPSink", "_2"])
def test_class_names_of_odd_plugin_names(name: str, here: Path) -> None:
    assert new(name, "--event", "--background").exit_code == 0
    (report,) = check_plugins([f"plugins/{name}.py"], Settings(active_plugins=()))
    assert report.problems == []
    assert report.loaded is not None


@pytest.mark.soak
def test_the_tests_that_are_written_pass_at_once(here: Path) -> None:
    """All combinations in one run of pytest, as their author would start it.

    The longest test of a package is left out: its plugin is the same as that of a single file.
    """
    for options in COMBINATIONS:
        name = re.sub(r"\W+", "_", "_".join(["made", *options]))
        assert new(name, *options).exit_code == 0
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
    ]
    command += ["-k", "not (package and accounts)", "."]
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sources = {path: path.read_text() for path in here.rglob("test_*.py")}
    assert len(sources) == len(COMBINATIONS)
    functions = sum(
        text.count("\ndef test_") + text.count("\nasync def ") for text in sources.values()
    )
    left_out = sum("accounts" in text for path, text in sources.items() if "package" in path.name)
    assert f"{functions - left_out} passed, {left_out} deselected" in done.stdout
