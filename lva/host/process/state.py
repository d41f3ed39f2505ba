"""State of the whole process that plugin code may change, and that belongs to the service and all plugins.

One table names each piece of it, how it is read and how it is put back. Between two looks, which take some
fifty microseconds together, whatever was changed is put back, and said once.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType
from typing import Final, NamedTuple

from lva.host.process.pieces import UNSET, Piece, Value, all_pieces

_SHORTENED: Final = reprlib.Repr()
_SHORTENED.maxstring = 120
#: A descriptor, and the device and number of the file that it is of.
OwnDescriptor = tuple[int, tuple[int, int] | None]
#: Descriptors that the service cannot do without, besides the event loop's.
own_descriptors: Final[set[OwnDescriptor]] = set()


class Change(NamedTuple):
    """What was changed: the piece's name, and a text that goes on after "changed"."""

    name: str
    text: str


class ProcessState:
    """The state as it was when this was made. In the main thread.

    Args:
        more: Pieces besides those of the table.
    """

    def __init__(self, more: Iterable[Piece] = ()) -> None:
        self._pieces: Sequence[Piece] = (*all_pieces(), *more)
        self._values = self._read()

    def put_back(self) -> list[Change]:
        """Put back whatever has changed; return what that was.

        What cannot be put back stays, and counts as it is from now on.
        """
        now = self._read()
        return [] if _same(now, self._values) else list(self._changes(now))

    def _read(self) -> list[Value]:
        try:
            return [piece.read() for piece in self._pieces]
        except Exception:  # noqa: BLE001 - as where there is no working directory, or no list of finders
            return [*map(_read, self._pieces)]

    def _changes(self, now: Sequence[Value]) -> Iterator[Change]:
        for index, (piece, before, value) in enumerate(
            zip(self._pieces, self._values, now, strict=True)
        ):
            if _same(value, before):
                continue
            told = piece.name
            if piece.detail is not None:
                told += f" ({piece.detail(before, value)})"
            elif piece.shown:
                told += f" from {_short(before)} to {_short(value)}"
            try:
                piece.put_back(before)
            except Exception as error:  # noqa: BLE001 - plugins put anything anywhere
                self._values[index] = _read(piece)
                yield Change(piece.name, f"{told}; it cannot be put back: {error}")
            else:
                yield Change(piece.name, f"{told}; put back")


def note_own(number: int) -> OwnDescriptor:
    """Note that a descriptor is the service's own, until what is returned is taken from `own_descriptors`."""
    own = number, _file_of(number)
    own_descriptors.add(own)
    return own


def closed_descriptors() -> list[int]:
    """Return which of the service's own descriptors somebody has closed; another file may have the number."""
    return sorted(number for number, file in own_descriptors if _file_of(number) != file)


def _file_of(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read(piece: Piece) -> Value:
    try:
        return piece.read()
    except Exception as error:  # noqa: BLE001 - as above
        return f"unreadable ({type(error).__name__})"


def _same(one: Value, other: Value) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an object of a plugin may compare as it likes
        return False


def _short(value: Value) -> str:
    if value is UNSET:
        return "unset"
    if isinstance(value, int | float | str | tuple | set | None):
        return _SHORTENED.repr(value)
    # No repr() of what may be a plugin's
    return value.__qualname__ if isinstance(value, FunctionType | type) else type(value).__name__
