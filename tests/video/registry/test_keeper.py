"""What is written of streams, and in which order, when several write at once."""

from __future__ import annotations

import logging
import threading

import pytest
import trio

from lva.video.registry.keeper import RETRY, Keeper
from lva.video.registry.store import StoredStream, StoreError


class Store:
    """A file that cannot be written at first, and is slow then."""

    def __init__(self):
        self.rows, self.broken, self.slow = {}, True, threading.Event()

    def _use(self):
        if self.broken:
            raise StoreError("the disk is full")
        self.slow.wait(10)

    def check(self):
        self._use()

    def save(self, row):
        self._use()
        self.rows[row.id] = row.definition

    def delete(self, stream_id):
        self._use()
        self.rows.pop(stream_id, None)


def row(definition):
    return StoredStream("id", 1, "stop", 0.0, definition)


@pytest.mark.parametrize("work", ["delete", "save"])
async def test_what_was_late_is_not_written_over_what_is_newer(autojump_clock, work):
    """The kind is a removal, or a change, made while what could not be written before is being caught up."""
    store = Store()
    keeper = Keeper(store, logging.getLogger("lva.test"))
    with pytest.raises(StoreError):
        await keeper.save_now_or_later(row("old"))
    store.broken = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(getattr(keeper, work), "id" if work == "delete" else row("new"))
        nursery.start_soon(keeper.run)
        await trio.sleep(RETRY * 1.5)
        store.slow.set()
        await trio.sleep(RETRY * 2)
        nursery.cancel_scope.cancel()
    assert store.rows == ({} if work == "delete" else {"id": "new"})
