"""How the key of what is wrong is written, for people and as a JSON pointer."""

import pytest

from lva import WrongKey, WrongKeysError


@pytest.mark.parametrize(
    ("path", "key", "pointer"),
    [
        ((), "", "#"),
        (
            ("analytics", 0, "parameters", "x"),
            "analytics[0].parameters.x",
            "#/analytics/0/parameters/x",
        ),
        (("a/b~c",), "['a/b~c']", "#/a~1b~0c"),
        (("p", ""), "p['']", "#/p/"),
    ],
)
def test_a_path_is_written_for_people_and_programs(path, key, pointer):
    wrong = WrongKey(path, "no")
    assert wrong.as_dict() == {"key": key, "pointer": pointer, "detail": "no"}


def test_what_is_wrong_within_a_part_is_told_of_the_whole():
    error = WrongKeysError(WrongKey((), "no"), WrongKey((1,), "odd")).below("list")
    assert str(error) == "list: no; list[1]: odd"
