"""What a source's failure is in our codes; the worker's side."""

from __future__ import annotations

import errno
from typing import Final

import av.error


class ConnectionLostError(Exception):
    """A connection could not be made, or broke.

    Args:
        code: Of `lva.video.codes.CODES`.
        message: What happened, without the address, which may be secret.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code: str = code


_KINDS: Final[tuple[tuple[str, tuple[type[Exception], ...]], ...]] = (
    ("auth_failed", (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)),
    ("not_found", (av.error.HTTPNotFoundError, FileNotFoundError)),
    ("timeout", (TimeoutError,)),
    ("unsupported", (av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError)),
    ("forbidden", (av.error.ProtocolNotFoundError, PermissionError)),
    ("connection_failed", (ConnectionError, av.error.HTTPError)),
    ("invalid_data", (av.error.InvalidDataError,)),
)


#: What FFmpeg says so that nobody knows what happened: its error, our code and words.
_UNCLEAR: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (av.error.ExitError, "timeout", "no data in time"),
    (av.error.EOFError, "connection_failed", "the connection ended"),
)

_SAYS_NOTHING: Final = "FFmpeg does not say what went wrong"


def failure_of(error: Exception) -> ConnectionLostError:
    """Return what an error of PyAV's is in our codes."""
    if isinstance(error, ConnectionLostError):
        return error
    for kind, code, text in _UNCLEAR:
        if isinstance(error, kind):
            return ConnectionLostError(code, text)
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return ConnectionLostError("connection_failed", "the connection ended or broke")
    # The error's own text names the address.
    return ConnectionLostError(_code_of(error), getattr(error, "strerror", None) or _SAYS_NOTHING)


def _code_of(error: Exception) -> str:
    for code, types in _KINDS:
        if isinstance(error, types):
            return code
    if isinstance(error, OSError) and error.errno in {errno.EINVAL, errno.ENOSYS}:
        return "invalid_data"
    if isinstance(error, av.error.UndefinedError | av.error.UnknownError | ValueError):
        return "invalid_data"
    return "connection_failed"


def words_of(error: Exception) -> str:
    """Return what an error says; of FFmpeg's, without the address, which may be secret."""
    if isinstance(error, av.error.FFmpegError | OSError):
        return error.strerror or _SAYS_NOTHING
    return f"{type(error).__name__}: {error}"
