"""Opens sources with PyAV, within what they may open. The worker's side."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import av
import av.error

from lva.video.pictures import Pictures, open_regular
from lva.video.worker.failures import ConnectionLostError, failure_of

#: Share of the limit after which an error of FFmpeg's is taken for its end: the error does not say so.
_NEARLY: Final = 0.95
#: By code: what to do about a camera of this machine.
_DEVICE: Final = {
    "not_found": "no such device; is the camera connected?",
    "forbidden": "the user of the service may not open the device; it is to be in the group video",
    "connection_failed": "the device cannot be used; another program may be using it",
    "invalid_data": "the device gives no pictures",
}
_UNCLEAR: Final = ("invalid_data", "connection_failed", "timeout")

av.logging.set_level(
    None
)  # FFmpeg's log calls Python from its own threads, which has led to deadlocks


def open_source(source: Mapping[str, Any], timeout: float) -> Any:
    """Return a container of PyAV.

    Args:
        source: As `lva.video.source.Source.as_message` gives it.
        timeout: Seconds for opening it, and for each read.

    Raises:
        ConnectionLostError: It cannot be opened.
    """
    began = time.monotonic()
    try:
        return _OPEN.get(source["kind"], _open)(source, timeout)
    except ConnectionLostError:
        raise
    except Exception as error:
        failure = _of_its_kind(failure_of(error), error, source)
        unclear = failure.code in _UNCLEAR and not isinstance(error, ConnectionError)
        if unclear and source["live"] and time.monotonic() - began >= _NEARLY * timeout:
            raise ConnectionLostError(
                "timeout", f"nothing that can be shown within {timeout:g} s"
            ) from error
        raise failure from error


def _of_its_kind(
    failure: ConnectionLostError, error: Exception, source: Mapping[str, Any]
) -> ConnectionLostError:
    """Say what FFmpeg's errors mean for this kind of source, and what to do."""
    kind: str = source["kind"]
    if kind.startswith("rtsp"):
        return _of_rtsp(failure, error)
    if kind == "v4l2":
        return ConnectionLostError(failure.code, _DEVICE.get(failure.code, str(failure)))
    formats = source["options"].get("format_whitelist")
    if isinstance(error, av.error.ArgumentError) and formats:  # so it tells of one not in the list
        text = f"its format is none of {formats.replace(',', ', ')}"
        if kind.startswith("http"):
            text += "; for HLS, the path ends in .m3u8"
        return ConnectionLostError("unsupported", text)
    if kind == "file" and failure.code == "invalid_data":
        return ConnectionLostError("invalid_data", "it is no video, or a part of it is missing")
    return failure


def _of_rtsp(failure: ConnectionLostError, error: Exception) -> ConnectionLostError:
    """Say what FFmpeg's errors mean where the protocol is RTSP."""
    if failure.code == "invalid_data":
        text = "the server closed the connection, or speaks no RTSP"
    elif isinstance(error, av.error.HTTPOtherClientError):
        text = "the server refuses to play; there may be no video in it"
    else:
        return failure
    return ConnectionLostError("connection_failed", text)


def _open(source: Mapping[str, Any], timeout: float, **more: Any) -> Any:
    return av.open(
        **{"file": source["url"], "format": source["format"], **more},
        options=dict(source["options"]),
        timeout=(timeout, timeout),
    )


def _open_http(source: Mapping[str, Any], timeout: float) -> Any:
    """Open an address; FFmpeg follows no redirect, so it is asked for only when it fails."""
    try:
        return _open(source, timeout)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        from lva.video.worker.same_server import SameServer  # few sources need it

        url = source["url"]
        landing = SameServer(url, timeout).landing(url)
        if landing == url:
            raise
        return _open(source, timeout, file=landing)


def _open_playlist(source: Mapping[str, Any], timeout: float) -> Any:
    from lva.video.worker.same_server import SameServer  # few sources need it

    return _open(source, timeout, io_open=SameServer(source["url"], timeout).io_open)


def _open_file(source: Mapping[str, Any], timeout: float) -> Any:
    path = Path(source["url"])
    if path.exists():
        file = open_regular(path)
        if file is None or path.resolve() != path:
            raise ConnectionLostError(
                "forbidden", "it is no regular file, or a link has taken its place"
            )
        file.close()
    return _open(source, timeout)


def _open_pictures(source: Mapping[str, Any], timeout: float) -> Any:
    return _open(source, timeout, file=Pictures(Path(source["url"])))


_OPEN: Final = {
    "http": _open_http,
    "https": _open_http,
    "hls": _open_playlist,
    "file": _open_file,
    "pictures": _open_pictures,
}
