"""Definitions of a fleet's streams, for people: one that is not understood is shown, too."""

from __future__ import annotations

from typing import Final

from lva.fleet.rows import StreamRow
from lva.routes.wrong_keys import WrongKeysError
from lva.video.definition import StreamDefinition, parse_definition

#: Most streams that the console shows.
MOST_SHOWN: Final = 1000


class Definitions:
    """Those that were read last; at least those of the streams that the console shows."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, StreamDefinition]] = {}

    def of(self, row: StreamRow) -> StreamDefinition:
        """Return a row's definition; of one that this agent does not understand, its name alone."""
        version, definition = self._read.get(row.id, (0, None))
        if definition is None or version != row.version:
            try:
                definition = parse_definition(dict(row.definition))
            except WrongKeysError:
                name = str(row.definition.get("name") or row.id)[:200]
                definition = StreamDefinition(name=name, source="test:")
            if len(self._read) >= 2 * MOST_SHOWN:
                self._read.clear()
            self._read[row.id] = row.version, definition
        return definition
