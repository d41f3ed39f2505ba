"""What is refused of a body that Python would read as JSON, and what is said of it."""

from __future__ import annotations

import pytest
from werkzeug.exceptions import BadRequest

from lva.web.handling.json_bodies import read_json


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1, "b": [{"roi": 1, "c": 2, "roi": 3}]}', "the key 'roi' is twice in one object"),
        (b'{"a": 1, "\\u0061": 1}', "the key 'a' is twice in one object"),
        (b"[1e999]", "1e999 is too large a number"),
        (b'{"a": -1.5E+400}', "-1.5E+400 is too large a number"),
        (b'{"a": NaN}', "NaN is no number in JSON"),
        (b"9" * 5000, "a number with too many digits"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_two_readers_might_take_for_two_things_is_refused(body: bytes, said: str) -> None:
    """Kind: a document of which some of what was written is left out, or changed, in silence."""
    with pytest.raises(BadRequest) as caught:
        read_json(body)
    assert said in str(caught.value.description)
    assert "sys." not in str(caught.value.description)


@pytest.mark.parametrize(
    "body",
    [
        *('{"a": 1}'.encode(f"utf-{bits}") for bits in ("16", "16-le", "16-be", "32", "32-be")),
        b"\xff\xfe\x00\xd8", b"\xff\xfe\0\0\xff\xff\xff\xff", b"\xe9\xff", b'"\xed\xa0\x80"', b'"\\ud800"',
        b'{"a": ["\\uDfff\\ud800"]}', b'{"\\udc00": 1}', b"[-Infinity]", b'{"a":' * 900, b'"\x01"', b"{} x",
        b"",
    ],
)  # fmt: skip
def test_other_encodings_half_characters_and_what_only_python_reads_are_refused(
    body: bytes,
) -> None:
    with pytest.raises(BadRequest, match="The request's body "):
        read_json(body)


@pytest.mark.parametrize(
    ("body", "read"),
    [(b'\xef\xbb\xbf{"a": 1}', {"a": 1}), (b'"\\ud83d\\ude00"', "\U0001f600"), (b'"\\\\ud800"', "\\ud800"),
     (b"9" * 4000, 10**4000 - 1), (b"[" * 400 + b"]" * 400, None)],
)  # fmt: skip
def test_json_that_is_strange_is_read(body: bytes, read: object) -> None:
    found = read_json(body)
    assert found == read if read is not None else isinstance(found, list)


def test_the_same_key_in_two_objects_and_numbers_of_any_size_are_read() -> None:
    body = b'{"a": {"a": 1}, "b": [{"a": 1e308}, {"a": 1e-999}, {}], "n": 123456789012345678901234567890}'
    found = read_json(body)
    assert found["b"] == [{"a": 1e308}, {"a": 0.0}, {}]
    assert found["n"] == 123456789012345678901234567890
