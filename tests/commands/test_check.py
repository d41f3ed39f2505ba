"""`lva check` as a command: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lva.cli import main
from lva.logs import masking
from tests.support import write_plugin

RIGHT = "class Cam(BaseBackgroundPlugin): ..."
WRONG = "class Cam(BaseBackgroundPlugin):\n    def start(self): ...\n"
WARNED = (
    "class Cam(BaseEventPlugin):\n    eventName = 'monitoring_event'\n"
    "    async def start(self): ...\n    async def handleEvent(self, points, logger): ...\n"
)
CONFIGURED = (
    "from pydantic import BaseModel\n"
    "class Cam(BaseBackgroundPlugin):\n    class Config(BaseModel):\n        url: str\n"
)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clean_slate: None) -> Path:
    """A directory for plugins in the current one, and no settings but the test's."""
    monkeypatch.setattr(masking, "_secrets", [])
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


def check(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["check", *arguments], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        (RIGHT, 0, " ok"),
        (WARNED, 0, "1 warning"),
        (
            WRONG,
            1,
            "plugins/cam.py:6: error: Cam.start() must be a coroutine; write `async def start` [not-async]",
        ),
    ],
)
def test_exit_code_and_line(source: str, code: int, said: str, plugins: Path) -> None:
    write_plugin(plugins, "cam", source)
    result = check("plugins/cam.py")
    assert result.exit_code == code, result.output
    assert said in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such.py"], "no/such.py: there is no such file"),
        (["nope.py"], "nope.py: there is no such file"),  # and not looked for as a name
        (["./plugins"], "there is no plugin in this directory"),
        (["--config", "no.toml"], "no.toml: there is no such settings file"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_what_cannot_be_checked(arguments: list[str], said: str, plugins: Path) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_json(plugins: Path) -> None:
    path = write_plugin(plugins, "cam", f"print('noise')\n{WRONG}")
    result = check("--json", "plugins/cam.py")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document == {
        "ok": False,
        "settings": [],
        "plugins": [
            {
                "plugin": "cam",
                "file": str(path),
                "ok": False,
                "kind": "background",
                "runtime": "trio",
                "notes": [],
                "problems": [
                    {
                        "level": "error",
                        "code": "not-async",
                        "file": str(path),
                        "line": 7,
                        "message": "Cam.start() must be a coroutine; write `async def start`",
                    }
                ],
            }
        ],
    }


def test_without_arguments_the_active_plugins_and_the_settings_are_checked(
    plugins: Path, tmp_path: Path
) -> None:
    write_plugin(plugins, "cam", CONFIGURED)
    write_plugin(plugins, "other", WRONG)
    (tmp_path / "lva.toml").write_text(
        'plugins_dir = ["plugins", "gone"]\nactive_plugins = ["cam", "dam"]\n'
        "[plugins.cam.config]\nulr = 1\n[plugins.zzzzzz]\n"
    )
    (tmp_path / "lva.toml").chmod(0o644)
    result = check()
    assert result.exit_code == 1
    for said in (
        "gone: there is no such directory",
        "plugins.zzzzzz: there is no plugin of that name",
        "lva.toml:4: error: plugins.cam.config.ulr: unknown key; did you mean 'url'? [config]",
        "lva.toml:3: error: plugins.cam.config.url: field required; set it there, or as LUNA_VIDEO_",
        "dam: error: no such plugin",
    ):
        assert said in result.output, result.output
    assert "other.py" not in result.output


def test_other_settings_that_are_wrong_do_not_keep_plugins_from_being_checked(
    plugins: Path, tmp_path: Path
) -> None:
    write_plugin(plugins, "cam", WRONG)
    (tmp_path / "lva.toml").write_text("max_requests = 0\n")
    (tmp_path / "lva.toml").chmod(0o644)
    result = check("plugins/cam.py")
    assert result.exit_code == 1
    assert "settings: error: lva.toml: max_requests" in result.output
    assert "[not-async]" in result.output


def test_no_plugin_at_all(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "lva.toml").write_text("active_plugins = []\n")
    (tmp_path / "lva.toml").chmod(0o644)
    result = check()
    assert (result.exit_code, result.output) == (0, "no plugin is active, and none was named\n")


def test_secrets_are_masked(plugins: Path, tmp_path: Path) -> None:
    write_plugin(
        plugins,
        "cam",
        """
        from pydantic import BaseModel, field_validator
        class Cam(BaseBackgroundPlugin):
            class Config(BaseModel):
                password: str
                @field_validator("password")
                @classmethod
                def refuse(cls, value): raise ValueError(f"not {value}")
        """,
    )
    (tmp_path / "lva.toml").write_text("[plugins.cam.config]\npassword = 'hunter2hunter2'\n")
    (tmp_path / "lva.toml").chmod(0o644)
    for arguments in (["plugins/cam.py"], ["--json", "plugins/cam.py"]):
        result = check(*arguments)
        assert result.exit_code == 1
        assert "not ***" in result.output
        assert "hunter2" not in result.output


def test_control_characters_of_a_file_do_not_reach_the_terminal(plugins: Path) -> None:
    write_plugin(plugins, "cam", 'class Cam(BaseEventPlugin):\n    eventName = "\\x1b[31m"\n')
    result = check("plugins/cam.py")
    assert result.exit_code == 1
    assert "\x1b" not in result.output


@pytest.mark.parametrize("directory", ["plugins", "plugins/", "./plugins"])
def test_a_directory_stands_for_the_plugins_in_it(directory: str, plugins: Path) -> None:
    write_plugin(plugins, "cam", CONFIGURED)
    write_plugin(plugins, "other", WRONG)
    write_plugin(plugins, "helpers", "WORD = 1")
    result = check(directory)
    assert result.exit_code == 1
    assert {line.split()[0] for line in result.output.splitlines()[-2:]} == {"cam", "other"}
