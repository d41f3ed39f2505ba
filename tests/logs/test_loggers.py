"""The two log forms, and that no secret gets into them."""

from __future__ import annotations

import json
import logging
import re
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr

from lva.host.receipt import Receipt
from lva.logs import loggers as logs
from lva.logs import masking
from lva.logs.loggers import (
    brief,
    current_plugin,
    current_request,
    keep_secret,
    masked,
    plugin_logger,
    redact,
)
from lva.logs.records import LONGEST_MESSAGE, coloured_form, entry_of, json_form, text_form
from lva.server.terminal import tell_receipt
from tests.log_lines import kept_lines


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    monkeypatch.setattr(masking, "_secrets", [])


@pytest.fixture
def lines():
    """Log as the service does, to a list of lines; undo it afterwards."""
    with kept_lines() as kept:
        yield kept


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


@pytest.mark.slow("a hundred secrets, each with its patterns")
@given(
    # Text that the record holds anyway would be masked there, too.
    secret=st.text(min_size=4).filter(lambda text: "*" not in text and text not in "is x   and "),
    form=st.sampled_from(["text", "json"]),
)
def test_no_form_of_a_secret_gets_into_the_log(secret, form):
    masking._secrets.clear()
    keep_secret({"password": secret})
    make_line = json_form if form == "json" else text_form
    record = logging.LogRecord("x", 30, __file__, 1, "is %s and %r", (secret, secret), None)
    record.extra_value = secret
    said = make_line(entry_of(record))
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


def test_the_text_form(lines):
    logs.set_up("INFO", "text", lines)
    plugin_logger("teapot").warning("boils at %d", 100)
    plugin_logger("teapot").debug("not shown")
    logging.getLogger("lva.host").info("hello")
    first, second = lines.lines
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING  teapot  boils at 100", first)
    assert second.endswith("INFO     lva.host  hello")


def test_the_json_form(lines):
    keep_secret({"password": 'hun"ter\\22'})
    logs.set_up("DEBUG", "json", lines)
    token = current_request.set("1,abc")
    try:
        plugin_logger("teapot").info("with %s", 'hun"ter\\22', extra={"phase": "start()"})
    finally:
        current_request.reset(token)
    try:
        raise ValueError('it is hun"ter\\22')
    except ValueError:
        logging.getLogger("other").exception("failed")
    first, second = map(json.loads, lines.lines)
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


def test_a_message_that_cannot_be_formatted_or_serialized_is_still_a_record(lines):
    logs.set_up("INFO", "json", lines)
    logging.getLogger("x").info("odd", extra={"value": object(), "nan": float("nan")})
    assert json.loads(lines.lines[0])["message"] == "odd"


def test_one_record_of_foreign_text_stays_one_line(lines):
    logs.set_up("INFO", "json", lines)
    plugin_logger("p").info("first\n12:00:00.000 CRITICAL lva.host  forged")
    assert len(lines.lines) == 1


def test_setting_up_twice_writes_once(lines):
    logs.set_up("INFO", "text", lines)
    logs.set_up("INFO", "text", lines)
    logging.getLogger("x").info("once")
    assert str(lines.lines).count("once") == 1


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


def test_a_long_record_is_cut_and_no_half_of_a_secret_stays(lines):
    keep_secret({"password": "correct-horse-battery"})
    logs.set_up("INFO", "json", lines)
    for padding in range(LONGEST_MESSAGE - 22, LONGEST_MESSAGE + 2):
        logging.getLogger("x").info("%scorrect-horse-battery%s", "x" * padding, "y" * 1_000_000)
    logging.getLogger("x").info("extra", extra={"blob": "z" * 1_000_000})
    assert all(len(line) < 2 * LONGEST_MESSAGE for line in lines.lines)
    assert not any("corr" in line for line in lines.lines)


def test_what_the_arguments_of_a_record_raise_is_contained(lines):
    """The kind: whatever a plugin's object can run when the service writes it, in each form and place."""

    class Hostile:
        def __str__(self):
            raise SystemExit(3)

        __repr__ = __str__

    class MuteError(Exception):
        def __str__(self):
            raise KeyboardInterrupt

    logs.set_up("INFO", "json", lines)
    for logger in (logging.getLogger("x"), plugin_logger("p")):
        logger.info("argument %s", Hostile())
        logger.info(Hostile())
        logger.info("extra", extra={"value": Hostile(), "tasks": 7})
        logger.error("error", exc_info=MuteError())
        logger.info("too few %s %s", *[1])
    assert len(lines.records) == 10
    assert lines.messages[0] == "argument %s (its arguments cannot be written: SystemExit)"
    assert "MuteError" in lines.records[3]["exception"]


def test_a_record_is_written_in_the_thread_that_logs_it_and_under_no_lock(lines):
    """The kind: code of a plugin that logging runs, which must not stop others that log meanwhile."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow:
        def __str__(self):
            entered.set()
            assert go_on.wait(20)
            return "slow"

    logs.set_up("INFO", "json", lines)
    thread = threading.Thread(target=logging.getLogger("x").info, args=("it is %s", Slow()))
    thread.start()
    assert entered.wait(20)
    logging.getLogger("x").info("meanwhile")
    plugin_logger("p").info("the service too")
    assert lines.messages == ["meanwhile", "the service too"]
    go_on.set()
    thread.join()
    assert lines.messages[-1] == "it is slow"


def test_colours_are_for_warnings_and_errors():
    def line(level):
        return coloured_form(entry_of(logging.LogRecord("x", level, "", 1, "boo\nmore", (), None)))

    assert line(logging.ERROR).startswith("\x1b[31m")
    assert line(logging.WARNING).endswith("x  boo\x1b[0m\nmore")
    assert "\x1b" not in line(logging.INFO)


@pytest.mark.parametrize(
    ("environment", "wanted"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_who_wants_no_colours_gets_none(monkeypatch, environment, wanted):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert logs._wants_colours() == wanted


def test_warnings_and_errors_that_nobody_can_catch_are_logged_with_their_plugin(lines):
    """The kind: what Python itself would write to standard error, without a limit, waiting for a reader."""
    logs.set_up("INFO", "json", lines)
    source = "def fail(*_):\n    raise ValueError('no')\nclass Thing:\n    __del__ = fail\n"
    module = {"__name__": "lva_plugins.cam.parts"}
    exec(source, module)
    module["Thing"]()
    thread = threading.Thread(target=module["fail"], name="helper")
    thread.start()
    thread.join()
    token = current_plugin.set("cam")
    warnings.showwarning(UserWarning("odd"), UserWarning, "cam.py", 7)
    current_plugin.reset(token)
    deleted, ended, warned = lines.records
    assert [record["plugin"] for record in lines.records] == ["cam"] * 3
    assert "fail" in deleted["message"]
    assert deleted["exception"].endswith("ValueError: no")
    assert ended["message"] == "an error ended the thread helper"
    assert warned["message"] == "cam.py:7: UserWarning: odd"


def test_the_receipt_is_no_matter_of_level(lines):
    logs.set_up("CRITICAL", "json", lines)
    tell_receipt(Receipt("told to", 0, 1.0, []))
    (record,) = lines.records
    assert record["receipt"]["exit_code"] == 0


def test_a_long_receipt_is_written_whole(lines):
    logs.set_up("INFO", "text", lines)
    tell_receipt(Receipt("x" * 500_000, 0, 1.0, []))
    (line,) = lines.lines
    assert json.loads(line.partition("receipt ")[2])["reason"] == "x" * 500_000


def test_at_a_terminal_the_receipt_is_a_table_alone(lines):
    out = logs.set_up("INFO", "text", lines)
    out.tables = True
    tell_receipt(Receipt("told to", 0, 1.0, []))
    (table,) = lines.lines
    assert "stopped: told to; exit code 0 after 1.00 s" in table
    assert "{" not in table


def test_the_service_speaks_by_loggers_of_its_own():
    """The kind: a record of the service's that goes the ways of `logging`, which plugins may change."""
    package = Path(logs.__file__).parent
    found = [
        f"{path.relative_to(package)}:{number}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "testing"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if 'getLogger("lva' in line
    ]
    assert found == []
