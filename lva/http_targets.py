"""Where plugins post to: which URLs and headers a user may give, what of a URL may be shown, and a client."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

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


def new_client(
    ca_file: Path | None, headers: Mapping[str, str], **options: Any
) -> httpx.AsyncClient:
    """Return a client without proxies, cookies, or a limit on the time of a request; for a worker thread.

    Args:
        ca_file: Certificates to trust instead of the public authorities'.
        headers: Those of every request; responses are asked for without an encoding.
        **options: More of `httpx.AsyncClient`.

    Raises:
        ValueError: There are no certificates in `ca_file`.
    """
    verify: ssl.SSLContext | bool = True
    if ca_file is not None:
        try:
            verify = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ValueError(f"ca_file {ca_file} cannot be used: {error}") from error
    return httpx.AsyncClient(
        verify=verify,
        trust_env=False,
        timeout=None,  # noqa: S113 - who posts limits the whole
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"Accept-Encoding": "identity", **headers},
        **options,
    )


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
