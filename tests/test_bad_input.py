"""Broken settings and plugin files: each is one message that says what, where, and what to do."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lva.cli import main
from lva.errors import ConfigurationError
from lva.host.loading.load import LoadedPlugin, PluginFinder, load_plugins
from lva.logs import loggers as logs
from lva.logs import masking
from lva.settings import ENV_PREFIX, Settings, load_settings
from tests.support import ServiceProcess, free_port, write_plugin

pytestmark = pytest.mark.usefixtures("clean_slate")

EVERY_EVENT = "available: analytics_event, monitoring_event, stream_event"
SECRET = "hunter2hunter2"  # must be in no message

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")


def explain(problems: Sequence[str], said: Sequence[str]) -> str:
    """Return the one message that holds every text of `said`; fail if there is none, or a secret."""
    for problem in problems:
        assert SECRET not in problem
    matching = [problem for problem in problems if all(text in problem for text in said)]
    assert matching, f"no message says all of {said}:\n" + "\n".join(problems)
    return matching[0]


# Settings


@dataclass
class Wrong:
    """Settings from the three sources, and what the message about them says.

    Variables are given without their prefix.
    """

    said: Sequence[str]
    toml: str | bytes | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1


def env(name: str, value: str, *said: str) -> Any:
    """Return a case of one variable; the message names it."""
    variable = f"{ENV_PREFIX}{name}"
    return pytest.param(Wrong([variable, *said], env={name: value}), id=f"env {name}={value[:40]}")


def toml(text: str | bytes, *said: str) -> Any:
    """Return a case of one settings file; the message names the file."""
    shown = text if isinstance(text, str) else text.decode("latin-1")
    return pytest.param(Wrong(["lva.toml", *said], toml=text), id=f"toml {shown[:60]}")


def option(name: str, value: Any, *said: str) -> Any:
    """Return a case of one option of the command line."""
    return pytest.param(
        Wrong([f"command line: {name}", *said], options={name: value}), id=f"option {name}={value}"
    )


WRONG_SETTINGS = [
    # unknown keys and variables
    env("BINDD", "h:1", "unknown setting", "did you mean 'LUNA_VIDEO_AGENT_BIND'?"),
    env("SHUTDOWN_TIMOUT", "5", "did you mean 'LUNA_VIDEO_AGENT_SHUTDOWN_TIMEOUT'?"),
    env("PORT", "5240", "unknown setting", "did you mean 'LUNA_VIDEO_AGENT_BIND'?"),
    toml("port = 5240", "port: unknown key", "did you mean 'bind'?"),
    env("PLUGINS_A", "x", "unknown setting", "LUNA_VIDEO_AGENT_PLUGINS"),
    env("PLUGINS__CAM__MAX_RESTART", "3", "unknown key", "did you mean 'max_restarts'?"),
    env("PLUGINS__CAM__PASSWORD", SECRET, "unknown key", "available: backoff_initial"),
    toml("bindd = 'h:1'", "bindd", "unknown key", "did you mean 'bind'?"),
    toml("[plugin.cam]\ncritical = true", "plugin:", "unknown key", "did you mean 'plugins'?"),
    toml("[plugins.cam]\nmax_restart = 1", "plugins.cam.max_restart", "did you mean 'max_restarts'?"),
    toml("[plugins.cam]\nurl = 'x'", "plugins.cam.url", "unknown key"),
    toml(f"zzz = '{SECRET}'", "zzz", "unknown key", "available: active_plugins, admin_token, bind"),
    option("bindd", "h:1", "unknown key", "did you mean 'bind'?"),
    # wrong types
    env("SHUTDOWN_TIMEOUT", "soon", "valid number", "'soon'"),
    env("SHUTDOWN_TIMEOUT", "", "valid number"),
    env("MAX_REQUESTS", "many", "valid integer", "'many'"),
    env("MAX_REQUESTS", "1.5", "valid integer", "'1.5'"),
    env("MAX_BODY_SIZE", "16M", "valid integer", "'16M'"),
    env("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'", "'LOUD'"),
    env("LOG_FORMAT", "xml", "'text' or 'json'", "'xml'"),
    env("PLUGIN_FILE_CHECK", "off", "'strict' or 'warn'", "'off'"),
    env("PLUGINS__CAM__MAX_RESTARTS", "few", "valid integer", "'few'"),
    env("PLUGINS__CAM__CRITICAL", "perhaps", "valid boolean", "'perhaps'"),
    env("PLUGINS__CAM__RESTART", "sometimes", "'on-failure', 'always' or 'never'"),
    env("PLUGINS__CAM", "x", "valid dictionary"),
    env("PLUGINS", "[1]", "valid dictionary"),
    toml("bind = 5240", "bind", "valid string", "5240"),
    toml("active_plugins = 5", "active_plugins", "5"),
    toml("active_plugins = ['a', 1]", "active_plugins", "valid string", "got 1"),
    toml("plugins_dir = ['a', 3]", "plugins_dir", "valid path", "got 3"),
    toml("plugins = 1", "plugins", "valid dictionary"),
    toml("[plugins]\ncam = 1", "plugins.cam", "valid dictionary"),
    toml("[plugins.cam]\nconfig = 3", "plugins.cam.config", "valid dictionary"),
    toml("[plugins.cam]\noverflow = 'drop'", "plugins.cam.overflow", "'drop_oldest' or 'drop_newest'"),
    toml("[plugins.cam]\nstartup_error_behavior = 'no'", "'retry' or 'error'"),
    toml("[plugins.cam]\nbatch_size = '0x10'", "plugins.cam.batch_size", "valid integer"),
    option("active_plugins", (1,), "valid string"),
    option("log_level", "loud", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
    # out of range
    env("SHUTDOWN_TIMEOUT", "0.5", "greater than or equal to 1"),
    env("BODY_TIMEOUT", "0", "greater than 0"),
    env("BODY_TIMEOUT", "-inf", "finite"),
    env("KEEP_ALIVE_TIMEOUT", "999999", "less than or equal to 86400"),
    env("SLOW_START", "0", "greater than 0"),
    env("DRAIN_WINDOW", "-1", "greater than or equal to 0"),
    env("MAX_REQUESTS", "0", "greater than or equal to 1"),
    env("MAX_BODY_SIZE", "-1", "greater than or equal to 0"),
    toml("shutdown_timeout = nan", "shutdown_timeout", "finite"),
    toml("shutdown_timeout = inf", "shutdown_timeout", "finite"),
    toml("drain_window = -inf", "drain_window", "finite"),
    toml("max_requests = 99999999999999999999999", "max_requests", "less than or equal to 100000000"),
    toml("[plugins.cam]\nhandle_timeout = nan", "plugins.cam.handle_timeout", "finite"),
    toml("[plugins.cam]\nhandle_timeout = 0", "plugins.cam.handle_timeout", "greater than 0"),
    toml("[plugins.cam]\nbatch_size = 0", "plugins.cam.batch_size", "greater than or equal to 1"),
    toml("[plugins.cam]\nbuffer_limit = 0", "plugins.cam.buffer_limit", "greater than or equal to 1"),
    toml("[plugins.cam]\nmax_attempts = 0", "plugins.cam.max_attempts", "greater than or equal to 1"),
    toml("[plugins.cam]\nmax_restarts = -1", "plugins.cam.max_restarts", "greater than or equal to 0"),
    toml("[plugins.cam]\nflush_interval = -1", "plugins.cam.flush_interval", "greater than or equal to 0"),
    toml("[plugins.cam]\nbackoff_max = inf", "plugins.cam.backoff_max", "finite"),
    # drain_window is part of shutdown_timeout
    pytest.param(
        Wrong(
            ["drain_window (25 s)", "0.5 s shorter than", "shutdown_timeout (25 s)"],
            env={"DRAIN_WINDOW": "25"},
        ),
        id="drain_window = shutdown_timeout",
    ),
    pytest.param(
        Wrong(
            ["drain_window (9.6 s)", "shutdown_timeout (10 s)"],
            toml="drain_window = 30",
            env={"DRAIN_WINDOW": "9.6", "SHUTDOWN_TIMEOUT": "10"},
        ),
        id="drain_window leaves too little",
    ),
    # lists
    env("ACTIVE_PLUGINS", '["a"', "no JSON list", "column 5", "'[\"a\"'"),
    env("ACTIVE_PLUGINS", '["a",]', "no JSON list"),
    env("ACTIVE_PLUGINS", '["a"] "b"', "no JSON list", "Extra data"),
    env("ACTIVE_PLUGINS", "[1]", "valid string", "got 1"),
    env("ACTIVE_PLUGINS", '[["a"]]', "valid string", "['a']"),
    env("PLUGINS_DIR", '["a"', "no JSON list"),
    toml("active_plugins = '[\"a\"'", "active_plugins", "no JSON list"),
    # tables that are no JSON
    env("PLUGINS", "{", "Expecting"),
    env("PLUGINS__CAM__CONFIG", "x", "Expecting value"),
    # addresses
    *(
        env("BIND", value, "expected host:port, as in 127.0.0.1:5240", repr(value))
        for value in ("5240", "localhost", "localhost:", "h:99999", ":5240", "h:-1", "h:٣", "", "[::1]", "http://h:1",
                      "[h]:1", "[]:1", "h/x:1", "a:b:1")
    ),
    env("BIND", "::1:5240", "an IPv6 address stands in brackets, as in [::1]:5240"),
    env("BIND", "unix:", "unix:/path/to/socket"),
    toml("bind = 'x'", "bind", "expected host:port"),
    option("bind", "x", "expected host:port"),
    # TOML
    toml("log_level = 'INFO'\nbind = \n", "not valid TOML", "line 2, column 8"),
    toml("bind = 'h:1'\nbind = 'h:2'", "not valid TOML", "overwrite"),
    toml("\0", "not valid TOML", "line 1, column 1"),
    toml(b"bind = '\xff'", "not valid TOML", "utf-8", "0xff"),
    # home directories of nobody
    env("STATE_DIR", "~no-such-user/x", "~no-such-user"),
    toml("plugins_dir = ['~no-such-user/x']", "plugins_dir", "~no-such-user"),
    toml('state_dir = "a\\u0000b"', "state_dir", "NUL"),
    # TOML's true is no 1
    toml("max_requests = true", "max_requests", "should be a number, not true or false"),
    toml("shutdown_timeout = true", "shutdown_timeout", "should be a number"),
    toml("max_body_size = false", "max_body_size", "should be a number"),
    toml("[plugins.cam]\nmax_restarts = true", "plugins.cam.max_restarts", "should be a number"),
    toml("[plugins.cam]\nflush_interval = false", "plugins.cam.flush_interval", "should be a number"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_wrong_setting(wrong: Wrong, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if wrong.toml is not None:
        content = wrong.toml if isinstance(wrong.toml, bytes) else wrong.toml.encode()
        (tmp_path / "lva.toml").write_bytes(content)
        (tmp_path / "lva.toml").chmod(0o644)
    for name, value in wrong.env.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(wrong.options)
    explain(caught.value.problems, wrong.said)
    assert len(caught.value.problems) == wrong.count


def problems_of(options: Mapping[str, Any] | None = None, config: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(options, config)
    return caught.value.problems


def test_every_problem_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lva.toml").write_text(
        "log_level = 'loud'\nbindd = 3\n[plugins.cam]\nbatch_size = 0\n"
    )
    monkeypatch.setenv(f"{ENV_PREFIX}MAX_REQUESTS", "x")
    monkeypatch.setenv(f"{ENV_PREFIX}MAXREQUESTS", "x")
    problems = problems_of({"bind": "x"})
    for said in (
        [
            "environment: LUNA_VIDEO_AGENT_MAXREQUESTS",
            "did you mean 'LUNA_VIDEO_AGENT_MAX_REQUESTS'?",
        ],
        ["environment: LUNA_VIDEO_AGENT_MAX_REQUESTS", "valid integer"],
        ["command line: bind"],
        ["lva.toml: log_level"],
        ["lva.toml: bindd", "did you mean 'bind'?"],
        ["lva.toml: plugins.cam.batch_size"],
    ):
        explain(problems, said)
    assert len(problems) == 6


def test_a_table_that_is_no_json_hides_no_other_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS", "{")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__BATCH_SIZE", "0")
    monkeypatch.setenv(f"{ENV_PREFIX}LOGLEVEL", "INFO")
    problems = problems_of()
    explain(problems, ["LUNA_VIDEO_AGENT_PLUGINS: "])
    explain(problems, ["LUNA_VIDEO_AGENT_PLUGINS__CAM__BATCH_SIZE", "greater than or equal to 1"])
    explain(problems, ["LUNA_VIDEO_AGENT_LOGLEVEL", "LUNA_VIDEO_AGENT_LOG_LEVEL"])


def test_no_variable_is_named_that_nobody_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}ACTIVE_PLUGINS", "[1]")
    assert "ACTIVE_PLUGINS__0" not in explain(problems_of(), ["LUNA_VIDEO_AGENT_ACTIVE_PLUGINS"])
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS", '{"cam": {"batch_size": 0}}')
    explain(problems_of(), ["environment: LUNA_VIDEO_AGENT_PLUGINS: cam.batch_size: "])


@pytest.mark.parametrize(
    ("variable", "value", "text", "key"),
    [
        ("PLUGINS", "{}", "plugins_dir = 5", "plugins_dir"),
        (
            "PLUGINS__CAM",
            "{}",
            "[plugins.camera]\nmax_restarts = -1",
            "plugins.camera.max_restarts",
        ),
        ("PLUGINS", '{"a": {}}', "[plugins.b]\nmax_restarts = -1", "plugins.b.max_restarts"),
    ],
)
def test_the_file_is_blamed_for_what_is_in_it(
    variable: str, value: str, text: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lva.toml").write_text(text)
    monkeypatch.setenv(f"{ENV_PREFIX}{variable}", value)
    assert explain(problems_of(), [key]).startswith("lva.toml: ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PLUGINS__CAM", f'{{"config": {{"password": "{SECRET}"}}'),  # its last bracket is missing
        ("PLUGINS__CAM__CONFIG", f'["{SECRET}"]'),
        ("PLUGINS__CAM__CONFIG", f'{{"password": "{SECRET}", }}'),
        ("PLUGINS", f'["{SECRET}"]'),
        ("PLUGINS__CAM__CONFIG", f'"{SECRET}"'),
    ],
)
def test_plugin_tables_are_not_shown_from_the_environment(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{variable}", value)
    explain(problems_of(), ["LUNA_VIDEO_AGENT_PLUGINS"])


@pytest.mark.parametrize(
    "text",
    [
        f"[plugins.cam]\nconfig = '{SECRET}'",
        f"[plugins]\ncam = ['{SECRET}']",
        f"[[plugins.cam]]\nconfig = {{password = '{SECRET}'}}",
        f"plugins = ['{SECRET}']",
    ],
)
def test_plugin_tables_are_not_shown_from_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "lva.toml").write_text(text)
    explain(problems_of(), ["lva.toml: plugins"])


# The settings file itself


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    monkeypatch.setenv(f"{ENV_PREFIX}CONFIG", str(missing))
    assert problems_of() == [f"{missing}: there is no such settings file"]
    monkeypatch.delenv(f"{ENV_PREFIX}CONFIG")
    assert problems_of(config=missing) == [f"{missing}: there is no such settings file"]


def test_a_directory_is_no_settings_file(tmp_path: Path) -> None:
    assert problems_of(config=tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_loop_of_links_is_no_settings_file(tmp_path: Path) -> None:
    (tmp_path / "lva.toml").symlink_to("lva.toml")
    explain(problems_of(), ["lva.toml: cannot be read", "symbolic links"])


@not_as_root
def test_an_unreadable_settings_file(tmp_path: Path) -> None:
    (tmp_path / "lva.toml").touch(0o000)
    explain(problems_of(), ["lva.toml: cannot be read: Permission denied"])


@pytest.mark.parametrize(
    ("mode", "said"), [(0o666, "everybody may write it"), (0o646, "chmod go-w")]
)
def test_a_settings_file_that_others_may_write(mode: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "lva.toml").touch()
    (tmp_path / "lva.toml").chmod(mode)
    explain(problems_of(), ["lva.toml: ", said, f"(mode 0{mode:o})"])


@pytest.mark.parametrize(
    "token", ["hunter2", "", "hunter2hunter2\u00e9hunter2", "hunter2 hunter2 hunter2"]
)
def test_a_token_that_will_not_do_is_refused_and_not_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNA_VIDEO_AGENT_ADMIN_TOKEN", token)
    problems = problems_of()
    explain(problems, ["LUNA_VIDEO_AGENT_ADMIN_TOKEN", "at least 16 characters", "python3 -c"])
    assert "hunter2" not in str(problems)


def test_a_token_that_everybody_may_read(tmp_path: Path) -> None:
    (tmp_path / "lva.toml").write_text('admin_token = "hunter2hunter2hunter2"')
    (tmp_path / "lva.toml").chmod(0o644)
    problems = problems_of()
    explain(problems, ["lva.toml: ", "everybody may read the admin_token", "chmod o-r lva.toml"])
    assert "hunter2" not in str(problems)


@as_root
def test_a_settings_file_that_a_group_may_write(tmp_path: Path) -> None:
    (tmp_path / "lva.toml").touch()
    (tmp_path / "lva.toml").chmod(0o664)
    os.chown(tmp_path / "lva.toml", -1, 4321)
    explain(problems_of(), ["lva.toml: ", "its group may write it", "chmod g-w lva.toml"])


@as_root
def test_a_settings_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "lva.toml").touch(0o644)
    os.chown(tmp_path / "lva.toml", 4321, -1)
    explain(problems_of(), ["lva.toml: ", "belongs to user 4321", "chown"])


# Plugin files

EVENT = """\
from lva import *
from pydantic import BaseModel, Field, SecretStr, field_validator

class Cam(BaseEventPlugin):
    eventName = "monitoring_event"
    async def handleEvent(self, points, logger): ...
"""
NOT_A_NAME = "not a plugin name; give the file's name without its directory"


def place(directory: Path, name: str, source: str | bytes = EVENT, mode: int = 0o644) -> Path:
    """Write a file below the directory."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A directory for plugins."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    return directory


def load(directories: Path | Sequence[Path], *active: str, **settings: Any) -> list[LoadedPlugin]:
    several = (directories,) if isinstance(directories, Path) else tuple(directories)
    return load_plugins(Settings(active_plugins=active, plugins_dir=several, **settings))


def refused(directories: Path | Sequence[Path], *active: str, **settings: Any) -> list[str]:
    """Return the problems that loading runs into."""
    with pytest.raises(ConfigurationError) as caught:
        load(directories, *active, **settings)
    return caught.value.problems


@pytest.mark.parametrize(
    "name",
    [
        "../x", "..", ".", "a-b", "a.b", "a/b", "cam/", "", "1x", "cam\0", "/etc/passwd", "kämera",
        "\N{FULLWIDTH LATIN SMALL LETTER C}am", "cam.py.py", ".py", "cam ", "cam\n", "cam.PY", "cam;ls", "*",
    ],
)  # fmt: skip
def test_not_a_name(name: str, plugins: Path) -> None:
    place(plugins, "cam.py")
    problems = refused(plugins, name)
    assert len(problems) == 1
    shown = name.removesuffix(".py") if name != ".py" else name
    explain(problems, [f"plugin {shown!r}: ", NOT_A_NAME])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("camm", "did you mean 'cam'?"),
        ("Cam", "did you mean 'cam'?"),
        ("histroy", "did you mean 'history'?"),
        ("background_plugin_exmaple.py", "did you mean 'background_plugin_example'?"),
        ("os", "available: background_plugin_example, "),
        ("__init__", "available:"),
        ("class", "available:"),
    ],
)
def test_no_such_plugin(name: str, said: str, plugins: Path) -> None:
    place(plugins, "cam.py")
    problem = explain(refused(plugins, name), ["no such plugin", str(plugins), said])
    assert problem.startswith(f"plugin {name.removesuffix('.py')!r}: ")


def broken(source: str | bytes, *said: str, id: str) -> Any:  # noqa: A002
    """Return a case of one plugin file; the message names the file."""
    text = source if isinstance(source, bytes) else textwrap.dedent(source)
    return pytest.param(text, said, id=id)


def within(body: str) -> str:
    """Return a good plugin file with more in its class."""
    return EVENT + textwrap.indent(textwrap.dedent(body), "    ")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        # not Python
        broken(b"x = 1\ny = '\xff'\n", "utf-8", "0xff", id="not UTF-8"),
        broken("x = 1\n\0\n", "null bytes", id="NUL bytes"),
        broken("# coding: klingon\n", "unknown encoding: klingon", id="unknown encoding"),
        broken("x = 1\ndef f(:\n", ":2: invalid syntax", "\n    def f(:", id="syntax"),
        broken("x = " + "(" * 300 + ")" * 300, ":1: too many nested parentheses", id="deep"),
        # importing fails
        broken("x = 1\nimport no_such_package\n", ":2: ", "ModuleNotFoundError",
               "install the package that provides 'no_such_package'", "\n    import no_such", id="package"),
        broken("from no_such.sub import x\n", ":1: ", "package that provides 'no_such'", id="subpackage"),
        broken("from luna_video_agent.helpers import x\n", ":1: ", "from . import NAME", id="original"),
        broken("from crutches_on_wheels.cow.monitoring.points import x\n", "from . import NAME", id="alias"),
        broken("from luna_plugins.base.plugins_meta.base_plugins import BaseMatcherPlugin\n", ":1: ",
               "available there: BaseBackgroundHandler, ", id="class of the original"),
        broken("from os import no_such\n", ":1: ", "ImportError: cannot import name 'no_such'", id="name"),
        broken("x = 1\n1 / 0\n", ":2: ", "ZeroDivisionError: division by zero", "\n    1 / 0",
               id="exception"),
        broken("def f():\n    raise ValueError('why')\n\nf()\n", ":2: ", "ValueError: why", id="in a call"),
        broken("import json\njson.loads('{')\n", "cam.py:2: ", "JSONDecodeError", id="in a library"),
        broken("import sys\nsys.exit(3)\n", ":2: ", "SystemExit: 3", id="SystemExit"),
        broken("raise BaseException('base')\n", ":1: ", "BaseException: base", id="BaseException"),
        broken("def f(): f()\nf()\n", ":1: ", "RecursionError", id="recursion"),
        broken("class E(Exception):\n    def __str__(self): raise ValueError\nraise E\n",
               ":3: ", "with E: ", id="no str"),
        broken("from .helper import x\n", ":1: ", "lva_plugins.helper", id="relative import"),
        broken("from . import helper\n", ":1: ", "helper", id="relative module"),
        broken("from .. import helper\n", ":1: ", "beyond top-level package", id="beyond the top"),
        broken("from .history import no_such\n", ":1: ", "cannot import name 'no_such'", id="relative name"),
        broken("from .broken import x\n", "broken.py:1: ", "ZeroDivisionError", id="in another file"),
        broken("from .nosyntax import x\n", "nosyntax.py:1: ", "invalid syntax", id="syntax of another file"),
        # no class
        broken("", "no plugin class", "define a class derived from BaseEventPlugin", id="empty"),
        broken("from lva import *\n", "no plugin class", id="only the base classes"),
        broken("from .history import History\n", "no plugin class", "in this very file", id="only imported"),
        broken("class Cam: ...\n", "no plugin class", id="another class"),
        broken("""
               from lva import BaseEventPlugin
               class Cam(BaseEventPlugin):
                   eventName = "monitoring_event"
               """, "class Cam does not define handleEvent", id="abstract"),
        broken("""
               from lva import BaseRequestMonitoringPlugin
               class Cam(BaseRequestMonitoringPlugin): ...
               """, "class Cam does not define flushPointToMonitoring", id="abstract monitoring"),
        # eventName
        *(
            broken(EVENT.replace('"monitoring_event"', value), "class Cam", *said, id=f"eventName = {value}")
            for value, *said in (
                ("'monitoring_evnt'", "unknown eventName 'monitoring_evnt'",
                 "did you mean 'monitoring_event'?"),
                ("'sending_event'", "unknown eventName 'sending_event'", EVERY_EVENT),
                ("'zzz'", "unknown eventName 'zzz'", EVERY_EVENT),
                ("5", "unknown eventName 5", EVERY_EVENT),
                ("['monitoring_event']", "unknown eventName ['monitoring_event']", "available:"),
                ("None", "sets no eventName", EVERY_EVENT),
            )
        ),
        broken(EVENT.replace("eventName", "eventname"), "class Cam sets no eventName",
               EVERY_EVENT, id="no eventName"),
        # what the class says about itself
        broken(within("host_settings = {'batchsize': 1}"), "host_settings: batchsize: unknown key",
               "did you mean 'batch_size'?", id="host key"),
        broken(within("host_settings = {'batch_size': 0}"), "host_settings: batch_size",
               "greater than or equal to 1", id="host value"),
        broken(within("host_settings = {5: 1}"), "host_settings", "5", id="host key no text"),
        broken(within("host_settings = 5"), "host_settings", id="host_settings a number"),
        broken(within("host_settings = ['batch_size']"), "host_settings", id="host_settings a list"),
    ],
)  # fmt: skip
def test_broken_file(source: str | bytes, said: Sequence[str], plugins: Path) -> None:
    place(plugins, "broken.py", "1 / 0\n")
    place(plugins, "nosyntax.py", "def f(:\n")
    place(plugins, "cam.py", source)
    problems = refused(plugins, "cam")
    assert len(problems) == 1
    problem = explain(problems, [f"plugin 'cam': {plugins}", *said])
    assert ":None" not in problem


@pytest.mark.parametrize("model", ["5", "dict", "'Config'", "Field()"])
def test_the_configuration_model_is_none(model: str, plugins: Path) -> None:
    place(plugins, "cam.py", within(f"Config = {model}"))
    explain(refused(plugins, "cam"), ["plugin 'cam': ", "Cam.Config must be a pydantic model"])


MODEL = """
class Config(BaseModel):
    class Inner(BaseModel):
        model_config = {"extra": "forbid"}
        port: int

    url: str
    port: int = 1
    password: SecretStr = SecretStr("")
    inner: list[Inner] = []
    broken: str = ""
    @field_validator("broken")
    @classmethod
    def fails(cls, value): return {}[value]
"""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ["plugins.cam.config.url: field required"]),
        ({"url": 5}, ["plugins.cam.config.url: ", "valid string"]),
        ({"url": "x", "prt": 5}, ["plugins.cam.config.prt: unknown key; did you mean 'port'?"]),
        (
            {"url": "x", "zzzzz": SECRET},
            ["config.zzzzz: unknown key; available: broken, inner, password, port, url"],
        ),
        ({"url": "x", "port": SECRET}, ["plugins.cam.config.port: ", "valid integer"]),
        ({"url": "x", "password": [SECRET]}, ["plugins.cam.config.password: ", "valid string"]),
        (
            {"url": "x", "inner": [{"port": 1}, {"port": SECRET}]},
            ["plugins.cam.config.inner.1.port: "],
        ),
        ({"url": "x", "inner": [{"port": 1, "key": SECRET}]}, ["plugins.cam.config.inner.0.key: "]),
        ({"url": "x", "inner": SECRET}, ["plugins.cam.config.inner: ", "valid list"]),
        ({"prt": 1, "port": "x"}, ["config.prt: ", "config.port: ", "config.url: field required"]),
        ({"url": "x", "broken": SECRET}, ["plugin 'cam': ", "KeyError"]),
    ],
    ids=str,
)
def test_configuration_that_the_model_refuses(
    values: dict[str, Any], said: list[str], plugins: Path
) -> None:
    place(plugins, "cam.py", within(MODEL))
    problems = refused(plugins, "cam", plugins={"cam": {"config": values}})
    assert len(problems) == 1
    explain(problems, said)


def test_a_validator_that_breaks_is_named_by_its_line(plugins: Path) -> None:
    path = place(plugins, "cam.py", within(MODEL))
    line = (
        path.read_text().splitlines().index("        def fails(cls, value): return {}[value]") + 1
    )
    (problem,) = refused(plugins, "cam", plugins={"cam": {"config": {"url": "", "broken": SECRET}}})
    explain([problem], [f"{path}:{line}: class Cam: its Config failed with KeyError"])


TWO_MODELS = """
from lva import BaseBackgroundPlugin
from pydantic import BaseModel, Field

class A(BaseBackgroundPlugin):
    class Config(BaseModel):
        model_config = {"extra": "forbid"}
        port: int = 0

class B(BaseBackgroundPlugin):
    class Config(BaseModel):
        url: str = Field("", alias="link")
"""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prt": 1, "link": "x"}, ["config.prt: unknown key; did you mean 'port'?"]),
        ({"zzzzz": 1}, ["config.zzzzz: unknown key; available: link, port"]),
        ({"url": "x"}, ["config.url: unknown key"]),  # pydantic would not read it by this name
        ({"port": "x", "link": 5}, ["config.port: ", "config.link: "]),
    ],
    ids=str,
)
def test_configuration_that_no_class_of_the_file_knows(
    values: dict[str, Any], said: list[str], plugins: Path
) -> None:
    place(plugins, "cam.py", TWO_MODELS)
    (problem,) = refused(plugins, "cam", plugins={"cam": {"config": values}})
    explain([problem], said)
    assert problem.count("plugins.cam.config.") == sum(text.count("config.") for text in said)


def test_configuration_from_the_environment(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(plugins, "cam.py", within(MODEL))
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__PORT", SECRET)
    settings = load_settings({"plugins_dir": (plugins,), "active_plugins": ("cam",)})
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(settings)
    explain(caught.value.problems, ["plugins.cam.config.port: ", "plugins.cam.config.url: "])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("camm", "did you mean 'cam'?"),
        ("hist", "did you mean 'history'?"),
        ("zzzzzz", "available: "),
    ],
)
def test_a_table_of_no_plugin(table: str, said: str, plugins: Path) -> None:
    place(plugins, "cam.py")
    problems = refused(plugins, "cam", plugins={table: {}})
    assert len(problems) == 1
    explain(problems, [f"plugins.{table}: there is no plugin of that name", said])


def test_a_file_beside_it_is_imported_relatively(plugins: Path) -> None:
    place(plugins, "helper.py", "")
    place(plugins, "cam.py", "import helper\n")
    problem = explain(refused(plugins, "cam"), [f"{plugins}/cam.py:1: ", "from . import helper"])
    assert "install the package" not in problem


def test_a_file_beside_a_module_of_a_package_is_imported_relatively(plugins: Path) -> None:
    place(plugins, "cam/__init__.py", "from .impl import Cam\n")
    place(plugins, "cam/impl.py", "import helper\n")
    place(plugins, "cam/helper.py", "")
    explain(refused(plugins, "cam"), [f"{plugins}/cam/impl.py:1: ", "from . import helper"])


def test_the_file_that_does_not_compile_is_named_not_its_importer(plugins: Path) -> None:
    place(plugins, "cam.py", "from .helper import x\n")
    place(plugins, "helper.py", "\0")
    explain(refused(plugins, "cam"), [f"plugin 'cam': {plugins}/helper.py: ", "null bytes"])


# What is on the disk


def on_disk(id: str, arrange: Callable[[Path], object], *said: str, marks: Any = ()) -> Any:  # noqa: A002
    """Return a case of files in the plugin directory; ``{}`` in a text stands for the directory."""
    return pytest.param(arrange, said, id=id, marks=marks)


def give_away(path: Path, user: int = -1, group: int = -1) -> None:
    os.chown(path, user, group)


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        on_disk("file for all", lambda d: place(d, "cam.py", mode=0o646),
                "{}/cam.py: everybody may write it (mode 0646)", "chmod go-w {}/cam.py"),
        on_disk("package file for all", lambda d: place(d, "cam/__init__.py", mode=0o666),
                "everybody may write it", "chmod go-w {}/cam/__init__.py"),
        on_disk("directory for all", lambda d: (place(d, "cam.py"), d.chmod(0o777)),
                "{}: everybody may write it (mode 0777)", "chmod go-w {}"),
        on_disk("package module for all", lambda d: (
                    place(d, "cam/__init__.py", "from .impl import Cam\n"),
                    place(d, "cam/impl.py", mode=0o666)),
                "impl.py", "everybody may write it"),
        on_disk("package directory for all", lambda d: place(d, "cam/__init__.py").parent.chmod(0o707),
                "{}/cam: everybody may write it"),
        on_disk("helper for all",
                lambda d: (place(d, "cam.py", "from .helper import x\n"), place(d, "helper.py", mode=0o666)),
                "{}/helper.py: everybody may write it"),
        on_disk("file for a group", lambda d: give_away(place(d, "cam.py", mode=0o664), group=4321),
                "{}/cam.py: its group may write it (mode 0664)", "chmod g-w {}/cam.py", marks=as_root),
        on_disk("directory for a group",
                lambda d: (place(d, "cam.py"), d.chmod(0o775), give_away(d, group=4321)),
                "{}: its group may write it", "chmod g-w {}", marks=as_root),
        on_disk("file of somebody", lambda d: give_away(place(d, "cam.py"), user=4321),
                "{}/cam.py: belongs to user 4321, who could change it", "chown", marks=as_root),
        on_disk("directory of somebody", lambda d: (place(d, "cam.py"), give_away(d, user=4321)),
                "{}: belongs to user 4321", "chown", marks=as_root),
        on_disk("link to outside", lambda d: (d / "cam.py").symlink_to(place(d.parent, "out.py")),
                "{}/cam.py: is a link to ", "/out.py, outside {}", "copy the file here"),
        on_disk("package linked from outside",
                lambda d: (d / "cam").symlink_to(place(d.parent, "out/__init__.py").parent),
                "{}/cam/__init__.py: is a link to ", "outside {}"),
        on_disk("link to a file that others may write",
                lambda d: (place(d, "real.py", mode=0o666), (d / "cam.py").symlink_to("real.py")),
                "{}/real.py: everybody may write it"),
        on_disk("link to nowhere", lambda d: (d / "cam.py").symlink_to("no.py"), "{}/cam.py: cannot be read"),
        on_disk("link to itself", lambda d: (d / "cam.py").symlink_to("cam.py"),
                "{}/cam.py: cannot be read", "symbolic links"),
        on_disk("directory", lambda d: (d / "cam.py").mkdir(), "{}/cam.py: "),
        on_disk("pipe", lambda d: os.mkfifo(d / "cam.py"), "{}/cam.py: is not a regular file"),
        on_disk("device", lambda d: (d / "cam.py").symlink_to("/dev/zero"),
                "{}/cam.py: is a link to /dev/zero"),
        on_disk("too large", lambda d: place(d, "cam.py", b"#" * (10 * 1024 * 1024 + 1)),
                "{}/cam.py: too large for a plugin (10485761 bytes)"),
        on_disk("unreadable", lambda d: place(d, "cam.py", mode=0o000),
                "{}/cam.py: cannot be read: Permission denied", marks=not_as_root),
        on_disk("package without __init__", lambda d: place(d, "cam/impl.py"),
                "no such plugin", "{}/cam has no __init__.py"),
        on_disk("package without its module",
                lambda d: place(d, "cam/__init__.py", "from .impl import Cam\n"),
                "{}/cam/__init__.py:1: ", "lva_plugins.cam.impl"),
        on_disk("package that breaks inside",
                lambda d: (place(d, "cam/__init__.py", "from .impl import Cam\n"),
                           place(d, "cam/impl.py", "1/0")),
                "{}/cam/impl.py:1: ", "ZeroDivisionError"),
        on_disk("file and package", lambda d: (place(d, "cam.py"), place(d, "cam/__init__.py")),
                "found twice: {}/cam.py and {}/cam/__init__.py", "rename or remove one"),
    ],
)  # fmt: skip
def test_wrong_on_the_disk(
    arrange: Callable[[Path], object], said: Sequence[str], plugins: Path, no_collection: None
) -> None:
    arrange(plugins)
    before = [*Path("/proc/self/fd").iterdir()]
    problems = refused(plugins, "cam")
    assert [*Path("/proc/self/fd").iterdir()] == before
    assert len(problems) == 1
    explain(problems, ["plugin 'cam': ", *(text.replace("{}", str(plugins)) for text in said)])


def test_found_in_two_directories(plugins: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    place(plugins, "cam.py")
    place(other, "cam.py")
    problems = refused([plugins, other], "cam")
    explain(
        problems, ["found twice: ", f"{plugins}/cam.py and {other}/cam.py", "rename or remove one"]
    )


def test_the_name_of_a_shipped_plugin_is_taken(plugins: Path) -> None:
    place(plugins, "history.py")
    explain(refused(plugins, "history"), ["found twice: ", f"{plugins}/history.py"])


@pytest.mark.parametrize("second", ["cam", "cam.py"])
def test_named_twice(second: str, plugins: Path) -> None:
    place(plugins, "cam.py")
    assert refused(plugins, "cam", second) == [
        "plugin 'cam': named 2 times in active_plugins; name it once"
    ]


def test_a_directory_that_is_none(plugins: Path, tmp_path: Path) -> None:
    file = place(tmp_path, "file")
    place(plugins, "cam.py")
    assert refused([plugins, file, tmp_path / "no"], "cam") == [
        f"plugins_dir: {file}: is not a directory",
        f"plugins_dir: {tmp_path}/no: there is no such directory",
    ]


def test_every_plugin_is_reported_at_once(plugins: Path) -> None:
    place(plugins, "syntax.py", "def f(:\n")
    place(plugins, "raises.py", "1 / 0\n")
    place(plugins, "good.py")
    problems = refused(plugins, "good", "syntax", "a-b", "raises", "goood", plugins={"zzzzzz": {}})
    for said in ("'syntax'", "'a-b'", "'raises'", "'goood'", "plugins.zzzzzz"):
        explain(problems, [said])
    assert len(problems) == 5


def test_a_refused_file_is_not_run(plugins: Path, tmp_path: Path) -> None:
    place(plugins, "cam.py", f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n{EVENT}", mode=0o666)
    refused(plugins, "cam")
    assert not (tmp_path / "ran").exists()
    (plugins / "cam.py").chmod(0o644)
    load(plugins, "cam")
    assert (tmp_path / "ran").exists()


def test_warn_lets_a_file_pass_and_reports_it(
    plugins: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place(plugins, "cam.py", mode=0o666)
    assert [plugin.name for plugin in load(plugins, "cam", plugin_file_check="warn")] == ["cam"]
    messages = [record.getMessage() for record in caplog.records]
    reports = [message for message in messages if "everybody may write" in message]
    assert len(reports) == 1
    assert str(plugins / "cam.py") in reports[0]


@as_root
def test_warn_does_not_let_a_link_to_outside_pass(plugins: Path, tmp_path: Path) -> None:
    (plugins / "cam.py").symlink_to(place(tmp_path, "out.py"))
    explain(refused(plugins, "cam", plugin_file_check="warn"), ["outside"])


def test_a_failed_import_leaves_no_finder_twice(plugins: Path) -> None:
    place(plugins, "cam.py", "1 / 0\n")
    refused(plugins, "cam")
    refused(plugins, "cam")
    assert sum(isinstance(item, PluginFinder) for item in sys.meta_path) == 1


# The real command


def last_lines(service: ServiceProcess) -> list[str]:
    return [line for line in service.lines if line]


@pytest.mark.process
def test_run_reports_wrong_settings_and_binds_nothing(tmp_path: Path) -> None:
    port = free_port()
    service = ServiceProcess(
        tmp_path,
        toml="bindd = 1\n[plugins.cam]\nbatch_size = 0",
        env={"LUNA_VIDEO_AGENT_MAX_REQUESTS": "many", "LUNA_VIDEO_AGENT_LOGLEVEL": "x"},
        arguments=["--bind", f"127.0.0.1:{port}", "--log-format", "yaml"],
    )
    with service:
        assert service.wait() == 2
    lines = last_lines(service)
    assert lines[0] == "lva: 5 problems, nothing was started:"
    for said in (
        "bindd",
        "plugins.cam.batch_size",
        "MAX_REQUESTS",
        "LOGLEVEL",
        "command line: log_format",
    ):
        assert sum(said in line for line in lines[1:]) == 1, service.output
    assert "Traceback" not in service.output
    assert "listening" not in service.output


@pytest.mark.process
def test_run_reports_broken_plugins_and_binds_nothing(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    place(plugins, "syntax.py", "def f(:\n")
    place(plugins, "leaves.py", "import sys\nsys.exit(0)\n")
    place(plugins, "open.py", mode=0o666)
    path = tmp_path / "socket"
    service = ServiceProcess(
        tmp_path,
        ["syntax", "leaves", "open", "opne", "history"],
        env={"LUNA_VIDEO_AGENT_BIND": f"unix:{path}"},
    )
    with service:
        assert service.wait() == 2
    lines = last_lines(service)
    assert lines[0] == "lva: 4 problems, nothing was started:"
    for said in ("syntax.py:1: ", "SystemExit: 0", "chmod go-w", "did you mean 'open'?"):
        assert sum(said in line for line in lines[1:]) == 1, service.output
    assert "Traceback" not in service.output
    assert not path.exists()


QUOTING = """
class Config(BaseModel):
    url: str
    @field_validator("url")
    @classmethod
    def refuse(cls, value): raise ValueError(f"no camera at {value}")
"""


@pytest.mark.process
def test_run_masks_the_passwords_of_urls_in_the_problems_it_prints(tmp_path: Path) -> None:
    url = f"rtsp://gate:{SECRET}@camera/1"
    place(tmp_path / "plugins", "quoting.py", within(QUOTING))
    place(tmp_path / "plugins", "raises.py", f"raise OSError('no answer', '{url}')\n")
    service = ServiceProcess(
        tmp_path,
        ["quoting", "raises"],
        toml=f"[plugins.quoting.config]\nurl = '{url}'",
        arguments=["--bind", url],
    )
    with service:
        assert service.wait() == 2
    assert last_lines(service)[0] == "lva: 3 problems, nothing was started:"
    for said in (
        "as in 127.0.0.1:5240, not 'rtsp://***@camera/1'",
        "plugins.quoting.config.url: no camera at rtsp://***@camera/1",
        "raise OSError('no answer', 'rtsp://***@camera/1')",
    ):
        assert said in service.output
    assert SECRET not in service.output


def test_run_masks_known_secrets_in_the_problems_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_secrets", [])
    logs.keep_secret({"password": SECRET})
    result = CliRunner().invoke(main, ["run", "--bind", SECRET])
    assert result.exit_code == 2
    assert "as in 127.0.0.1:5240, not '***'" in result.output
    assert SECRET not in result.output


@pytest.mark.process
def test_run_reports_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with ServiceProcess(tmp_path, arguments=["--bind", address]) as service:
            assert service.wait() == 2
    assert last_lines(service)[0] == "lva: 1 problem, nothing was started:"
    assert f"cannot listen on {address}: another program listens there" in service.output
    assert "Traceback" not in service.output
    assert not any("receipt" in record for record in service.records)  # nothing was started


def test_what_a_problem_has_in_further_lines_stands_below_it(plugins: Path) -> None:
    source = "from pydantic import BaseModel, model_validator\n" + textwrap.dedent(
        """
        from lva import BaseBackgroundPlugin

        class Cam(BaseBackgroundPlugin):
            class Config(BaseModel):
                url: str
                port: int = 0

                @model_validator(mode="after")
                def check(self):
                    raise ValueError("the port belongs to another")
        """
    )
    write_plugin(plugins, "cam", source)
    Path("lva.toml").write_text("[plugins.cam.config]\nurl = 'x'\n")
    Path("lva.toml").chmod(0o644)
    runner = CliRunner(env={"LUNA_VIDEO_AGENT_STATE_DIR": str(plugins.parent / "state")})
    result = runner.invoke(main, ["run", "--plugins-dir", str(plugins), "--active", "cam"])
    assert result.exit_code == 2
    *_, first, second = result.output.splitlines()
    assert first.startswith("  - ")
    assert second == "      plugins.cam.config: the port belongs to another"
