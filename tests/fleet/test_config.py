"""What is wrong in `[plugins.streams.config.fleet]` is told in words, key by key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lva.errors import ConfigurationError
from lva.fleet.config import SOFT, FleetConfig, hard_end
from lva.host.loading.load import load_plugins
from lva.plugins import streams
from lva.settings import Settings


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"url": "http://a"}, "url is redis://host:port/db"),
        ({"name": "a b"}, "a name begins with a letter or a digit"),
        ({"agent": "{a}"}, "a name begins with a letter or a digit"),
        ({"labels": ["gpu", "-x"]}, "a name begins with a letter or a digit"),
        ({"agent": "a" * 101}, "at most 100"),
        ({"address": "10.0.0.7:5240"}, "an address is http://host:port"),
        ({"address": "http://user@a"}, "an address is http://host:port"),
        ({"lease": 1}, "greater than or equal to 2"),
        ({"room": -1}, "greater than or equal to 0"),
        ({"when_away": "maybe"}, "'stop' or 'go_on'"),
        ({"colour": 1}, "xtra inputs are not permitted"),
    ],
    ids=str,
)
def test_each_mistake_is_told(config: dict, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FleetConfig.model_validate(config)
    (error,) = caught.value.errors()
    assert said in error["msg"]


def test_what_is_right_is_taken() -> None:
    given = {"agent": "a.b-c_1", "address": "https://[::1]:5240", "labels": ["gpu", "a", "gpu"]}
    found = FleetConfig.model_validate(given)
    assert (found.address, found.labels) == ("https://[::1]:5240", ["a", "gpu"])


def test_a_client_library_that_is_missing_is_told_before_anything_starts(monkeypatch) -> None:
    """The kind is an optional extra that a setting needs."""
    monkeypatch.setattr(streams, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"pip install '/path/to/lva\[redis\]'"):
        streams.Config.model_validate({"fleet": {}})
    assert streams.Config.model_validate({}).fleet is None


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:lva.sock"])
def test_a_fleet_whose_others_could_not_reach_this_agent_is_refused_before_anything_starts(bind):
    """The kind is a setting that another one makes useless: it is told of as other mistakes are."""
    fleet = {"url": "redis://127.0.0.1:1", "agent": "north"}
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(settings(bind, fleet))
    (problem,) = caught.value.problems
    assert f"plugins.streams.config.fleet: bind = {bind!r} does not say where other" in problem
    assert "set address in this table" in problem
    load_plugins(settings(bind, {**fleet, "address": "http://10.0.0.7:5240"}))
    load_plugins(settings("0.0.0.0:5240", fleet))  # noqa: S104 - nothing listens


def settings(bind: str, fleet: dict) -> Settings:
    config = {"config": {"fleet": fleet}}
    return Settings(active_plugins=["streams"], bind=bind, plugins={"streams": config})


@pytest.mark.parametrize(("lease", "left"), [(2.0, 0.3), (3.0, 0.3), (10.0, 0.5), (300.0, 15.0)])
def test_workers_have_time_to_end_before_others_take_over(lease, left):
    """The kind is a process that was told to end and is still there: it needs the processor for that."""
    assert lease - hard_end(lease) == pytest.approx(left)
    assert hard_end(lease) > SOFT * lease
