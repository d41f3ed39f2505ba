"""What is wrong in `[plugins.streams.config.fleet]` is told in words, key by key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lva.fleet.config import FleetConfig
from lva.plugins import streams


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
