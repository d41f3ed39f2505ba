"""Where streams are kept over a restart: one SQLite file in the state directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

_VERSION: Final = 2
#: Seconds that another process may hold the file.
PATIENCE: Final = 1.0
_SCHEMA: Final = f"""
    BEGIN;
    CREATE TABLE streams (
        id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        definition TEXT NOT NULL,
        code TEXT,
        reason TEXT NOT NULL DEFAULT ''
    );
    PRAGMA user_version = {_VERSION};
    COMMIT;
"""

#: What leads from each earlier version to the next.
_CHANGES: Final = {
    1: """
    BEGIN;
    ALTER TABLE streams ADD COLUMN code TEXT;
    ALTER TABLE streams ADD COLUMN reason TEXT NOT NULL DEFAULT '';
    PRAGMA user_version = 2;
    COMMIT;
""",
}


#: SQLite's errors for a file that does not get better by itself.
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StoreError(Exception):
    """The file cannot be used, or not now; the message names it."""


@dataclass(frozen=True, slots=True)
class StoredStream:
    """One row.

    Attributes:
        id: The stream's.
        version: Of its definition, from 1 on.
        status: Its state when it was last written.
        created: In Unix seconds.
        definition: JSON.
        code, reason: Of its state.
    """

    id: str
    version: int
    status: str
    created: float
    definition: str
    code: str | None = None
    reason: str = ""


class StreamStore:
    """The file; each method opens it, and is for a worker thread.

    Args:
        path: It; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[StoredStream]:
        """Return all streams, oldest first.

        Raises:
            StoreError: The file cannot be read, or is of a newer version of LVA.
        """
        with _transaction(self._path) as connection:
            rows = connection.execute(
                "SELECT id, version, status, created, definition, code, reason FROM streams"
                " ORDER BY created, id"
            )
            return [StoredStream(*row) for row in rows]

    def save(self, stream: StoredStream) -> None:
        """Write a stream, new or changed.

        Raises:
            StoreError: It cannot be written, as on a full disk.
        """
        with _transaction(self._path) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO streams"
                " (id, version, status, created, definition, code, reason)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                astuple(stream),
            )

    def delete(self, stream_id: str) -> None:
        """Delete a stream.

        Raises:
            StoreError: As `save`.
        """
        with _transaction(self._path) as connection:
            connection.execute("DELETE FROM streams WHERE id = ?", (stream_id,))

    def check(self) -> None:
        """Do nothing, if the file can be written.

        Raises:
            StoreError: As `save`.
        """
        with _transaction(self._path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction, which is not made if the block raises.

    Raises:
        StoreError: As `StreamStore`'s methods.
    """
    with suppress(OSError):  # SQLite says what is wrong
        path.touch(0o600)  # addresses have passwords
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(_SCHEMA)
            elif version in _CHANGES:
                for earlier in range(version, _VERSION):
                    connection.executescript(_CHANGES[earlier])
            elif version != _VERSION:
                raise StoreError(
                    f"{path} is of another version of LVA ({version}); move it away, or use that version"
                )
            yield connection
            connection.commit()
    except sqlite3.Error as error:
        broken = getattr(error, "sqlite_errorcode", None) in _BROKEN
        todo = (
            "; move it away to begin without streams, or put a copy in its place" if broken else ""
        )
        raise StoreError(f"{path}: {error}{todo}") from error
