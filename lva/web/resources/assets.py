"""The console's files: a page with all that it needs, from this package, compressed once; and plugins' pages.

What cannot stand in the page is named by it under the digest of all files, so that browsers keep it for good
and yet never mix two versions.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import trio
from quart import Response
from quart_trio.wrappers import TrioResponse

from lva.logs.loggers import redact
from lva.routes.pages import ConsolePage
from lva.web.problems import HttpProblem
from lva.web.resources import bundle
from lva.web.resources.access import is_local_name

ROOT: Final = Path(__file__).parents[1] / "console"
PAGE: Final = "index.html"
#: The files that the page names, with their types; all others stand in it.
PARTS: Final = {
    "icon.svg": "image/svg+xml; charset=utf-8",
    "vendor/uplot/LICENSE": "text/plain; charset=utf-8",
}
_HTML: Final = "text/html; charset=utf-8"
#: The module that puts a plugin's page into the console's frame.
_ENTRY: Final = "entry.js"
_FRAMED: Final = (
    'import {{ frame }} from "./frame.js";\nimport {{ view }} from "./{module}.js";\nframe(view);\n'
)
#: Of the page, just the scripts and styles that stand in it; else nothing but what it asks this service for.
_POLICY: Final = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; script-src {script}; style-src {style}"
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Browsers heed this, and do not complain of it, where nobody can listen to the connection.
_ISOLATION: Final = {"Cross-Origin-Opener-Policy": "same-origin"}
#: Files below this size, in bytes, are not worth compressing.
_LEAST: Final = 512


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the console, as it is sent."""

    content: bytes
    compressed: bytes | None
    media_type: str
    tag: str
    policy: str


def wants_page(request: Any) -> bool:
    """Return whether a request to ``/`` comes from somebody who would rather see the console."""
    best: str | None = request.accept_mimetypes.best_match(["application/json", "text/html"])
    return best == "text/html"


def page(request: Any) -> Response:
    """Answer with the console's page."""
    response = _send(request, assets()[PAGE], "no-cache")
    response.vary.add("Accept")
    return response


async def plugin_page(request: Any, plugin: str, shown: ConsolePage) -> Response:
    """Answer with a plugin's page: the console's frame, and the plugin's own script in it.

    Raises:
        HttpProblem: Its files cannot be read, or cannot be put into a page.
    """
    try:
        asset = await trio.to_thread.run_sync(_plugin_asset, plugin, shown)
    except (OSError, ValueError) as error:
        detail = f"The page of plugin {plugin!r} cannot be made: {error}"
        raise HttpProblem(500, redact(detail), "plugin_page_broken") from error
    return _send(request, asset, "no-cache")


async def part(request: Any, part: str) -> Response:
    """Answer with one of the page's parts.

    Raises:
        HttpProblem: There is no such part, or it is one of another version.
    """
    place, _, name = part.partition("/")
    found = assets().get(name) if place == build() and name != PAGE else None
    if found is None:
        raise HttpProblem(404, f"The console has no part {part!r}; load the page again.")
    return _send(request, found, "public, max-age=31536000, immutable")


def _send(request: Any, asset: Asset, caching: str) -> Response:
    headers = {
        **(_HEADERS | _ISOLATION if _is_trustworthy(request) else _HEADERS),
        "Content-Security-Policy": asset.policy,
        "Cache-Control": caching,
        "ETag": f'"{asset.tag}"',
    }
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


def _is_trustworthy(request: Any) -> bool:
    """Return whether the browser has the page over TLS, which is a proxy's, or from its own machine."""
    over_tls = request.headers.get("X-Forwarded-Proto", request.scheme) == "https"
    return over_tls or is_local_name(request.headers.get("Host", ""))


def _plugin_asset(plugin: str, shown: ConsolePage) -> Asset:
    """Make a plugin's page from its files as they are now."""
    home = shown.script.parent

    def read(name: str) -> str:
        if name == _ENTRY:
            return _FRAMED.format(module=shown.script.stem)
        if shown.style is not None and name == shown.style.name:
            return shown.style.read_text(encoding="utf-8")
        own, ours = home / name, ROOT / name
        if not own.is_file():
            return ours.read_text(encoding="utf-8")
        if ours.is_file():
            raise ValueError(f"{own}: the console has a module of that name")
        return own.read_text(encoding="utf-8")

    styles = [] if shown.style is None else [shown.style.name]
    template = (ROOT / PAGE).read_text(encoding="utf-8")
    text, inside = bundle.page(template, read, build(), _ENTRY, plugin, styles)
    return _asset(text.encode(), _HTML, inside)


@lru_cache(maxsize=8)
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


@cache
def build() -> str:
    """Return the digest of all of the console's files."""
    digest = hashlib.sha256()
    for path in _files():
        content = path.read_bytes()
        name = path.relative_to(ROOT).as_posix()
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


@cache
def assets() -> dict[str, Asset]:
    """Return the page and its parts by name, made once."""
    text, inside = bundle.page(
        (ROOT / PAGE).read_text(encoding="utf-8"),
        lambda name: (ROOT / name).read_text(encoding="utf-8"),
        build(),
    )
    nothing = bundle.Inside()
    parts = {
        name: _asset((ROOT / name).read_bytes(), kind, nothing) for name, kind in PARTS.items()
    }
    return {PAGE: _asset(text.encode(), _HTML, inside), **parts}


async def prepare() -> None:
    """Make all of it, in a thread, before the first browser asks."""
    await trio.to_thread.run_sync(assets)


def _asset(content: bytes, media_type: str, inside: bundle.Inside) -> Asset:
    compressed = _compressed(content) if len(content) >= _LEAST else None
    policy = _POLICY.format(
        script=" ".join(inside.scripts) or "'none'", style=" ".join(inside.styles) or "'none'"
    )
    return Asset(content, compressed, media_type, hashlib.sha256(content).hexdigest()[:16], policy)


def _files() -> list[Path]:
    return sorted(
        path for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
