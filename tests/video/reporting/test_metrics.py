"""What is measured of streams: a series for each stream there is, and none of those that were."""

from __future__ import annotations

import logging
import os

import pytest
import trio

from lva.video.board import new_board
from lva.video.codes import CODES, StreamState
from lva.video.definition import StreamDefinition
from lva.video.measures import LONGEST_NAME
from lva.video.reporting.metrics import METRICS, metrics_of
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices


class Nobody:
    def changed(self, change):
        pass

    def seen(self, event):
        pass


def stream(name):
    services = StreamServices(lambda _: [], Nobody(), logging.getLogger("x"), trio.sleep)
    definition = StreamDefinition.model_validate({"name": name, "source": "test:"})
    made = Stream(f"id-{name[:9]}", definition, parse_source("test:"), services)
    made.move(StreamState.PENDING, "created")
    return made


def values(streams, name):
    """Return the values of a metric by its labels, without those of the stream's name and id."""
    (metric,) = [metric for metric in metrics_of(streams) if metric.name == name]
    return {(labels[1], *labels[2:]): value for labels, value in metric.samples}


def test_frames_states_and_reconnects_are_there_from_the_beginning_and_go_with_the_stream():
    door, gate = stream("door"), stream("gate")
    board, descriptor = new_board()
    os.close(descriptor)
    door.ledger.begin(board)
    board["decoded"], board["analysed"], board["dropped_busy"] = 10, 7, 2
    door.ledger.reconnects["stalled"] = 3
    door.move(StreamState.IN_PROGRESS, "frames")
    frames = values([door, gate], "lva_stream_frames_total")
    assert frames["id-door", "analysed", ""] == 7
    assert frames["id-door", "dropped", "busy"] == 2
    assert frames["id-gate", "dropped", "busy"] == 0
    assert values([door], "lva_stream_frames_held") == {("id-door",): 1}
    states = values([door], "lva_stream_state")
    assert {state for (_, state), value in states.items() if value} == {"in_progress"}
    assert len(states) == len(StreamState)
    reconnects = values([door], "lva_stream_reconnects_total")
    assert reconnects["id-door", "stalled"] == 3
    assert len(reconnects) == len(CODES)
    assert values([door], "lva_stream_picture_age_seconds") == {}  # there is no picture
    assert values([door], "lva_stream_worker_memory_bytes") == {}  # and no worker
    assert all(key[0] == "id-gate" for metric in METRICS for key in values([gate], metric.name))
    board.close()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_keeps_its_bounds(metric):
    """The kind: labels that a user chooses, and series without number."""
    long = stream("n" * 128)
    (found,) = [each for each in metrics_of([long]) if each.name == metric.name]
    assert len(found.samples) <= len(CODES)
    assert all(len(text) <= LONGEST_NAME for labels, _ in found.samples for text in labels)
    assert (found.kind == "counter") == metric.name.endswith("_total")
