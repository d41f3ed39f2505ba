"""Logging: text for people or JSON for machines, with the plugin's name and without secrets."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, TextIO

from pydantic import BaseModel, SecretBytes, SecretStr
from pythonjsonlogger.json import JsonFormatter

#: The name of the plugin whose code is running; inherited by every task and worker thread it starts.
current_plugin: Final[ContextVar[str | None]] = ContextVar("lva_plugin", default=None)
#: The id of the request being handled.
current_request: Final[ContextVar[str | None]] = ContextVar("lva_request", default=None)

_PLUGIN_PREFIX: Final = "lva.plugin."
_MASK: Final = "***"
_USERINFO: Final = re.compile(r"(?<=://)[^/\s:]*:[^/\s]*@")
_SECRET_KEY: Final = re.compile(
    r"secret|token|passw|passphrase|credential|(api|private|access)[_-]?key|\bdsn\b|signature"
    r"|authorization|cookie",
    re.IGNORECASE,
)
#: Loggers that are heard from WARNING on: a line for each request of a plugin's own HTTP client would drown
#: what matters.
CHATTY: Final = ("httpx", "httpcore", "hpack", "h2")
#: Shorter values would blot out ordinary words.
_SHORTEST_SECRET: Final = 4
_secrets: list[str] = []


def plugin_logger(name: str) -> logging.Logger:
    """Return the logger of a plugin."""
    return logging.getLogger(f"{_PLUGIN_PREFIX}{name}")


def keep_secret(config: Any) -> None:
    """Mask the secrets in a plugin's configuration wherever they would be logged or shown.

    Secrets are pydantic's secret types, and plain text under a key that is named like one.
    """
    if new := secret_texts(config).difference(_secrets):
        # At once, since other threads may be redacting.
        _secrets[:] = sorted([*_secrets, *new], key=len, reverse=True)


def secret_texts(config: Any) -> set[str]:
    """Return the texts that are secret in a plugin's configuration, in each form that they are shown in."""
    forms: set[str] = set()
    for value in _find_secrets(config, named=False):
        if len(value) >= _SHORTEST_SECRET:
            shown = repr(value)[1:-1]
            forms |= {value, shown, json.dumps(value)[1:-1], json.dumps(shown)[1:-1]}
    return forms


def masked(value: Any, secret: bool = False) -> Any:
    """Return a plugin's configuration as plain values for JSON, with every secret masked.

    Args:
        value: A configuration or a part of it.
        secret: Whether it stands under a key that is named like a secret.
    """
    if isinstance(value, SecretStr | SecretBytes):
        return _MASK
    if isinstance(value, BaseModel):
        return masked(dict(value), secret)
    if isinstance(value, Mapping):
        return {
            key: masked(item, secret or bool(_SECRET_KEY.search(key)))
            for key, item in ((_as_text(key), item) for key, item in value.items())
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(item, secret) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if secret:
        return _MASK
    if isinstance(value, int | float):
        return value if math.isfinite(value) else str(value)
    return redact(_as_text(value))


def _as_text(value: Any) -> str:
    """Return a plugin's own kind of value as text, whatever its methods do."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - it is the plugin's code
        return f"<{type(value).__name__}, whose text cannot be had: {type(error).__name__}>"


def _find_secrets(value: Any, named: bool) -> Iterable[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode(errors="replace")
    elif isinstance(value, BaseModel):
        yield from _find_secrets(dict(value), named)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _find_secrets(item, named or bool(_SECRET_KEY.search(_as_text(key))))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _find_secrets(item, named)
    elif named and isinstance(value, str):
        yield value


def redact(text: str) -> str:
    """Return the text without known secrets and without the passwords in URLs."""
    for secret in _secrets:
        text = text.replace(secret, _MASK)
    # Most lines have no @, and every line that is logged comes by here.
    return _USERINFO.sub(f"{_MASK}@", text) if "@" in text else text


def brief(error: BaseException, limit: int = 300) -> str:
    """Return ``Type: message`` on one line, redacted and cut at `limit` characters."""
    try:
        message = " ".join(str(error).split())
    except Exception as broken:  # noqa: BLE001 - an error of a plugin may even fail to describe itself
        message = f"(its message cannot be read: {type(broken).__name__})"
    text = redact(f"{type(error).__name__}: {message}" if message else type(error).__name__)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class _ContextFilter(logging.Filter):
    """Adds the plugin's name and the request's id to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(_PLUGIN_PREFIX):
            record.plugin = record.name.removeprefix(_PLUGIN_PREFIX)
        elif (plugin := current_plugin.get()) is not None and not record.name.startswith("lva."):
            record.plugin = plugin  # a library's record, on behalf of the plugin
        if (request := current_request.get()) is not None:
            record.request_id = request
        return True


#: Marks each record with whose it is; every handler has it.
NAMES_PLUGIN: Final = _ContextFilter()


class TextFormatter(logging.Formatter):
    """One line for people: time, level, plugin or logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(where)s  %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock}.{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        plugin = getattr(record, "plugin", None)
        own = plugin is not None and record.name.startswith(_PLUGIN_PREFIX)
        record.where = plugin if own else f"{plugin}/{record.name}" if plugin else record.name
        lines = [super().format(record), *_indented(getattr(record, "tasks", ()))]
        return redact("\n".join(lines))


def _indented(tasks: Iterable[Mapping[str, Any]], indent: str = "  ") -> Iterator[str]:
    """Yield a line for each task of a tree."""
    for task in tasks:
        yield f"{indent}task {task['name']} at {task['where']}"
        yield from _indented(task["children"], indent + "  ")


class _JsonFormatter(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            "{created}{levelname}{name}{message}",
            style="{",
            rename_fields={
                "created": "time",
                "levelname": "level",
                "name": "logger",
                "exc_info": "exception",
            },
        )

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send all records of the process to `stream` (standard error) in the chosen form.

    Args:
        level: The least severe level that is written.
        form: ``text`` or ``json``.
        stream: Where to; standard error if left out.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(NAMES_PLUGIN)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
