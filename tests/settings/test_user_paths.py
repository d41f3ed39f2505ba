"""Paths as people write them, in each setting that is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lva.plugins import file, history, webhook
from lva.settings import Settings
from lva.settings.user_paths import absolute


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_a_tilde_is_the_home_directory_and_a_relative_path_begins_here(tmp_path: Path) -> None:
    assert absolute("~/x") == tmp_path / "home" / "x"
    assert absolute("x/y") == tmp_path / "x" / "y"
    assert absolute(7) == 7
    for wrong in ("~nobody-of-that-name/x", "a\0b"):
        with pytest.raises(ValueError, match="home directory|NUL"):
            absolute(wrong)


def test_every_setting_that_is_a_path_takes_a_tilde(tmp_path: Path) -> None:
    """Kind: a path that the shell would have expanded, in a file that no shell reads."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "x").touch()
    assert file.Config(path="~/x").path == home / "x"
    assert history.Config(path="~/x").path == home / "x"
    assert webhook.Config(url="http://there", ca_file="~/x").ca_file == home / "x"
    assert Settings(state_dir="~/x", plugins_dir=["~/y"]).plugins_dir == (home / "y",)


def test_a_dash_is_standard_output_and_a_file_of_that_name_can_be_had(tmp_path: Path) -> None:
    """Kind: a name with a meaning of its own, and how to take it for a name."""
    assert file.Config(path="-").path == Path("-")
    assert file.Config(path=Path("-")).path == Path("-")
    assert file.Config(path="./-").path == tmp_path / "-"
