"""Server-sent events in the lines in which they come."""

from __future__ import annotations

from lva.client.events import EventLines


def test_events_are_put_together_from_their_lines():
    """Kind: what is a line on the way need not be an event: comments, more data, no name, no data."""
    text = ': hello\nevent: tick\ndata: {"n":\ndata:1}\n\nevent: none\n\ndata: {"n": 2}\n\n'
    whole = EventLines()
    found = [event for line in text.split("\n") if (event := whole.take(line)) is not None]
    assert found == [("tick", {"n": 1}), ("message", {"n": 2})]
