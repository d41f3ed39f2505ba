"""Which streams are allowed: their definition is right, and asks for what may be had here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lva.contract import RequestProblem
from lva.routes.wrong_keys import WrongKey, WrongKeysError
from lva.video import messages
from lva.video.definition import StreamDefinition, parse_definition
from lva.video.source import Source, SourceError, parse_source
from lva.video.stream import FindAnalytics

#: How an address is shown that has a user and a password.
_MASKED: Final = "://***@"


class Admission:
    """Checks definitions.

    Args:
        schemes: Schemes of sources that are allowed.
        directories: Below which files are.
        analytics: As in `lva.video.stream.StreamServices`.
    """

    def __init__(
        self, schemes: Sequence[str], directories: Sequence[Path], analytics: FindAnalytics
    ) -> None:
        self._schemes = schemes
        self._directories = directories
        self._analytics = analytics

    def admit(self, body: Any) -> tuple[StreamDefinition, Source]:
        """Return the definition that a body is, and its source.

        Raises:
            RequestProblem: It is none, or asks for what is not allowed or not there; all of it is told.
        """
        try:
            definition = parse_definition(body)
            source = self.source(definition)
            if _MASKED in definition.source:
                raise WrongKeysError(
                    WrongKey(("source",), "its password is masked; write the password itself")
                )
            _check_directory(source)
            self._check_analytics(definition)
        except WrongKeysError as error:
            wrong = [problem.as_dict() for problem in error.problems]
            raise RequestProblem(400, str(error), "wrong_definition", errors=wrong) from None
        return definition, source

    def source(self, definition: StreamDefinition) -> Source:
        """Return the source of a definition.

        Raises:
            WrongKeysError: It is not allowed.
        """
        try:
            return parse_source(definition.source, self._schemes, self._directories)
        except SourceError as error:
            why = str(error).removeprefix("source: ")
            raise WrongKeysError(WrongKey(("source",), why)) from None

    def _check_analytics(self, definition: StreamDefinition) -> None:
        used = self._analytics(definition)
        try:
            messages.encode({"analytics": used})
        except (TypeError, ValueError) as error:
            why = f"their parameters cannot be sent: {error}"
            raise WrongKeysError(WrongKey(("analytics",), why)) from None


def _check_directory(source: Source) -> None:
    """Refuse a file whose directory is not there: it is mistyped, since files come into directories."""
    if source.kind in {"file", "pictures"}:
        directory = Path(source.url).parent
        if not directory.is_dir():
            why = f"there is no directory {directory}"
            raise WrongKeysError(WrongKey(("source",), why))
