"""Where plugins post to: which URLs and headers a user may give, and what of a URL may be shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import httpx

#: The name of a header that a user may set, and a header's value.
_NAME: Final = re.compile(
    r"(?!(?:webhook-.*|content-(?:type|length|encoding)|transfer-encoding|connection|host)\Z)"
    r"[!#$%&'*+.^_`|~0-9a-z-]+",
    re.IGNORECASE,
)
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
#: Shorter parts of an address or a header would blot out ordinary words.
_SHORTEST: Final = 6


def check_url(text: str) -> None:
    """Refuse what is no address to post to.

    Raises:
        ValueError: It is none; the message does not have it, as it may hold a key.
    """
    try:
        url = httpx.URL(text)
        right = url.scheme in {"http", "https"} and url.host and not (url.userinfo or url.fragment)
    except (httpx.InvalidURL, UnicodeError):
        right = False
    if not right:
        raise ValueError("a URL is like https://example.org/path; a password belongs into headers")


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that cannot be sent, or that the sender sets itself.

    Raises:
        ValueError: One is wrong; the message has its name only.
    """
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:100]!r} is no header's name, or one that the plugin sets")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {name} must be printable ASCII text")


def origin(url: httpx.URL) -> str:
    """Return the part of a URL that is no secret."""
    return f"{url.scheme}://{url.netloc.decode()}"


def private_words(url: httpx.URL, values: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for what a response may quote of a URL and of headers, whole or in part."""
    texts = [*values, url.raw_path.decode()]
    words = {word for text in texts for word in [text, *re.split(r"[\s/?&=]+", text)]}
    longest_first = sorted(
        (word for word in words if len(word) >= _SHORTEST), key=len, reverse=True
    )
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
