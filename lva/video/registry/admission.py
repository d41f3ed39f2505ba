"""Which streams are allowed: their definition is right, and asks for what may be had here."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from lva.contract import RequestProblem
from lva.routes.wrong_keys import WrongKey, WrongKeysError
from lva.video.definition import StreamDefinition, parse_definition
from lva.video.source import Source, SourceError, is_file, parse_source
from lva.video.spec import spec_of
from lva.video.supervision.stream import FindAnalytics

#: How an address is shown that has a user and a password.
_MASKED: Final = "://***@"
#: How long, in seconds, a file system is waited for, and most threads that wait at once.
PATIENCE: Final = 3.0
THREADS: Final = 8


class SilentFilesError(Exception):
    """The file system of a source does not respond, as one of a server that is away."""


class Admission:
    """Checks definitions.

    Args:
        schemes: Schemes of sources that are allowed.
        directories: Below which files are.
        analytics: As in `lva.video.supervision.stream.StreamServices`.
    """

    def __init__(
        self, schemes: Sequence[str], directories: Sequence[Path], analytics: FindAnalytics
    ) -> None:
        self._schemes = schemes
        self._directories = directories
        self._analytics = analytics
        self._threads = trio.CapacityLimiter(THREADS)

    async def admit(self, body: Any) -> tuple[StreamDefinition, Source]:
        """Return the definition that a body is, and its source.

        Cancellation: ends the wait; a thread that looks at files is left to end by itself.

        Raises:
            RequestProblem: It is none, or asks for what is not allowed or not there; all of it is told. Or
                the file system of its source does not respond.
        """
        try:
            definition = parse_definition(body)
            source = await self.source(definition, check_directory)
            if _MASKED in definition.source:
                raise WrongKeysError(
                    WrongKey(("source",), "its password is masked; write the password itself")
                )
            self._check_message(definition, source)
        except WrongKeysError as error:
            wrong = [problem.as_dict() for problem in error.problems]
            raise RequestProblem(400, str(error), "wrong_definition", errors=wrong) from None
        except SilentFilesError as error:
            raise RequestProblem(
                503, str(error), "files_not_responding", {"Retry-After": "10"}
            ) from None
        return definition, source

    async def source(
        self, definition: StreamDefinition, check: Callable[[Source], None] = lambda _: None
    ) -> Source:
        """Return the source of a definition. Files are looked at in a thread, for `PATIENCE` at most.

        Cancellation: as that of `admit`.

        Args:
            definition: It.
            check: Looks at the source in that thread, too.

        Raises:
            WrongKeysError: It is not allowed.
            SilentFilesError: Their file system does not respond.
        """

        if not is_file(definition.source):
            return self.source_now(definition, check)
        try:
            with trio.fail_after(PATIENCE):
                return await trio.to_thread.run_sync(
                    self.source_now, definition, check,
                    abandon_on_cancel=True, limiter=self._threads,
                )  # fmt: skip
        except trio.TooSlowError:
            raise SilentFilesError(
                f"source: its file system did not respond within {PATIENCE:g} s"
            ) from None

    def source_now(
        self, definition: StreamDefinition, check: Callable[[Source], None] = lambda _: None
    ) -> Source:
        """As `source`, in this thread: it waits for the file system of a file."""
        try:
            source = parse_source(definition.source, self._schemes, self._directories)
            check(source)
        except SourceError as error:
            why = str(error).removeprefix("source: ")
            raise WrongKeysError(WrongKey(("source",), why)) from None
        return source

    def _check_message(self, definition: StreamDefinition, source: Source) -> None:
        """Refuse what could not be sent to a worker."""
        used = self._analytics(definition)
        spec_of(str(uuid.UUID(int=0)), definition, source, used, logging.CRITICAL)


def check_directory(source: Source) -> None:
    """Refuse a file whose directory is not there: it is mistyped, since files come into directories.

    Raises:
        SourceError: It is not there.
    """
    if source.kind in {"file", "pictures"}:
        directory = Path(source.url).parent
        if not directory.is_dir():
            raise SourceError(f"source: there is no directory {directory}")
