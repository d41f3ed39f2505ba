"""What plugin code does to the process's logging neither silences nor fails anybody, and is said once.

The kind: logging is the whole process's, and libraries set it up as if it were theirs.
"""

from __future__ import annotations

import logging
import logging.config
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lva.host.process.logs import logging_pieces
from lva.host.process.state import ProcessState
from lva.logs import loggers as logs
from lva.logs.loggers import own_logger, plugin_logger
from tests.log_lines import Lines, kept_lines


@pytest.fixture
def lines() -> Iterator[Lines]:
    with kept_lines() as kept:
        logging.getLogger("library")
        own_logger("cam")
        logs.set_up("INFO", "json", kept)
        yield kept


class RaisingHandler(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("handler")


class ExitingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(3)


class RaisingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("filter")


class RaisingLogger(logging.Logger):
    def handle(self, record: logging.LogRecord) -> None:
        raise RuntimeError("logger")


def raising_factory(*_: Any, **__: Any) -> logging.LogRecord:
    raise RuntimeError("factory")


def exiting_factory(*_: Any, **__: Any) -> logging.LogRecord:
    raise SystemExit(3)


def _configured(tmp_path: Path) -> None:
    path = tmp_path / "logging.ini"
    path.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=c\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=DEBUG\nhandlers=c\n"
        "[handler_c]\nclass=StreamHandler\nargs=(sys.stdout,)\n"
    )
    logging.config.fileConfig(path)


_CONSOLE = {"class": "logging.StreamHandler"}
#: Each with what is said of it.
ACTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dictConfig": (
        lambda _: logging.config.dictConfig(
            {"version": 1, "handlers": {"c": _CONSOLE}, "root": {"level": "ERROR", "handlers": ["c"]}}
        ),
        "the service's was removed",
    ),
    "dictConfig without a root": (
        lambda _: logging.config.dictConfig({"version": 1}),
        "loggers, which were disabled",
    ),
    "fileConfig": (_configured, "the service's was removed"),
    "basicConfig(force)": (
        lambda _: logging.basicConfig(force=True, level="DEBUG"),
        "the service's was removed",
    ),
    "handlers.clear()": (lambda _: logging.root.handlers.clear(), "the service's was removed"),
    "disable()": (lambda _: logging.disable(), "logging.disable()"),
    "shutdown()": (lambda _: logging.shutdown(), ""),
    "level of root": (lambda _: logging.root.setLevel("CRITICAL"), "the root logger's level"),
    "root.disabled": (lambda _: setattr(logging.root, "disabled", True), "loggers, which were disabled"),
    "level of the handler": (
        lambda _: logging.root.handlers[0].setLevel("CRITICAL"),
        "the level of the service's log handler",
    ),
    "a filter on the handler": (
        lambda _: logging.root.handlers[0].addFilter(RaisingFilter()),
        "",
    ),
    "a filter on root": (lambda _: logging.root.addFilter(RaisingFilter()), ""),
    "a formatter": (
        lambda _: logging.root.handlers[0].setFormatter(logging.Formatter("%(nothing)s")),
        "",
    ),
    "the handler closed": (lambda _: logging.root.handlers[0].close(), ""),
    "a handler that raises": (lambda _: logging.root.addHandler(RaisingHandler()), ""),
    "a handler that exits": (lambda _: logging.root.addHandler(ExitingHandler()), ""),
    "a handler of all plugins' records": (
        lambda _: logging.getLogger("lva.plugin").addHandler(RaisingHandler()),
        "",
    ),
    "a record factory that exits": (
        lambda _: logging.setLogRecordFactory(exiting_factory),
        "record factory",
    ),
    "a record factory": (
        lambda _: logging.setLogRecordFactory(raising_factory),
        "record factory",
    ),
    "a logger class": (lambda _: logging.setLoggerClass(RaisingLogger), "the class of loggers"),
    "propagate": (
        lambda _: setattr(own_logger("cam"), "propagate", False),
        "the propagation of loggers",
    ),
    "propagate of lva": (
        lambda _: setattr(logging.getLogger("lva"), "propagate", False),
        "the propagation of loggers",
    ),
    "captureWarnings": (lambda _: logging.captureWarnings(True), ""),
    "captureWarnings off": (lambda _: logging.captureWarnings(False), ""),
    "showwarning": (lambda _: setattr(warnings, "showwarning", print), "warnings.showwarning"),
    "lastResort": (lambda _: setattr(logging, "lastResort", None), ""),
    "stderr = None": (lambda _: setattr(sys, "stderr", None), ""),
    "raiseExceptions": (lambda _: setattr(logging, "raiseExceptions", True), ""),
}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_an_act_is_put_back_and_said_once(
    lines: Lines, act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in (
        (logging, "lastResort"),
        (logging, "raiseExceptions"),
        (logging, "_warnings_showwarning"),
        (sys, "stderr"),
        (logging.root, "filters"),
        (own_logger("cam"), "propagate"),
        (logging.getLogger("lva"), "propagate"),
        (logging.getLogger("lva.plugin"), "handlers"),
    ):
        value = getattr(owner, name)
        monkeypatch.setattr(owner, name, value[:] if isinstance(value, list) else value)
    state = ProcessState(logging_pieces())
    do, said = ACTS[act]
    do(tmp_path)
    plugin_logger("cam").info("the service, at once")
    assert lines.messages == ["the service, at once"]
    changes = [change.text for change in state.put_back()]
    assert any(said in text for text in changes) or not said
    assert state.put_back() == []
    lines.lines.clear()
    logging.getLogger("library").info("a library")
    own_logger("cam").info("the plugin")
    own_logger("other").info("another")
    logging.getLogger(f"library.{id(do)}").info("a new library")
    warnings.showwarning("odd", UserWarning, "x.py", 1)
    told = [
        record["message"].strip() for record in lines.records if record["logger"] != "lva.service"
    ]
    assert told == [
        "a library",
        "the plugin",
        "another",
        "a new library",
        "x.py:1: UserWarning: odd",
    ]


def test_a_handler_that_raises_is_named_once(lines: Lines) -> None:
    state = ProcessState(logging_pieces())
    logging.root.addHandler(RaisingHandler())
    state.put_back()
    own_logger("other").info("first")
    own_logger("other").info("second")
    named = [record for record in lines.records if "RaisingHandler, failed" in record["message"]]
    assert len(named) == 1
    assert "RuntimeError: handler" in named[0]["exception"]


def test_handlers_of_a_plugins_own_stay(lines: Lines, tmp_path: Path) -> None:
    state = ProcessState(logging_pieces())
    mine = logging.FileHandler(tmp_path / "mine.log")
    logging.root.addHandler(mine)
    state.put_back()
    own_logger("cam").info("to the file")
    mine.close()
    assert (tmp_path / "mine.log").read_text() == "to the file\n"
    assert lines.messages == ["to the file"]


def test_a_record_factory_that_works_is_used(lines: Lines) -> None:
    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **options)
        record.trace_id = "abc"
        return record

    state = ProcessState(logging_pieces())
    logging.setLogRecordFactory(factory)
    state.put_back()
    own_logger("cam").info("traced")
    assert lines.records[-1]["trace_id"] == "abc"
