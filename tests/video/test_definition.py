import pytest

from lva.routes.wrong_keys import WrongKeysError
from lva.video.definition import StreamDefinition, parse_definition

LEAST = {"name": "door", "source": "test:"}
HALF = {"mode": "percent", "x": 50, "y": 0, "width": 50, "height": 100}
DAY = {"begin": "08:00", "end": "18:00"}


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"name": "door"}, "source"),
        ({**LEAST, "name": ""}, "name"),
        ({**LEAST, "name": "x" * 201}, "name"),
        ({**LEAST, "name": "door\nERROR"}, "name"),
        ({**LEAST, "name": "door\u2028"}, "name"),
        ({**LEAST, "source": 5}, "source"),
        ({**LEAST, "colour": 1}, "colour"),
        ({**LEAST, "rate": {"unit": "frame", "value": 1.5}}, "rate.value"),
        ({**LEAST, "rate": {"unit": "fps", "value": 0}}, "rate.value"),
        ({**LEAST, "rate": {"unit": "key", "value": 3}}, "rate.value"),
        ({**LEAST, "rate": {"unit": "hz"}}, "rate.unit"),
        ({**LEAST, "roi": {"x": 0, "y": 0, "width": 0, "height": 5}}, "roi.width"),
        ({**LEAST, "roi": {"width": 1.5, "height": 5}}, "roi"),
        ({**LEAST, "roi": {**HALF, "x": 51}}, "roi"),
        ({**LEAST, "roi": HALF, "droi": {"width": 9, "height": 9}}, "droi"),
        ({**LEAST, "roi": HALF, "droi": {**HALF, "x": 40}}, "droi"),
        ({**LEAST, "analytics": [{"name": "a"}, {"name": "a"}]}, "analytics"),
        ({**LEAST, "analytics": [{"nam": "a"}]}, "analytics[0].name"),
        ({**LEAST, "schedule": [{"begin": "08:00", "end": "08:00"}]}, "schedule[0].end"),
        ({**LEAST, "schedule": [DAY, {**DAY, "begin": "08:00Z"}]}, "schedule[1].begin"),
        ({**LEAST, "schedule": [{**DAY, "days": []}]}, "schedule[0].days"),
        ({**LEAST, "schedule": [DAY], "time_zone": "Mars/Olympus"}, "time_zone"),
        ({**LEAST, "schedule": [DAY], "time_zone": "../etc/passwd"}, "time_zone"),
        ({**LEAST, "time_zone": "Europe/Berlin"}, "time_zone"),
        ({**LEAST, "eof_retry": {"attempt_count": -1}}, "eof_retry.attempt_count"),
        ({**LEAST, "decode_error_retry": {"delay": 0}}, "decode_error_retry.delay"),
        ({**LEAST, "autorestart": {"attempt_count": 0}}, "autorestart.attempt_count"),
        ({**LEAST, "timeout": float("nan")}, "timeout"),
        ({**LEAST, "memory_limit": 1}, "memory_limit"),
        ({**LEAST, "priority": -1}, "priority"),
        ([], "the body"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(body, key):
    """The kind is an unknown key, a value out of its range, and two keys that contradict each other."""
    with pytest.raises(WrongKeysError) as caught:
        parse_definition(body)
    assert key in {str(problem).partition(": ")[0] for problem in caught.value.problems}


def test_the_least_is_a_name_and_a_source():
    definition = parse_definition(LEAST)
    assert (definition.analytics, definition.autorestart, definition.priority) == ([], None, 0)


def test_what_is_kept_is_read_again_as_it_was():
    whole = {
        **LEAST,
        "roi": HALF,
        "droi": {**HALF, "x": 60, "width": 40},
        "rate": {"unit": "key"},
        "schedule": [{"begin": "00:00", "end": "24:00", "days": ["sat"]}, DAY],
        "time_zone": "Europe/Berlin",
        "autorestart": True,
    }
    definition = parse_definition(whole)
    assert definition.autorestart is not None
    assert definition.autorestart.delay == 60
    assert StreamDefinition.model_validate_json(definition.model_dump_json()) == definition
