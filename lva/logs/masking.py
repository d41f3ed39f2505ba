"""Secrets: which texts are secret, and text without them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr

_MASK: Final = "***"
# Nothing but `://` is looked for first: a pattern that begins with the scheme looks at each letter again.
_USERINFO: Final = re.compile(r"(?<=://)[^/\s:]*:[^/\s]*@")
_SECRET_KEY: Final = re.compile(
    r"secret|token|passw|passphrase|credential|(api|private|access)[_-]?key|\bdsn\b|signature"
    r"|authorization|cookie",
    re.IGNORECASE,
)
#: Shorter values would blot out ordinary words.
_SHORTEST_SECRET: Final = 4
#: How many characters more than a limit are looked at, so that a secret at the cut is masked whole.
_MARGIN: Final = 4096
_secrets: list[str] = []


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


def cut(text: str, limit: int) -> str:
    """Return the beginning of a text, without secrets; at most `limit` characters and a note."""
    shown = redact(text[: limit + _MARGIN])
    if len(text) <= limit + _MARGIN and len(shown) <= limit:
        return shown
    return f"{shown[:limit]}… ({len(text):,} characters)"


def cut_front(text: str, limit: int) -> str:
    """Return the end of a text, without secrets; at most `limit` characters and a note."""
    shown = redact(text[-limit - _MARGIN :])
    return shown if len(shown) <= limit else f"…\n{shown[-limit:]}"
