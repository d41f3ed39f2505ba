"""Good settings and plugin files: where values come from, which source wins, what can be activated."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lva.cli import main
from lva.errors import ConfigurationError
from lva.host.loading import load as loading
from lva.host.loading.load import load_plugins
from lva.settings import ENV_PREFIX, Settings, load_settings, parse_bind
from lva.settings.sources import warn_of_service_links
from tests.support import ServiceProcess

pytestmark = pytest.mark.usefixtures("clean_slate")

EVENT = """\
from lva import BaseEventPlugin

class Cam(BaseEventPlugin):
    eventName = "monitoring_event"
    async def handleEvent(self, points, logger): ...
"""


def set_toml(text: str) -> None:
    Path("lva.toml").write_text(text)
    Path("lva.toml").chmod(0o644)


# Sources


def test_defaults() -> None:
    settings = load_settings()
    assert settings.active_plugins == ("history", "resource_monitor")
    assert settings.bind == "127.0.0.1:5240"
    assert settings.shutdown_timeout == 25
    assert settings.plugins == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("[]", ()),
        (",", ()),
        ("cam", ("cam",)),
        ("cam.py", ("cam.py",)),
        ("a, b ,c,", ("a", "b", "c")),
        ('["a", "b"]', ("a", "b")),
        (' ["a"] ', ("a",)),
    ],
)
def test_lists_in_variables(
    value: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}ACTIVE_PLUGINS", value)
    assert load_settings().active_plugins == expected


def test_lists_in_the_file(tmp_path: Path) -> None:
    set_toml("active_plugins = ['b', 'a']\nplugins_dir = ['one', '/two']")
    settings = load_settings()
    assert settings.active_plugins == ("b", "a")
    assert settings.plugins_dir == (tmp_path / "one", Path("/two"))
    set_toml("active_plugins = 'a, b'")
    assert load_settings().active_plugins == ("a", "b")
    set_toml("active_plugins = []")
    assert load_settings().active_plugins == ()


@pytest.mark.parametrize("sources", range(4))
def test_command_line_beats_environment_beats_file_beats_default(
    sources: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "127.0.0.1:5240"
    options = {}
    if sources > 0:
        set_toml("bind = 'file:1'")
        expected = "file:1"
    if sources > 1:
        monkeypatch.setenv(f"{ENV_PREFIX}BIND", "environment:1")
        expected = "environment:1"
    if sources > 2:
        options = {"bind": "option:1"}
        expected = "option:1"
    assert load_settings(options).bind == expected


def test_a_key_in_capitals_cannot_hide_what_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    set_toml("BIND = 'file:1'")
    monkeypatch.setenv(f"{ENV_PREFIX}BIND", "environment:1")
    with pytest.raises(
        ConfigurationError, match=r"lva.toml: BIND: unknown key; did you mean 'bind'\?"
    ):
        load_settings({"bind": "option:1"})


def test_tables_are_merged_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    set_toml(
        "[plugins.cam]\nmax_restarts = 1\nbatch_size = 2\n"
        "[plugins.cam.config]\nurl = 'file'\nport = 1\n[plugins.cam.config.deep]\na = 1\nb = 2\n"
    )
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__MAX_RESTARTS", "7")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__PORT", "8")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__DEEP__B", "9")
    cam = load_settings().plugins["cam"]
    assert (cam.max_restarts, cam.batch_size) == (7, 2)
    assert cam.config["url"] == "file"
    assert int(cam.config["port"]) == 8
    assert cam.config["deep"]["a"] == 1
    assert int(cam.config["deep"]["b"]) == 9


def test_variables_reach_a_table_with_capitals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / "plugins"
    place(directory, "Cam.py")
    set_toml("active_plugins = ['Cam']\n[plugins.Cam.config]\nurl = 'file'\nport = 1")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__PORT", "8")
    (loaded,) = load_plugins(load_settings({"plugins_dir": (directory,)}))
    (config,) = loaded.configs.values()
    assert config == {"url": "file", "port": "8"}


def test_variables_alone_reach_a_plugin_with_capitals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place(tmp_path / "plugins", "Cam.py")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__BATCH_SIZE", "8")
    settings = load_settings({"plugins_dir": (tmp_path / "plugins",), "active_plugins": ("Cam",)})
    (loaded,) = load_plugins(settings)
    assert loaded.settings.batch_size == 8


def test_a_whole_table_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        f"{ENV_PREFIX}PLUGINS", json.dumps({"cam": {"batch_size": 5, "config": {"a": [1]}}})
    )
    cam = load_settings().plugins["cam"]
    assert cam.batch_size == 5
    assert cam.config == {"a": [1]}


def test_a_variable_for_a_key_beats_the_one_for_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__BATCH_SIZE", "6")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM", '{"batch_size": 5, "max_restarts": 1}')
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS", '{"Cam": {"max_restarts": 2, "critical": true}}')
    cam = load_settings().plugins["cam"]
    assert (cam.batch_size, cam.max_restarts, cam.critical) == (6, 1, True)


CONFIGURED = """\
from typing import Any
from pydantic import BaseModel
from lva import BaseEventPlugin

class Deep(BaseModel):
    text: str = ""
    number: float = 0

class Cam(BaseEventPlugin):
    eventName = "monitoring_event"
    class Config(BaseModel):
        text: str = ""
        texts: dict[str, str] = {}
        words: list[str] = []
        numbers: list[int] | None = None
        either: str | list[str] = ""
        number: int | None = 1
        flag: bool = False
        any: Any = None
        deep: Deep = Deep()
    async def handleEvent(self, points, logger): ...
"""


@pytest.mark.parametrize(
    ("variable", "text", "key", "expected"),
    [
        ("TEXT", "12e4", "text", "12e4"),
        ("TEXT", "true", "text", "true"),
        ("TEXT", "null", "text", "null"),
        ("TEXT", '"7"', "text", '"7"'),
        ("TEXT", "[1]", "text", "[1]"),
        ("TEXT", "", "text", ""),
        ("TEXTS__X-API-KEY", "0042", "texts", {"x-api-key": "0042"}),
        ("TEXTS", '{"label": "7"}', "texts", {"label": "7"}),
        ("DEEP__TEXT", "7", "deep.text", "7"),
        ("DEEP__NUMBER", "7", "deep.number", 7.0),
        ("DEEP", '{"text": "7"}', "deep.text", "7"),
        ("WORDS", '["7", "x"]', "words", ["7", "x"]),
        ("NUMBERS", "[7]", "numbers", [7]),
        ("NUMBERS", "null", "numbers", None),
        ("EITHER", "[7]", "either", "[7]"),
        ("NUMBER", "7", "number", 7),
        ("NUMBER", "null", "number", None),
        ("FLAG", "true", "flag", True),
        ("ANY", "7", "any", "7"),
        ("ANY__DEEP__ER", "7", "any", {"deep": {"er": "7"}}),
    ],
)
def test_a_variable_is_text_until_its_field_says_otherwise(
    variable: str,
    text: str,
    key: str,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What looks like a number, a list or a table in JSON is one only where the field takes no text."""
    place(tmp_path / "plugins", "cam.py", CONFIGURED)
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__{variable}", text)
    settings = load_settings({"plugins_dir": (tmp_path / "plugins",), "active_plugins": ("cam",)})
    (loaded,) = load_plugins(settings)
    (value,) = loaded.configs.values()
    for name in key.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_a_key_beside_the_variable_for_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__LABELS", '{"a": "1", "b": "2"}')
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__LABELS__B", "3")
    assert load_settings().plugins["cam"].config == {"labels": {"a": "1", "b": "3"}}


LINKS = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "80",
    "SERVICE_PORT_HTTP": "80",
    "PORT": "tcp://10.0.0.1:80",
    "PORT_80_TCP": "tcp://10.0.0.1:80",
    "PORT_80_TCP_PROTO": "tcp",
    "PORT_80_TCP_PORT": "80",
    "PORT_80_TCP_ADDR": "10.0.0.1",
    "METRICS_SERVICE_HOST": "10.0.0.2",
    "METRICS_PORT": "udp://10.0.0.2:9",
}


def test_variables_that_kubernetes_sets_for_a_service_are_ignored_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kind: variables of a form that Kubernetes sets, whatever the Service of that name is called."""
    for name, text in LINKS.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{name}", text)
    assert load_settings().bind == "127.0.0.1:5240"
    warn_of_service_links()
    (said,) = caplog.messages
    assert all(f"{ENV_PREFIX}{name}" in said for name in LINKS)
    assert "enableServiceLinks: false" in said


def test_a_byte_order_mark_is_skipped() -> None:
    Path("lva.toml").write_bytes(b"\xef\xbb\xbfbind = 'h:1'\n")
    Path("lva.toml").chmod(0o644)
    assert load_settings().bind == "h:1"


@pytest.fixture
def nobody_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry in the user database, and without HOME, as in many containers."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("nobody_known")
def test_a_user_without_a_home_directory_is_told_to_set_state_dir() -> None:
    result = CliRunner().invoke(main, ["run", "--bind", "127.0.0.1:0"])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()[1:]
    assert f"state_dir: user {os.geteuid()} has no home directory" in line
    assert "LUNA_VIDEO_AGENT_STATE_DIR" in line


@pytest.mark.usefixtures("nobody_known")
@pytest.mark.parametrize("command", ["plugins", "check history", "new cam", "status"])
@pytest.mark.slow("starts a process for each command")
def test_commands_that_need_no_state_directory_need_no_home(command: str) -> None:
    nowhere = {f"{ENV_PREFIX}BIND": "127.0.0.1:1"} if command == "status" else {}
    result = CliRunner().invoke(main, command.split(), env=nowhere)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == (3 if command == "status" else 0), result.output


@pytest.mark.parametrize("how", ["variable", "argument"])
def test_the_file_can_be_elsewhere(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_toml("bind = 'here:1'")
    other = tmp_path / "other.toml"
    other.write_text("bind = 'there:1'")
    if how == "variable":
        monkeypatch.setenv(f"{ENV_PREFIX}CONFIG", str(other))
        assert load_settings().bind == "there:1"
    else:
        monkeypatch.setenv(f"{ENV_PREFIX}CONFIG", "/not/this/one")
        assert load_settings(config_file=other).bind == "there:1"


def test_names_of_variables_ignore_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("luna_video_agent_bind", "h:9")
    monkeypatch.setenv(f"{ENV_PREFIX}LOG_LEVEL", "debug")
    settings = load_settings()
    assert (settings.bind, settings.log_level) == ("h:9", "DEBUG")


def test_paths_are_absolute_and_know_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings({"state_dir": "~/state", "plugins_dir": ("a", "~/b")})
    assert settings.state_dir == Path("/home/somebody/state")
    assert settings.plugins_dir == (tmp_path / "a", Path("/home/somebody/b"))


def test_the_longest_drain_window() -> None:
    assert load_settings({"drain_window": 24.5}).drain_window == 24.5


@pytest.mark.parametrize(
    ("bind", "parsed"),
    [
        ("127.0.0.1:5240", ("127.0.0.1", 5240)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("unix:/run/lva.sock", "/run/lva.sock"),
        ("unix:lva.sock", "lva.sock"),
    ],
)
def test_addresses(bind: str, parsed: Any) -> None:
    assert parse_bind(bind) == parsed
    assert load_settings({"bind": bind}).bind == bind


def test_plugins_see_no_tables_of_others() -> None:
    public = load_settings({"plugins": {"cam": {"config": {"password": "hidden"}}}}).public()
    assert "hidden" not in repr(dict(public))
    with pytest.raises(TypeError):
        public["bind"] = "h:1"  # type: ignore[index]


def test_the_admin_token_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hunter2hunter2hunter2"
    monkeypatch.setenv("LUNA_VIDEO_AGENT_ADMIN_TOKEN", token)
    settings = load_settings()
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == token
    for shown in (settings, settings.model_dump(), dict(settings.public())):
        assert token not in repr(shown)
    monkeypatch.delenv("LUNA_VIDEO_AGENT_ADMIN_TOKEN")
    Path("lva.toml").write_text(f"admin_token = {token!r}")
    Path("lva.toml").chmod(0o640)
    assert load_settings().admin_token == settings.admin_token


# What can be activated


def place(directory: Path, name: str, source: str = EVENT) -> Path:
    """Write a file below the directory."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    path.chmod(0o644)
    return path


def load(
    directories: Path | tuple[Path, ...], *active: str, **settings: Any
) -> list[loading.LoadedPlugin]:
    several = (directories,) if isinstance(directories, Path) else directories
    return load_plugins(Settings(active_plugins=active, plugins_dir=several, **settings))


def test_shipped_plugins_load() -> None:
    names = ["background_plugin_example", "history", "request_monitoring_plugin_example"]
    loaded = load((), *names)
    assert [plugin.name for plugin in loaded] == names
    assert [plugin.kind for plugin in loaded] == ["background", "event+background", "event"]
    assert [plugin.classes[0].__name__ for plugin in loaded] == [
        "BackgroundPluginExample",
        "History",
        "RequestMonitoringPlugin",
    ]
    assert loaded[1].settings.batch_size == 5000  # its own default


def test_names_come_with_and_without_py_and_in_order(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "_c1.py"):
        place(tmp_path / "plugins", name)
    loaded = load(tmp_path / "plugins", "b", "_c1.py", "history.py", "a.py")
    assert [plugin.name for plugin in loaded] == ["b", "_c1", "history", "a"]


def test_nothing_active_loads_nothing(tmp_path: Path) -> None:
    place(tmp_path / "plugins", "bad.py", "1 / 0")
    assert load(tmp_path / "plugins") == []


def test_a_package(tmp_path: Path) -> None:
    place(tmp_path / "plugins", "cam/__init__.py", "from .impl import Cam\nfrom . import deep\n")
    place(
        tmp_path / "plugins",
        "cam/impl.py",
        "from ..helper import x\nfrom .deep.end import y\n" + EVENT,
    )
    place(tmp_path / "plugins", "cam/deep/__init__.py", "")
    place(tmp_path / "plugins", "cam/deep/end.py", "y = 1\n")
    place(tmp_path / "plugins", "helper.py", "x = 1\n")
    (loaded,) = load(tmp_path / "plugins", "cam")
    assert loaded.path == tmp_path / "plugins" / "cam" / "__init__.py"
    assert [cls.__name__ for cls in loaded.classes] == ["Cam"]


def test_the_modules_of_a_package_are_known_with_their_digests(tmp_path: Path) -> None:
    place(tmp_path / "plugins", "cam/__init__.py", "from .impl import Cam\nfrom .deep import end\n")
    place(tmp_path / "plugins", "cam/impl.py")
    place(tmp_path / "plugins", "cam/deep/end.py", "y = 1\n")
    (loaded,) = load(tmp_path / "plugins", "cam")
    package = tmp_path / "plugins" / "cam"
    assert loaded.files.keys() == {
        package / "__init__.py", package / "impl.py", package / "deep" / "end.py",
    }  # fmt: skip
    for path, digest in loaded.files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert not list(tmp_path.rglob("__pycache__")), "compiled from the bytes that were checked"


def test_an_imported_plugin_is_not_activated_twice(tmp_path: Path) -> None:
    place(tmp_path / "plugins", "a.py")
    place(
        tmp_path / "plugins", "b.py",
        "from .a import Cam\nclass Dog(Cam): ...\nAlias = Dog\n",
    )  # fmt: skip
    a, b = load(tmp_path / "plugins", "a", "b")
    assert [cls.__name__ for cls in (*a.classes, *b.classes)] == ["Cam", "Dog"]
    assert issubclass(b.classes[0], a.classes[0])


def test_every_concrete_class_counts_and_own_bases_do_not(tmp_path: Path) -> None:
    place(
        tmp_path / "plugins",
        "cam.py",
        "from abc import abstractmethod\nfrom lva import BaseBackgroundPlugin\n"
        + EVENT
        + "class Base(Cam):\n    @abstractmethod\n    def more(self): ...\n"
        + "class One(Base):\n    def more(self): ...\n"
        + "class Two(BaseBackgroundPlugin): ...\n",
    )
    (loaded,) = load(tmp_path / "plugins", "cam")
    assert [cls.__name__ for cls in loaded.classes] == ["Cam", "One", "Two"]
    assert loaded.kind == "event+background"


def test_plugins_in_several_directories_import_each_other(tmp_path: Path) -> None:
    place(tmp_path / "one", "cam.py", "from .helper import x\n" + EVENT)
    place(tmp_path / "two", "helper.py", "x = 1\n")
    place(tmp_path / "two", "dog.py", "from .cam import Cam\nclass Dog(Cam): ...\n")
    loaded = load((tmp_path / "one", tmp_path / "two"), "cam", "dog")
    assert [plugin.path.parent.name for plugin in loaded] == ["one", "two"]


def test_names_of_libraries_are_free(tmp_path: Path) -> None:
    place(tmp_path / "plugins", "json.py", "import json\nassert json.loads('1') == 1\n" + EVENT)
    (loaded,) = load(tmp_path / "plugins", "json")
    assert loaded.name == "json"
    assert json.loads("2") == 2


@pytest.mark.parametrize("target", ["real.py", "below/real.py"])
def test_a_link_that_stays_inside(target: str, tmp_path: Path) -> None:
    place(tmp_path / "plugins", target)
    (tmp_path / "plugins" / "cam.py").symlink_to(target)
    (loaded,) = load(tmp_path / "plugins", "cam")
    assert loaded.name == "cam"


def test_the_directory_may_be_a_link_and_be_named_twice(tmp_path: Path) -> None:
    place(tmp_path / "real", "cam.py")
    (tmp_path / "plugins").symlink_to("real")
    (loaded,) = load((tmp_path / "plugins", tmp_path / "plugins"), "cam")
    assert loaded.path == tmp_path / "plugins" / "cam.py"


@pytest.mark.parametrize(
    ("mode", "directory_mode"), [(0o600, 0o700), (0o755, 0o755), (0o444, 0o1777)]
)
def test_modes_that_are_fine(mode: int, directory_mode: int, tmp_path: Path) -> None:
    path = place(tmp_path / "plugins", "cam.py")
    path.chmod(mode)
    path.parent.chmod(directory_mode)
    assert len(load(tmp_path / "plugins", "cam")) == 1


def test_user_settings_go_over_the_plugins_own(tmp_path: Path) -> None:
    own = "    host_settings = {'batch_size': 5, 'max_attempts': 6}\n"
    place(tmp_path / "plugins", "cam.py", EVENT + own)
    (loaded,) = load(tmp_path / "plugins", "cam", plugins={"cam": {"batch_size": 7}})
    assert (loaded.settings.batch_size, loaded.settings.max_attempts) == (7, 6)


def test_a_model_gets_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(
        tmp_path / "plugins",
        "cam.py",
        "from pydantic import BaseModel, Field, AliasChoices\n"
        + EVENT
        + "    class Config(BaseModel):\n"
        "        port: int\n"
        "        url: str = Field('x', alias='link')\n"
        "        other: str = Field('x', validation_alias=AliasChoices('this', 'that'))\n",
    )
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__PORT", "8")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__LINK", "y")
    monkeypatch.setenv(f"{ENV_PREFIX}PLUGINS__CAM__CONFIG__THAT", "z")
    settings = load_settings({"plugins_dir": (tmp_path / "plugins",), "active_plugins": ("cam",)})
    (loaded,) = load_plugins(settings)
    config = loaded.configs[loaded.classes[0]]
    assert (config.port, config.url, config.other) == (8, "y", "z")


def test_two_classes_of_a_file_share_its_table(tmp_path: Path) -> None:
    place(
        tmp_path / "plugins",
        "cam.py",
        "from pydantic import BaseModel\nfrom lva import BaseBackgroundPlugin\n"
        "class A(BaseBackgroundPlugin):\n    class Config(BaseModel):\n        a: int = 0\n"
        "class B(BaseBackgroundPlugin):\n    class Config(BaseModel):\n        b: int = 0\n",
    )
    (loaded,) = load(tmp_path / "plugins", "cam", plugins={"cam": {"config": {"a": 1, "b": 2}}})
    first, second = (loaded.configs[cls] for cls in loaded.classes)
    assert (first.a, second.b) == (1, 2)


def test_a_class_without_a_model_gets_the_whole_table(tmp_path: Path) -> None:
    place(
        tmp_path / "plugins",
        "cam.py",
        "from pydantic import BaseModel\nfrom lva import BaseBackgroundPlugin\n"
        "class A(BaseBackgroundPlugin):\n    class Config(BaseModel):\n        a: int = 0\n"
        "class B(BaseBackgroundPlugin): ...\n",
    )
    (loaded,) = load(tmp_path / "plugins", "cam", plugins={"cam": {"config": {"a": 1, "b": 2}}})
    first, second = (loaded.configs[cls] for cls in loaded.classes)
    assert (first.a, second) == (1, {"a": 1, "b": 2})


# The real command


@pytest.mark.process
def test_run_takes_everything_from_everywhere(tmp_path: Path) -> None:
    place(tmp_path / "elsewhere", "cam.py")
    place(tmp_path / "elsewhere", "dog.py")
    service = ServiceProcess(
        tmp_path,
        ["nothing_of_this_name"],
        toml="log_level = 'ERROR'\n[plugins.cam]\nmax_restarts = 3\n",
        env={"LUNA_VIDEO_AGENT_LOG_LEVEL": "WARNING", "LUNA_VIDEO_AGENT_PLUGINS__DOG__CONFIG__AGE": "3"},
        arguments=["--active", "cam", "--active", "dog.py", "--plugins-dir", str(tmp_path / "elsewhere"),
                   "--log-level", "info"],
    )  # fmt: skip
    with service:
        service.wait_until_ready()
        assert [plugin["name"] for plugin in service.get("/plugins").json()["plugins"]] == [
            "cam",
            "dog",
        ]
        assert service.stop() == 0
