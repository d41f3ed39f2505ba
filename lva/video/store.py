"""Where streams are kept over a restart: one SQLite file in the state directory."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_VERSION: Final = 1
_SCHEMA: Final = f"""
    CREATE TABLE streams (
        id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        definition TEXT NOT NULL
    );
    PRAGMA user_version = {_VERSION};
"""


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
    """

    id: str
    version: int
    status: str
    created: float
    definition: str


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
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT id, version, status, created, definition FROM streams ORDER BY created, id"
            )
            return [StoredStream(*row) for row in rows]

    def save(self, stream: StoredStream) -> None:
        """Write a stream, new or changed.

        Raises:
            StoreError: It cannot be written, as on a full disk.
        """
        values = stream.id, stream.version, stream.status, stream.created, stream.definition
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?)", values)

    def delete(self, stream_id: str) -> None:
        """Delete a stream.

        Raises:
            StoreError: As `save`.
        """
        with self._connection() as connection:
            connection.execute("DELETE FROM streams WHERE id = ?", (stream_id,))

    def _connection(self) -> _Connection:
        return _Connection(self._path)


class _Connection:
    """One transaction on the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        with suppress(OSError):  # SQLite says what is wrong
            self._path.touch(0o600)  # addresses have passwords
        try:
            self._connection = sqlite3.connect(self._path, timeout=5)
            self._prepare()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        return self._connection

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._connection.executescript(_SCHEMA)
        elif version != _VERSION:
            self._connection.close()
            raise StoreError(
                f"{self._path} is of another version of LVA ({version}); move it away, or use that version"
            )

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        try:
            if kind is None:
                self._connection.commit()
        except sqlite3.Error as failure:
            raise StoreError(f"{self._path}: {failure}") from failure
        finally:
            self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{self._path}: {error}") from error
