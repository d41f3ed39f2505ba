"""The console's files: a page and what it needs, all from this package, compressed once.

The page names its parts under the digest of them all, so that browsers keep them for good and yet never mix
two versions.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from quart import Response
from quart_trio.wrappers import TrioResponse

from lva.web.problems import Problem

ROOT: Final = Path(__file__).parent / "console"
PAGE: Final = "index.html"
#: What stands in the page for the place of its parts.
_PLACE: Final = b"{{place}}"
#: Nothing but the service's own files, nothing inline, nobody's frame.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Files below this size, in bytes, are not worth compressing.
_LEAST: Final = 512


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the console, as it is sent."""

    content: bytes
    compressed: bytes | None
    media_type: str
    tag: str


def wants_page(request: Any) -> bool:
    """Return whether a request to ``/`` comes from somebody who would rather see the console."""
    best: str | None = request.accept_mimetypes.best_match(["application/json", "text/html"])
    return best == "text/html"


def page(request: Any) -> Response:
    """Answer with the console's page."""
    response = _send(request, assets()[PAGE], "no-cache")
    response.vary.add("Accept")
    return response


async def part(request: Any, part: str) -> Response:
    """Answer with one of the page's parts.

    Raises:
        Problem: There is no such part, or it is one of another version.
    """
    place, _, name = part.partition("/")
    found = assets().get(name) if place == build() and name != PAGE else None
    if found is None:
        raise Problem(404, f"The console has no part {part!r}; load the page again.")
    return _send(request, found, "public, max-age=31536000, immutable")


def _send(request: Any, asset: Asset, caching: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": caching, "ETag": f'"{asset.tag}"'}
    if asset.tag in request.if_none_match:
        response = TrioResponse(b"", 304, headers)
        del response.headers["Content-Type"]
    elif asset.compressed is not None and "gzip" in request.accept_encodings:
        headers["Content-Encoding"] = "gzip"
        response = TrioResponse(asset.compressed, 200, headers, content_type=asset.media_type)
    else:
        response = TrioResponse(asset.content, 200, headers, content_type=asset.media_type)
    response.vary.add("Accept-Encoding")
    return response


@cache
def build() -> str:
    """Return the digest of all of the console's files."""
    digest = hashlib.sha256()
    for name, path in _files().items():
        digest.update(f"{name}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def assets() -> dict[str, Asset]:
    """Return the files by name, read once."""
    place = f"/console/{build()}".encode()
    return {
        name: _asset(path, path.read_bytes().replace(_PLACE, place) if name == PAGE else None)
        for name, path in _files().items()
    }


def _asset(path: Path, content: bytes | None) -> Asset:
    content = path.read_bytes() if content is None else content
    compressed = gzip.compress(content, 9, mtime=0) if len(content) >= _LEAST else None
    media_type = mimetypes.guess_type(path.name)[0] or "text/plain"
    if media_type.startswith("text/") or "svg" in media_type:
        media_type += "; charset=utf-8"
    return Asset(content, compressed, media_type, hashlib.sha256(content).hexdigest()[:16])


def _files() -> dict[str, Path]:
    return {
        path.relative_to(ROOT).as_posix(): path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
