import pytest

from lva.contract import AnalyticsInfo
from lva.plugins.motion import Motion
from lva.routes.wrong_keys import WrongKeysError
from lva.video.definition import StreamDefinition, parse_definition
from lva.video.geometry import placed

LEAST = {"name": "door", "source": "test:"}
HALF = {"mode": "percent", "x": 50, "y": 0, "width": 50, "height": 100}
CALLBACK = {"type": "http", "url": "http://x"}
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
        ({**LEAST, "rate": {"unit": "fps", "value": 1e-320}}, "rate.value"),
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
    assert (definition.analytics, definition.autorestart, definition.priority) == ([], None, 10)


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


WORDS = {
    "roi": (
        {"roi": {"width": 1.5, "height": 5}},
        "roi: x, y, width and height are whole numbers where mode is abs",
    ),
    "a slip": ({"analytic": []}, "analytic: unknown key; did you mean 'analytics'?"),
    "no object": ({"roi": 5}, "roi: Input should be an object"),
    "too many": ({"callbacks": [CALLBACK] * 11}, "callbacks: Array should have at most 10 items, not 11"),
    "one of some types": (
        {"callbacks": [{**CALLBACK, "conditions": {"where": [{"path": "a", "equals": [1]}]}}]},
        "callbacks[0].conditions.where[0].equals: it is a text, a number, true, false or null",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_a_refusal_is_in_the_words_of_json(case):
    """Kind: names of Python's types and of our classes, and as many complaints as a value has types."""
    changes, said = WORDS[case]
    with pytest.raises(WrongKeysError) as caught:
        parse_definition({**LEAST, **changes})
    assert str(caught.value) == said


PARAMETERS = {
    "regions[0].shape: Input should be an object": {"name": "a", "shape": 5},
    "regions[0].shape.width: Field required": {"name": "a", "shape": {"height": 1}},
    "regions[0].shape.points: Array should have at least 3 items, not 1": {
        "name": "a", "shape": {"points": [[1, 2]]}
    },
    "regions[0]: Input should be an object": 5,
}  # fmt: skip


@pytest.mark.parametrize("said", PARAMETERS)
def test_so_is_one_of_analytics_parameters(said):
    """The kind is a value of one of several shapes: what it lacks is told of the one that it looks like."""
    motion = AnalyticsInfo("motion", Motion, "motion", "motion.py", {}, {})
    with pytest.raises(WrongKeysError) as caught:
        motion.parameters({"regions": [PARAMETERS[said]]})
    assert str(caught.value) == said


def test_a_region_outside_of_the_picture_is_told_in_plain_words():
    with pytest.raises(ValueError, match=r"^9x8 at 700,0 is outside of the picture of 640x360$"):
        placed(700, 0, 9, 8, "abs", (640, 360))
