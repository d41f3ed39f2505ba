"""What a plugin logs and prints while it is tested, as it wrote it: before secrets are masked."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self, TextIO

from lva.host.loading.load import LoadedPlugin
from lva.logs.loggers import CHATTY, current_plugin, plugin_logger, secret_texts
from lva.testing.places import Place, error_place
from lva.testing.report import Breach

#: What every record has; anything else is an extra, which JSON logs show.
_PLAIN: Final = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}


class CapturedLog(logging.Handler):
    """The log records and the printed text of a test, oldest first.

    Use as a context manager: it then sees every record, of whatever level, and what is written to standard
    output and standard error.

    Args:
        alone: Whether other handlers get nothing meanwhile.

    Attributes:
        records: The log records.
    """

    def __init__(self, alone: bool = False) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self._printed = io.StringIO()
        self._alone = alone

    @property
    def messages(self) -> list[str]:
        """The records' messages."""
        return [record.getMessage() for record in self.records]

    @property
    def printed(self) -> str:
        """What was printed."""
        return self._printed.getvalue()

    @property
    def text(self) -> str:
        """All messages, tracebacks and printed text."""
        return "\n".join([*map(_whole, self.records), self.printed])

    def of(self, level: int) -> list[str]:
        """Return the messages of this level and above."""
        return [record.getMessage() for record in self.records if record.levelno >= level]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, unless the service would not let it through at any level."""
        if record.levelno >= logging.WARNING or record.name.partition(".")[0] not in CHATTY:
            self.records.append(record)

    def __enter__(self) -> Self:
        root, own = logging.getLogger(), logging.getLogger("lva")
        self._before = (list(root.handlers), root.level, own.level, own.propagate, own.disabled)
        self._heard: list[tuple[logging.Logger, int]] = []
        root.handlers[:] = [self] if self._alone else [*root.handlers, self]
        root.setLevel(min(root.level, logging.INFO))
        own.setLevel(logging.DEBUG)
        own.propagate = True
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout = _Tee(sys.stdout, self._printed, self._alone)
        sys.stderr = _Tee(sys.stderr, self._printed, self._alone)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._streams
        root, own = logging.getLogger(), logging.getLogger("lva")
        handlers, level, own_level, own.propagate, own.disabled = self._before
        root.handlers[:] = handlers
        root.setLevel(level)
        own.setLevel(own_level)
        for logger, before in reversed(self._heard):
            logger.setLevel(before)

    def hear(self, module: str) -> None:
        """Hear a module's own logger, and those below it, at every level."""
        logger = logging.getLogger(module)
        self._heard.append((logger, logger.level))
        logger.setLevel(logging.DEBUG)


class _Tee(io.TextIOBase):
    """Copies what code of a plugin prints."""

    def __init__(self, stream: TextIO, copy: io.StringIO, alone: bool) -> None:
        self._stream = stream
        self._copy = copy
        self._alone = alone

    def write(self, text: str) -> int:
        self._copy.write(text)
        if not self._alone or current_plugin.get() is None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def __del__(self) -> None:
        """Do not flush, as others do at their end: the stream may have been closed by then."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def secrets_of(loaded: LoadedPlugin) -> set[str]:
    """Return the secrets in a plugin's configuration."""
    configs: Mapping[Any, Any] = loaded.configs
    return set().union(*(secret_texts(config) for config in configs.values()))


def leaked_secrets(log: CapturedLog, name: str, root: str, secrets: Iterable[str]) -> list[Breach]:
    """Return where a plugin wrote a secret, to the log or by printing.

    Args:
        log: What it wrote.
        name: The plugin's name.
        root: What the names of its files begin with.
        secrets: What must not be there.
    """
    secrets = set(secrets)
    problems = []
    for record in log.records:
        text = _whole(record) + _extras(record)
        if any(secret in text for secret in secrets):
            own = record.name == plugin_logger(name).name
            who = "the plugin" if own else f"the logger {record.name!r}"
            problems.append(
                Breach(
                    "secret",
                    f"{who} wrote a secret of the configuration to the log, at level {record.levelname}",
                    Place(record.pathname, record.lineno, record.funcName or "")
                    if record.pathname.startswith(root)
                    else record_place(record),
                    "log what identifies it, not the value; the service masks what it recognizes only",
                )
            )
    if any(secret in log.printed for secret in secrets):
        problems.append(
            Breach("secret", "the plugin printed a secret of the configuration", None, "")
        )
    return list(dict.fromkeys(problems))


def _whole(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit, of a plugin's making
        text = f"{record.msg!r} {record.args!r} ({type(error).__name__})"
    if record.exc_info and record.exc_info[1] is not None:
        text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
    return text


def _extras(record: logging.LogRecord) -> str:
    """Return what was logged besides the message."""
    extras = [value for key, value in record.__dict__.items() if key not in _PLAIN]
    try:
        return "".join(f"\n{value}\n{value!r}" for value in extras)
    except Exception:  # noqa: BLE001 - of a plugin's making; then the service cannot show it either
        return ""


def record_place(record: logging.LogRecord) -> Place | None:
    """Return the plugin's innermost line in the traceback of a record."""
    error = record.exc_info[1] if record.exc_info else None
    return None if error is None else error_place(error)
