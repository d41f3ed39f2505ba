"""The pieces of a streamed body are made by the plugin's code, whoever asks for them."""

from __future__ import annotations

import trio
from quart_trio.wrappers import TrioResponse

from lva.logs.loggers import current_plugin
from lva.web.handling.bodies import end_with_server, stream_for_plugin

ended: list[str | None] = []


def plain():
    try:
        for _ in range(2):
            yield f"{current_plugin.get()}"
    finally:
        ended.append(current_plugin.get())


async def asynchronous():
    try:
        for _ in range(2):
            yield f"{current_plugin.get()}"
    finally:
        ended.append(current_plugin.get())


async def test_each_piece_is_made_as_the_plugin_and_the_server_between_them_is_nobody():
    for body in (plain(), asynchronous()):
        ended.clear()
        response = TrioResponse(body)
        stream_for_plugin("p", response)
        async with response.response as pieces:
            seen = [(piece, current_plugin.get()) async for piece in pieces]
        assert seen == [("p", None), ("p", None)]
        assert ended == ["p"]


async def test_a_body_that_is_left_early_is_closed_as_the_plugin():
    ended.clear()
    response = TrioResponse(asynchronous())
    stream_for_plugin("p", response)
    async with response.response as pieces:
        assert await anext(aiter(pieces)) == "p"
    assert ended == ["p"]
    assert current_plugin.get() is None


async def test_other_bodies_are_left_as_they_are():
    response = TrioResponse("text")
    stream_for_plugin("p", response)
    assert await response.get_data() == b"text"
    stream_for_plugin("p", None)


async def for_ever():
    try:
        while True:
            yield "data: 1\n\n"
            await trio.sleep(1)
    finally:
        ended.append("events")


async def test_server_sent_events_end_when_the_server_closes(autojump_clock):
    """The kind: a response without an end, which the server would wait for at its own."""
    ended.clear()
    closing = trio.Event()
    response = TrioResponse(for_ever(), content_type="text/event-stream; charset=utf-8")
    assert end_with_server(response, closing)
    assert response.timeout is None
    seen = []
    async with response.response as pieces:
        async for piece in pieces:
            seen.append(piece)
            if len(seen) == 3:
                closing.set()
    assert len(seen) == 3
    assert ended == ["events"]


async def test_other_responses_end_by_themselves():
    for response in (TrioResponse("text"), TrioResponse(asynchronous()), None):
        assert not end_with_server(response, trio.Event())
    await response_ended(TrioResponse(for_ever(), content_type="text/event-stream"))


async def response_ended(response):
    """Its own end, and being left early, close the plugin's generator."""
    ended.clear()
    assert end_with_server(response, trio.Event())
    async with response.response as pieces:
        assert await anext(aiter(pieces))
    assert ended == ["events"]
