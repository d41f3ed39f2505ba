"""Streams of a running service, asked for and shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from lva.client.asking import ask, refusal, streaming
from lva.client.events import Event, EventLines
from lva.client.target import FailedError, Target
from lva.client.words import age, clean, clock, count, fine_age, pairs, table_with

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

#: Streams in one response.
_PAGE: Final = 1000
#: An update comes every second.
_SILENCE: Final = 10.0
STATE_STYLES: Final = {
    "in_progress": "green",
    "pending": "yellow",
    "restart": "yellow",
    "failure": "bold red",
    "paused": "dim",
    "stop": "dim",
    "done": "dim",
}


def answer(
    target: Target, method: str, plugin: str, stream: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the response to a request about one stream, or about all if `stream` is empty.

    Raises:
        FailedError: Nothing responds, the plugin is not active, or it refuses.
    """
    path = f"/{quote(plugin, safe='')}" + (f"/{quote(stream, safe='')}" if stream else "")
    # Ending a stream may wait for others that are ended first.
    status, found = ask(target, method, path, body=body, patience=60.0)
    if status >= 400:
        raise _refused(target, plugin, status, found)
    return found


def _refused(target: Target, plugin: str, status: int, problem: dict[str, Any]) -> FailedError:
    nothing = status == 404 and str(problem.get("detail", "")).startswith("There is nothing at")
    if nothing:
        return FailedError(
            f"the plugin {clean(plugin)} is not active at {target.address}; start the service with"
            f" --active {clean(plugin)}"
        )
    return refusal(status, problem)


def all_streams(target: Target, plugin: str, status: str | None = None) -> list[dict[str, Any]]:
    """Return all streams, or those in one state.

    Raises:
        FailedError: As `answer`.
    """
    wanted = "" if status is None else f"&status={quote(status, safe='')}"
    found: list[dict[str, Any]] = []
    while True:
        query = f"?limit={_PAGE}&offset={len(found)}{wanted}"
        code, page = ask(target, "GET", f"/{quote(plugin, safe='')}{query}")
        if code != 200:
            raise _refused(target, plugin, code, page)
        found += page["streams"]
        if not page["streams"] or len(found) >= page["total"]:
            return found


def table_of(streams: list[dict[str, Any]]) -> Table:
    """Return streams as a table, a line for each."""
    from rich.text import Text

    shared = any(stream["fleet"] is not None for stream in streams)
    table = table_with(
        ("STREAM", "ID", *(["AGENT"] if shared else []), "STATE", "FOR"),
        ("FPS", "AGE", "DECODED", "ANALYSED", "DROPPED", "RECONNECTS", "EVENTS"),
    )
    table.add_column("SOURCE", no_wrap=True, overflow="ellipsis")
    now = time.time()
    for stream in streams:
        state = clean(stream["status"])
        table.add_row(
            clean(stream["name"]),
            clean(stream["stream_id"])[:8],
            *([_agent_of(stream["fleet"])] if shared else []),
            Text(state, STATE_STYLES.get(state, "")),
            "" if stream["since"] is None else age(now - stream["since"]),
            count(stream["fps"]),
            fine_age(stream["picture_age"]),
            *_counts(stream),
            clean(stream["source"]),
        )
    return table


def _agent_of(fleet: dict[str, Any]) -> str:
    """Return which agent works on a stream, or why none does."""
    if fleet["agent"] is None:
        return clean(fleet["waiting"] or "-")
    return clean(fleet["agent"]) + ("" if fleet["alive"] else " (not alive)")


def _counts(stream: dict[str, Any]) -> list[str]:
    """Return a stream's counters; only the agent that works on it knows them."""
    frames = stream["frames"]
    if frames is None:
        return ["-"] * 5
    return [
        count(frames["decoded"]),
        count(frames["analysed"]),
        count(sum(frames["dropped"].values())),
        count(sum(stream["input"]["reconnects"].values())),
        count(stream["events"]),
    ]


def happenings(target: Target, plugin: str, stream: str | None) -> Iterator[dict[str, Any]]:
    """Go through what happens: how each stream is at first, then changes and events, each with its ``kind``.

    Raises:
        FailedError: As `answer`; or the service, or the only stream that is watched, has gone.
    """
    known = False
    for name, told in _messages(target, plugin, stream):
        if name == "hello":
            if stream is not None and known and not told["streams"]:
                raise FailedError(f"the stream {clean(stream)} was removed")
            for item in () if known else told["streams"]:
                yield {"kind": "stream", **item}
            known = True
            continue
        happened = [{"kind": "change", **item} for item in told["changes"]]
        happened += [{"kind": "event", **item} for item in told["events"]]
        yield from sorted(happened, key=lambda item: float(item["time"]))
        if told["left_out"]:
            yield {"kind": "left_out", "time": told["at"], "events": told["left_out"]}


def _messages(target: Target, plugin: str, stream: str | None) -> Iterator[Event]:
    query = [] if stream is None else [("stream", stream)]
    refused = partial(_refused, target, plugin)
    with streaming(target, f"/{quote(plugin, safe='')}/live", query, _SILENCE, refused) as lines:
        yield from filter(None, map(EventLines().take, lines))


def line_of(item: dict[str, Any]) -> Text:
    """Return what has happened as a line for people."""
    from rich.text import Text

    at = item["since"] if item["kind"] == "stream" else item["time"]
    name = clean(item.get("name") or item.get("stream") or "")
    line = Text.assemble((clock(at or time.time()), "dim"), " ", (name, "bold"), "  ")
    if item["kind"] == "left_out":
        return line.append(f"… {item['events']} events left out", "dim")
    if item["kind"] == "event":
        seen = f"{clean(item['analytics'])}: {clean(item['event_type'])}"
        return line.append(seen, "cyan").append(f"  frame {item['frame']}  {pairs(item['data'])}")
    state = clean(item["status"])
    line.append(state, STATE_STYLES.get(state, "")).append(f"  {clean(item['reason'] or '')}")
    return line.append(f"  ({clean(item['code'])})", "dim") if item["code"] else line
