"""The two log forms, and that no secret gets into them."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr

from lva import logs
from lva.logs import brief, current_request, keep_secret, masked, plugin_logger, redact


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    monkeypatch.setattr(logs, "_secrets", [])


@pytest.fixture
def stream(monkeypatch):
    """Log as the service does, to a stream; undo it afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "hpack", "h2")}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


class Config(BaseModel):
    user: str = "gate"
    pin: SecretStr = SecretStr("s3cr3t-pin")
    key: SecretBytes = SecretBytes(b"byte-secret")


class Nested(BaseModel):
    inner: Config = Config()
    more: list[Config] = [Config(pin=SecretStr("second-pin"))]
    others: frozenset[SecretStr] = frozenset({SecretStr("third-pin")})


def test_secret_types_are_masked_wherever_they_are():
    keep_secret(Nested())
    said = redact("gate s3cr3t-pin byte-secret second-pin third-pin")
    assert said == "gate *** *** *** ***"


@pytest.mark.parametrize(
    "key",
    ["password", "db_password", "passwd", "PASSWORD", "api_key", "apikey", "secret", "client_secret",
     "token", "access_token", "credential", "credentials", "private_key", "access_key", "dsn",
     "X-Api-Key", "api-key", "Authorization", "Cookie", "passphrase"],
)  # fmt: skip
def test_plain_values_under_a_telling_key_are_masked(key):
    keep_secret({"outer": [{key: "hunter22"}], "name": "visible"})
    assert redact("visible hunter22") == "visible ***"


def test_everything_below_a_telling_key_is_masked():
    keep_secret({"credentials": {"user": "someone", "list": ["another"]}})
    assert redact("someone another") == "*** ***"


@pytest.mark.parametrize("key", ["name", "path", "author", "keyboard", "monkey", "passage"])
def test_ordinary_keys_are_not(key):
    keep_secret({key: "hunter22"})
    assert redact("hunter22") == "hunter22"


def test_short_values_and_other_types_do_not_blot_out_the_log():
    keep_secret({"token": "abc", "password": 12345, "secret": None, "api_key": True})
    assert redact("abc 12345 None True") == "abc 12345 None True"


def test_the_longest_secret_goes_first():
    keep_secret({"password": "hunter"})
    keep_secret({"password": "hunter-and-more"})
    assert redact("hunter-and-more hunter") == "*** ***"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("postgresql://gate:hunter22@db/x", "postgresql://***@db/x"),
        ("amqp+ssl://:hunter22@mq", "amqp+ssl://***@mq"),
        (
            "to http://u:hunter22@h:80/p?q and https://u:hunter22@i",
            "to http://***@h:80/p?q and https://***@i",
        ),
        ("http://host:80/path@x", "http://host:80/path@x"),
        ("mail me@example.org", "mail me@example.org"),
        ("http://u:hun@ter22@h/", "http://***@h/"),
    ],
)
def test_passwords_in_urls_are_masked_without_being_known(text, safe):
    assert redact(text) == safe


@given(
    # Text that the record holds anyway would be masked there, too.
    secret=st.text(min_size=4).filter(lambda text: "*" not in text and text not in "is x   and "),
    form=st.sampled_from(["text", "json"]),
)
def test_no_form_of_a_secret_gets_into_the_log(secret, form):
    logs._secrets.clear()
    keep_secret({"password": secret})
    formatter = logs._JsonFormatter() if form == "json" else logs.TextFormatter()
    record = logging.LogRecord("x", 30, __file__, 1, "is %s and %r", (secret, secret), None)
    record.extra_value = secret
    said = formatter.format(record)
    message = json.loads(said)["message"] if form == "json" else said.partition(" x  ")[2]
    if form == "json":
        assert json.loads(said)["extra_value"] == "***"
    assert re.fullmatch(r"is \*\*\* and ['\"]?\*\*\*['\"]?", message), message


def test_brief_is_one_safe_line():
    keep_secret({"password": "hunter22"})
    assert brief(ValueError("a\nb   hunter22")) == "ValueError: a b ***"
    assert brief(KeyError()) == "KeyError"
    cut = brief(ValueError("x" * 1000))
    assert len(cut) == 300
    assert cut.endswith("…")

    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError

    assert brief(MuteError()) == "MuteError: (its message cannot be read: RuntimeError)"


def test_the_text_form(stream):
    logs.set_up("INFO", "text", stream)
    plugin_logger("teapot").warning("boils at %d", 100)
    plugin_logger("teapot").debug("not shown")
    logging.getLogger("lva.host").info("hello")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING  teapot  boils at 100", first)
    assert second.endswith("INFO     lva.host  hello")


def test_the_json_form(stream):
    keep_secret({"password": 'hun"ter\\22'})
    logs.set_up("DEBUG", "json", stream)
    token = current_request.set("1,abc")
    try:
        plugin_logger("teapot").info("with %s", 'hun"ter\\22', extra={"phase": "start()"})
    finally:
        current_request.reset(token)
    try:
        raise ValueError('it is hun"ter\\22')
    except ValueError:
        logging.getLogger("other").exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["level"] == "INFO"
    assert first["logger"] == "lva.plugin.teapot"
    assert first["plugin"] == "teapot"
    assert first["request_id"] == "1,abc"
    assert first["message"] == "with ***"
    assert first["phase"] == "start()"
    assert isinstance(first["time"], float)
    assert second["exception"].endswith("ValueError: it is ***")
    assert "Traceback" in second["exception"]
    assert "plugin" not in second


def test_a_message_that_cannot_be_formatted_or_serialized_is_still_a_record(stream):
    logs.set_up("INFO", "json", stream)
    logging.getLogger("x").info("odd", extra={"value": object(), "nan": float("nan")})
    assert json.loads(stream.getvalue())["message"] == "odd"


@pytest.mark.parametrize("form", ["text", "json"])
def test_one_record_of_foreign_text_stays_one_line(stream, form):
    logs.set_up("INFO", form, stream)
    plugin_logger("p").info("first\n12:00:00.000 CRITICAL lva.host  forged")
    if form == "json":
        assert len(stream.getvalue().splitlines()) == 1


def test_setting_up_twice_writes_once(stream):
    logs.set_up("INFO", "text", stream)
    logs.set_up("INFO", "text", stream)
    logging.getLogger("x").info("once")
    assert stream.getvalue().count("once") == 1


def test_a_configuration_is_shown_with_its_secrets_masked() -> None:
    class Inner(BaseModel):
        key: SecretStr = SecretStr("abcd-hidden")
        path: Path = Path("/x")

    config = {
        "url": "http://me:hidden@there/",
        "tokens": ["hidden-1", {"a": "hidden-2", "n": 3}],
        "inner": Inner(),
        "ratio": float("nan"),
        "on": True,
        "none": None,
        "some": {"a"},
        "n": 7,
    }
    shown = masked(config)
    assert "hidden" not in json.dumps(shown)
    assert shown == {
        "url": "http://***@there/",
        "tokens": ["***", {"a": "***", "n": "***"}],
        "inner": {"key": "***", "path": "/x"},
        "ratio": "nan",
        "on": True,
        "none": None,
        "some": ["a"],
        "n": 7,
    }


def test_a_configuration_is_shown_whatever_the_texts_of_its_values_do() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    odd = "<Odd, whose text cannot be had: RuntimeError>"
    config = {"plain": 1, "odd": Odd(), "list": [Odd()], "key": {Odd(): "value"}, "token": Odd()}
    assert masked(config) == {
        "plain": 1, "odd": odd, "list": [odd], "key": {odd: "value"}, "token": "***",
    }  # fmt: skip
    keep_secret(config)
