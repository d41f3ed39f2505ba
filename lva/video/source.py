"""Sources of streams: which are allowed, and what FFmpeg may open for them.

A source is a trust boundary: whoever names one makes the service open files and connections. Schemes and
directories are allowed one by one, and FFmpeg is given the protocols that a playlist or a demuxer may use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from lva.video.addresses import why_not
from lva.video.pictures import PICTURES

#: By scheme: the protocols of FFmpeg that a source of this scheme may open, itself and through what it names.
PROTOCOLS: Final[Mapping[str, str]] = {
    "rtsp": "rtsp,tcp",
    "rtsps": "rtsp,srtp,tcp,tls",
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "file": "file",
    "test": "",
    "v4l2": "file",
}
#: Demuxers that may be chosen by what a file or a server sends. `concat`, `sdp`, `dash`, `image2` and others
#: that open further addresses or files are left out.
FORMATS: Final = "mov,matroska,mpegts,mpeg,avi,mjpeg,mpjpeg,flv,ogg,h264,hevc,jpeg_pipe"
#: `hls` is chosen by the address alone: what a playlist names is fetched by `same_server`, by no protocol of
#: FFmpeg's. These are the demuxers of its segments, and its options for that.
_HLS: Final = {
    "format_whitelist": "hls,mpegts,mov,aac,mp3,webvtt",
    "http_persistent": "0",
    "http_multiple": "0",
    "extension_picky": "0",
    "allowed_extensions": "ALL",
    "allowed_segment_extensions": "ALL",
}
#: How many bytes and microseconds FFmpeg may look at before the first frame of a live source; it need
#: not find out its frames a second, for which it would look at twenty.
_PROBE: Final = {"probesize": "500000", "analyzeduration": "1000000", "fpsprobesize": "0"}
_SECRET_NAME: Final = re.compile(
    r"pass?|pwd|secret|token|key|auth|sig|credential|cookie", re.IGNORECASE
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TEST_PICTURES: Final = ("testsrc2", "testsrc", "smptebars", "mandelbrot", "black", "rgbtestsrc")


class SourceError(ValueError):
    """A source that is not allowed or not understood; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where frames come from.

    Attributes:
        url: What FFmpeg opens.
        shown: The same without a password, for people.
        kind: The scheme; ``hls`` for a playlist, ``pictures`` for JPEGs.
        live: Whether frames come at their own pace: then decoding never waits for analytics.
        format: The demuxer, where it is fixed.
        options: For FFmpeg's demuxer and protocol.
    """

    url: str
    shown: str
    kind: str
    live: bool
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def as_message(self) -> dict[str, Any]:
        """Return what the worker is sent."""
        return {
            "url": self.url,
            "kind": self.kind,
            "live": self.live,
            "format": self.format,
            "options": dict(self.options),
        }


def no_source(text: str) -> Source:
    """Return what stands in for a source that is not allowed any more."""
    return Source("", _without_secrets(text), live=True, kind="none")


def parse_source(
    text: str, schemes: Sequence[str] = tuple(PROTOCOLS), directories: Sequence[Path] = ()
) -> Source:
    """Return the source that an address names.

    Args:
        text: ``rtsp://…``, ``http://…``, ``test:``, ``/dev/video0``, or the path of a file or of a
            directory of JPEGs.
        schemes: Those that are allowed: keys of `PROTOCOLS`.
        directories: Files are allowed below these.

    Raises:
        SourceError: It is not allowed or not understood.
    """
    if not text.strip():
        raise SourceError("source: give an address such as rtsp://camera/stream, a file, or test:")
    if text[0].isspace():
        raise SourceError("source: it begins with a space")
    if _CONTROL.search(text):
        raise SourceError("source: it has a line break or another control character in it")
    scheme = text.partition(":")[0].lower() if ":" in text else ""
    if text.startswith("/dev/video"):
        scheme = "v4l2"
    elif text.startswith("/"):
        scheme = "file"
    if scheme not in PROTOCOLS:
        if not scheme:
            raise SourceError(
                "source: it is no address; write rtsp://HOST/PATH, /PATH of a file, or test:"
            )
        known = ", ".join(PROTOCOLS)
        raise SourceError(f"source: scheme {scheme!r} is not known; available: {known}")
    if scheme not in schemes:
        allowed = ", ".join(schemes) or "none"
        raise SourceError(f"source: scheme {scheme!r} is not allowed here; allowed: {allowed}")
    if scheme == "test":
        return _test_pictures(text)
    if scheme == "v4l2":
        return _device(text)
    if scheme == "file":
        path = text if text.startswith("/") else text[len("file:") :].removeprefix("//")
        if not path.startswith("/"):
            raise SourceError("source: a file is /PATH, or file:///PATH")
        return _file(path, directories)
    return _network(text, scheme)


def is_file(text: str) -> bool:
    """Return whether an address names something of a file system."""
    return text.startswith("/") or text.partition(":")[0].lower() == "file"


def _network(text: str, scheme: str) -> Source:
    if (why := why_not(text)) is not None:
        raise SourceError(f"source: {why}")
    text = f"{scheme}{text[len(scheme) :]}"  # FFmpeg knows schemes in small letters only
    options = {"protocol_whitelist": PROTOCOLS[scheme], **_PROBE}
    if scheme.startswith("rtsp"):
        options |= {"rtsp_transport": "tcp", "allowed_media_types": "video"}
    else:
        options |= {"max_redirects": "0", "reconnect": "0"}
        if urlsplit(text).path.lower().endswith((".m3u8", ".m3u")):
            shown = _without_secrets(text)
            return Source(text, shown, "hls", live=True, format="hls", options=options | _HLS)
        options |= {"format_whitelist": FORMATS}
    return Source(text, _without_secrets(text), scheme, live=True, options=options)


def _without_secrets(text: str) -> str:
    """Return an address without its user and password, and without values that are named like a secret.

    Cameras have them in the path, too: ``/user=admin_password=…_channel=1``.
    """
    scheme, mark, rest = text.partition("://")
    before, question, query = rest.partition("?")
    if "/" not in before and "@" in query:
        before, question, query = rest, "", ""
    if "@" in before:  # a password that is not encoded may contain a slash, or a question mark
        before = "***@" + before.rpartition("@")[2]
    parts = re.split(r"([&;#/?])", f"{before}{question}{query}")
    return f"{scheme}{mark}" + "".join(map(_without_value, parts))


def _without_value(part: str) -> str:
    named, _, _ = part.rpartition("=")
    return f"{part.partition('=')[0]}=***" if _SECRET_NAME.search(unquote(named)) else part


def _file(text: str, directories: Sequence[Path]) -> Source:
    try:
        path = Path(text).resolve()
        is_directory = path.is_dir()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()  # from Python 3.13 on, the others do not tell of a loop
    except (OSError, RuntimeError):
        raise SourceError("source: the path is too long, or a loop of symbolic links") from None
    if not any(path.is_relative_to(directory.resolve()) for directory in directories):
        below = ", ".join(map(str, directories)) or "none; set directories of the plugin streams"
        raise SourceError(f"source: files are allowed below these directories only: {below}")
    url = str(path)
    if is_directory or path.suffix.lower() in PICTURES:
        return Source(url, url, "pictures", live=False, format="jpeg_pipe")
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    return Source(url, url, "file", live=False, options=options)


def _device(text: str) -> Source:
    if not text.removeprefix("/dev/video").isdecimal():
        raise SourceError("source: a device is /dev/video and a number")
    return Source(text, text, "v4l2", live=True, format="video4linux2,v4l2")


def _test_pictures(text: str) -> Source:
    """Return FFmpeg's generated pictures; nothing of the text gets into the filter but what was checked."""
    name, _, query = text.partition(":")[2].partition("?")
    name = name or "testsrc2"
    if name not in _TEST_PICTURES:
        raise SourceError(f"source: test pictures available: {', '.join(_TEST_PICTURES)}")
    values = dict(parse_qsl(query, keep_blank_values=True))
    size, rate = values.pop("size", "640x360"), values.pop("rate", "10")
    seconds, live = values.pop("seconds", ""), values.pop("live", "1")
    sides = size.split("x")
    if len(sides) != 2 or not all(_whole(side, 16, 4096) for side in sides):
        raise SourceError("source: test:?size= is WIDTHxHEIGHT, each 16 to 4096")
    if not _whole(rate, 1, 240):
        raise SourceError("source: test:?rate= is 1 to 240 frames a second")
    if seconds and not _whole(seconds, 1, 86_400):
        raise SourceError("source: test:?seconds= is 1 to 86400")
    if live not in {"0", "1"}:
        raise SourceError("source: test:?live= is 0 or 1")
    if values:
        raise SourceError(
            f"source: test: takes size, rate, seconds and live, not {', '.join(values)}"
        )
    picture = (
        f"color=black:size={size}:rate={rate}"
        if name == "black"
        else (f"{name}=size={size}:rate={rate}")
    )
    if seconds:
        picture += ("," if name == "mandelbrot" else ":") + (
            f"trim=duration={seconds}" if name == "mandelbrot" else f"duration={seconds}"
        )
    if live == "1":
        picture += ",realtime"
    return Source(picture, text, "test", live=live == "1", format="lavfi")


def _whole(text: str, least: int, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most
