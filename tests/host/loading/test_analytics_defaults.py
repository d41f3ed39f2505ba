"""`[plugins.NAME.config]` of an analytics plugin has defaults of parameters, refused where they are wrong."""

from __future__ import annotations

import pytest

from lva.errors import ConfigurationError
from lva.host.loading.load import load_plugins
from lva.settings.variables import VariableText
from tests.support import host_settings, write_plugin

EYE = """
from pydantic import BaseModel, Field
from lva import BaseAnalyticsPlugin

class Config(BaseModel):
    level: int = Field(ge=0, le=255)
    places: list[int] = []

class Eye(BaseAnalyticsPlugin):
    Config = Config
    def handleFrame(self, frame): ...
"""


def loaded(tmp_path, **config):
    write_plugin(tmp_path / "plugins", "eye", EYE, preamble="")
    (plugin,) = load_plugins(host_settings(tmp_path, ["eye"], {"eye": {"config": config}}))
    assert plugin.analytics is not None
    return plugin.analytics


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"levle": 5}, "plugins.eye.config.levle: unknown key; did you mean 'level'?"),
        ({"level": 300}, "plugins.eye.config.level: "),
        ({"level": 5, "places": "here"}, "plugins.eye.config.places: "),
    ],
)
def test_what_is_wrong_is_refused_before_the_start(tmp_path, config, said):
    with pytest.raises(ConfigurationError) as refusal:
        loaded(tmp_path, **config)
    assert said in str(refusal.value)
    assert "300" not in str(refusal.value)


def test_what_they_leave_out_streams_may_set(tmp_path):
    info = loaded(tmp_path, places=[1])
    assert info.parameters({"level": 5}) == {"level": 5, "places": [1]}
    with pytest.raises(ValueError, match="level"):
        info.parameters({})


def test_variables_are_what_the_fields_want(tmp_path):
    """The kind is a value from the environment, which is text: a list is written as JSON."""
    info = loaded(tmp_path, level=VariableText("7"), places=VariableText("[1, 2]"))
    assert info.parameters({}) == {"level": "7", "places": [1, 2]}


def test_a_config_that_is_no_model_is_refused(tmp_path):
    source = EYE.replace("    Config = Config\n", "    Config = dict\n")
    write_plugin(tmp_path / "plugins", "eye", source, preamble="")
    with pytest.raises(ConfigurationError, match="Config must be a pydantic model"):
        load_plugins(host_settings(tmp_path, ["eye"]))
