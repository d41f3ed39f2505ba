import pytest
from pydantic import ValidationError

from lva.video.definition import StreamDefinition

LEAST = {"name": "door", "source": "test:"}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"name": "door"}, "source"),
        ({**LEAST, "name": ""}, "name"),
        ({**LEAST, "colour": 1}, "colour"),
        ({**LEAST, "rate": {"unit": "frame", "value": 1.5}}, "rate"),
        ({**LEAST, "rate": {"unit": "fps", "value": 0}}, "rate.value"),
        ({**LEAST, "roi": {"x": 0, "y": 0, "width": 0, "height": 5}}, "roi.width"),
        ({**LEAST, "analytics": [{"name": "a"}, {"name": "a"}]}, ""),
        ({**LEAST, "analytics": [{"nam": "a"}]}, "analytics.0.name"),
        ({**LEAST, "schedule": [{"begin": "08:00", "end": "08:00"}]}, "schedule.0"),
        ({**LEAST, "eof_retry": {"attempt_count": -1}}, "eof_retry.attempt_count"),
        ({**LEAST, "timeout": float("nan")}, "timeout"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(body, where):
    with pytest.raises(ValidationError) as caught:
        StreamDefinition.model_validate(body)
    assert where in {".".join(map(str, item["loc"])) for item in caught.value.errors()}


def test_the_least_is_a_name_and_a_source():
    assert StreamDefinition.model_validate(LEAST).analytics == []
