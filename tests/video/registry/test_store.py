import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from lva.video.registry.store import StoredStream, StoreError, StreamStore

STREAM = StoredStream("a", 1, "pending", 5.0, "{}")


def test_streams_are_kept(tmp_path):
    store = StreamStore(tmp_path / "streams.sqlite3")
    assert store.load() == []
    assert (tmp_path / "streams.sqlite3").stat().st_mode & 0o077 == 0  # addresses have passwords
    other = replace(STREAM, id="b", created=1.0)
    store.save(STREAM)
    store.save(other)
    changed = replace(STREAM, version=2, status="stop")
    store.save(changed)
    assert StreamStore(tmp_path / "streams.sqlite3").load() == [other, changed]
    store.delete("b")
    assert store.load() == [changed]


@pytest.mark.parametrize("what", ["garbage", "newer", "directory", "no directory", "locked"])
@pytest.mark.slow("SQLite waits for a lock in real time")
def test_a_file_that_cannot_be_used_is_named(tmp_path, what):
    path = tmp_path / "streams.sqlite3"
    if what == "garbage":
        path.write_bytes(b"no database " * 200)
    elif what == "newer":
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 9")
        connection.close()
    elif what == "locked":
        connection = sqlite3.connect(path)
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"streams\.sqlite3: database is locked"):
            StreamStore(path).save(STREAM)
        connection.close()
        StreamStore(path).save(STREAM)
        return
    elif what == "directory":
        path.mkdir()
    else:
        path = tmp_path / "away" / "streams.sqlite3"
    with pytest.raises(StoreError, match=r"streams\.sqlite3"):
        StreamStore(path).load()


def test_a_file_of_an_earlier_version_is_taken_over(tmp_path):
    path = tmp_path / "streams.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE streams (id TEXT PRIMARY KEY, version INTEGER NOT NULL,
                status TEXT NOT NULL, created REAL NOT NULL, definition TEXT NOT NULL);
            INSERT INTO streams VALUES ('a', 1, 'pending', 5.0, '{}');
            PRAGMA user_version = 1;
        """)
    store = StreamStore(path)
    assert store.load() == [STREAM]
    failed = replace(STREAM, status="failure", code="timeout", reason="no attempt is left")
    store.save(failed)
    assert StreamStore(path).load() == [failed]
