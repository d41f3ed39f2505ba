"""What another program has written to the server, or an agent of another version: it harms nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from lva.fleet.config import SOFT
from lva.fleet.rows import AgentRow, ReportedState
from lva.fleet.server import FleetServerError
from tests.fleet.agents import LEASE, agent, row, until
from tests.fleet.history import History

pytestmark = pytest.mark.slow("a real server and real time: agents beat on while values are broken")

KEY = "lva:{test}"
STOPPED = ReportedState("stop", True, "", None, 1.0, "one")
GOOD = json.loads(row("x").as_json())
STATE = json.loads(ReportedState("stop", True, "", None, 1.0, "one", 1).as_json())
AGENT = json.loads(AgentRow("x", "i", "http://a:1", 5, frozenset()).as_json())


def changed(good: dict[str, Any], **parts: Any) -> str:
    return json.dumps({**good, **parts})


def without(good: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            json.dumps({name: good[name] for name in good if name != left_out}),
            f"it has no {left_out}",
        )
        for left_out in good
        if left_out != "code"
    ]


#: A value, and what is told of it: of streams, of their states, and of agents.
NO_OBJECTS: list[tuple[str | bytes, str]] = [
    ("{", "no JSON"),
    (json.dumps(GOOD)[:-5], "no JSON"),
    ("[]", "no JSON object"),
    ("null", "no JSON object"),
    ("true", "no JSON object"),
    ("17", "no JSON object"),
    ('"a text"', "no JSON object"),
    ("<xml/>", "no JSON"),
    (b"\xff\xfe\x00", "no JSON"),
    (b'{"version":1,"x":"\xff"}', "no UTF-8"),
    ('{"version":1,"x":"\\ud800"}', "no UTF-8"),
    (b"\x80\x04\x95\x10pickle", "no JSON"),
    ("[" * 100_000, "no JSON"),
    (f'{{"x":"{"x" * 2_100_000}"}}', "more than"),
    ("\x00", "no JSON"),
    ("9" * 5000, "no JSON"),
]
STREAMS: list[tuple[str | bytes, str]] = [
    *NO_OBJECTS,
    *without(GOOD),
    (changed(GOOD, version="1"), "version is a str"),
    (changed(GOOD, version=0), "version is from 1 on"),
    (changed(GOOD, version=-7), "version is from 1 on"),
    (changed(GOOD, version=True), "version is a bool"),
    (changed(GOOD, version=1.5), "version is a float"),
    (changed(GOOD, version=10**40), "version is too large"),
    (changed(GOOD, version=10**15), "version is too large"),
    (changed(GOOD, created=float("nan")), "NaN is no number"),
    (changed(GOOD, created=float("inf")), "Infinity is no number"),
    (changed(GOOD, created=10**400), "created is too large"),
    (changed(GOOD, created="yesterday"), "created is a str"),
    (changed(GOOD, created=None), "created is a NoneType"),
    (changed(GOOD, definition=[]), "definition is a list"),
    (changed(GOOD, definition="x"), "definition is a str"),
    (changed(GOOD, labels="gpu"), "labels is a str"),
    (changed(GOOD, labels=[1]), "labels are texts"),
    (changed(GOOD, labels=[["gpu"]]), "labels are texts"),
    (changed(GOOD, labels={"gpu": 1}), "labels is a dict"),
]
STATES: list[tuple[str | bytes, str]] = [
    *NO_OBJECTS,
    *without(STATE),
    (changed(STATE, over="no"), "over is a str"),
    (changed(STATE, over=0), "over is a int"),
    (changed(STATE, code=17), "code is a int"),
    (changed(STATE, since=float("nan")), "NaN is no number"),
    (changed(STATE, epoch=1.5), "epoch is a float"),
    (changed(STATE, epoch=10**40), "epoch is too large"),
]
AGENTS: list[tuple[str | bytes, str]] = [
    *((value, fault) for value, fault in NO_OBJECTS if isinstance(value, str) and value[0] > " "),
    *without(AGENT),
    (changed(AGENT, room=10**40), "room is too large"),
    (changed(AGENT, room="5"), "room is a str"),
    (changed(AGENT, labels=[{}]), "labels are texts"),
    (changed(AGENT, load=float("nan")), "NaN is no number"),
    (changed(AGENT, address="file:///etc/passwd"), "address is http://host:port"),
    (changed(AGENT, address="http://a:1/@b"), "address is http://host:port"),
    (changed(AGENT, draining=1), "draining is a int"),
]
EPOCHS = [
    "x",
    "007",
    "-5",
    "1.5",
    "1e3",
    "9223372036854775807",
    "1000000000000000",
    "9007199254740993",
    "",
    " 1",
    "0x10",
]
WANTED = ["Run", "delete", "1", "{}", "\x00"]
LEASES = [
    "ghost",
    "ghost x",
    "ghost -1",
    "ghost 1 2",
    " 1",
    "1",
    "{}",
    "ghost 99999999999999999999",
    "ghost 1.5",
]
#: Fields of the fleet's own key, which are mended.
OWN = [("revision", "x"), ("revision", "-1"), ("revision", "0"), ("agents", "x"), ("trimmed", "x"),
       ("trimmed", "900000000000000"), ("settled", "perhaps"), ("boot", "another")]  # fmt: skip
#: Keys that no agent can do without, and those without which nothing is told.
NEEDED, TOLD = (
    ("leases", "beats", "agents"),
    ("streams", "wanted", "states", "epochs", "offers", "changed"),
)


def test_there_are_enough_of_them() -> None:
    assert len(STREAMS) + len(STATES) + len(AGENTS) + len(EPOCHS) + len(WANTED) + len(LEASES) > 100


async def test_broken_values_stop_nobody_and_are_told_and_kept(redis, caplog, nursery):
    """The kind is any value that no agent of this version has written, in any key of the fleet."""
    client, history = redis.client, History()
    gaps = [0.0]  # between two turns of this loop

    async def note_gaps() -> None:
        while True:
            began = trio.current_time()
            await trio.sleep(0.05)
            gaps.append(trio.current_time() - began)

    nursery.start_soon(note_gaps)

    def show(stream_id: str | bytes) -> None:
        client.zadd(f"{KEY}:changed", {stream_id: client.hincrby(KEY, "revision", 1)})

    async with agent(redis.url, "one", history) as one, agent(redis.url, "two", history) as two:
        await until(lambda: one.fleet.trouble is None and two.fleet.trouble is None)
        for number in range(4):
            await one.fleet.put(row(f"s{number}"), 0)
        await until(lambda: len(one.streams | two.streams) == 4)
        await until(lambda: not any(each.offered for each in one.fleet.view.rows.values()))

        def told(what: dict[str, str], of: str) -> Callable[[], bool]:
            return lambda: all(
                fault in getattr(each.fleet.view, of).get(name, "")
                for each in (one, two)
                for name, fault in what.items()
            )

        def assert_none_stopped() -> None:
            why = {*one.notes.reasons, *two.notes.reasons}
            if max(gaps) > LEASE * SOFT / 2:  # the machine was too busy for a beat
                why -= {"its lease cannot be renewed: no beat has succeeded"}
            assert why <= {"agent one goes on with it", "agent two goes on with it"}

        async def check(what: dict[str, str], of: str = "broken") -> None:
            await until(told(what, of))
            assert one.fleet.trouble is None
            assert two.fleet.trouble is None
            # One may be on its way from one agent to the other.
            await until(lambda: len(one.streams | two.streams) >= 4)
            assert_none_stopped()

        # Streams.
        names = {f"bad{number}": each for number, each in enumerate(STREAMS)}
        for name, (value, _) in names.items():
            client.hset(f"{KEY}:streams", name, value)
            show(name)
        await check({name: fault for name, (_, fault) in names.items()})
        # Their states, and what is wanted of them.
        states = {f"state{number}": each for number, each in enumerate(STATES)}
        states |= {
            f"wanted{number}": (each, "what is wanted is") for number, each in enumerate(WANTED)
        }
        for name, (value, _) in states.items():
            client.hset(f"{KEY}:{'states' if name.startswith('state') else 'wanted'}", name, value)
            client.hset(f"{KEY}:streams", name, json.dumps(GOOD))
            show(name)
        await check({name: fault for name, (_, fault) in states.items()})
        # Agents.
        agents = {f"agent{number}": each for number, each in enumerate(AGENTS)}
        for name, (value, _) in agents.items():
            client.hset(f"{KEY}:agents", name, b"ghost " + str(value).encode())
        client.hset(f"{KEY}:agents", "nobody", json.dumps(AGENT))
        client.hset(f"{KEY}:agents", b"\xfe", b"\xff")
        client.hincrby(KEY, "agents", 1)
        await check(
            {name: fault for name, (_, fault) in agents.items()}
            | {"nobody": "it is no JSON", "\\udcfe": "names no process"},
            "broken_agents",
        )
        # Ids, foreign members, beats.
        client.hset(f"{KEY}:streams", b"\xff", json.dumps(GOOD))
        client.hset(f"{KEY}:streams", "two words", json.dumps(GOOD))
        for each in (b"\xff", "two words", "nothing", "x" * 10_000):
            show(each)
        client.zadd(f"{KEY}:changed", {"far": "inf", "near": "-inf", "half": 0.5, "high": 1e300})
        client.hset(
            f"{KEY}:beats", mapping={"ghost": "x", b"\xff": b"\xfe", "": "", "other": "1e99"}
        )
        await check({"\\udcff": "its id is none", "two words": "its id is none"})
        # Epochs: who takes a stream must be sure of a higher one than anybody had.
        epochs = {f"epoch{number}": each for number, each in enumerate(EPOCHS)}
        for name, value in epochs.items():
            client.hset(f"{KEY}:epochs", name, value)
            client.hset(f"{KEY}:streams", name, json.dumps(GOOD))
            show(name)
        for name, value in epochs.items():
            await until(
                lambda name=name: any(
                    "which is no epoch" in each.fleet.view.broken.get(name, "")
                    for each in (one, two)
                )
            )
            assert client.hget(f"{KEY}:epochs", name) == value.encode()
        # Leases that are none, and of an agent that nobody knows: free at once, or after the time of a lease.
        leases = {f"lease{number}": each for number, each in enumerate(LEASES)}
        for name, value in {**leases, "lease": "ghost 7", "bytes": b"\xff"}.items():
            client.hset(f"{KEY}:leases", name, value)
            client.hset(f"{KEY}:streams", name, json.dumps(GOOD))
            show(name)
        await until(lambda: (one.streams | two.streams) >= {*leases, "lease", "bytes"})
        # The fleet's own fields.
        for field, value in OWN:
            client.hset(KEY, field, value)
            stream_id = f"{field}-{value}".replace(" ", "")
            await until(lambda: one.fleet.trouble is None)
            await one.fleet.put(row(stream_id), 0)
            await until(lambda stream_id=stream_id: stream_id in one.streams | two.streams)
        incarnation = client.hget(f"{KEY}:agents", "one").split()[0]
        client.hset(f"{KEY}:beats", incarnation, "x")
        await until(lambda: client.hget(f"{KEY}:beats", incarnation) != b"x")
        # Versions.
        client.hset(f"{KEY}:versions", "s0", "x")
        with pytest.raises(FleetServerError, match=r"versions has 'x' for stream s0"):
            await one.fleet.put(row("s0", 2), 1)
        # Keys of another type, which agents can do without for a while.
        rows = {*one.fleet.view.rows}
        client.hset(f"{KEY}:offers", "nothing", "nobody")
        for name in TOLD:
            client.rename(f"{KEY}:{name}", "aside")
            client.set(f"{KEY}:{name}", "another program's")
            show_after = "aside" if name == "changed" else f"{KEY}:changed"
            client.zadd(show_after, {"s1": client.hincrby(KEY, "revision", 1)})
            await until(lambda name=name: f"{KEY}:{name}" in (one.fleet.trouble or ""))
            assert client.get(f"{KEY}:{name}") == b"another program's"
            client.rename("aside", f"{KEY}:{name}")
            await until(lambda: one.fleet.trouble is None and two.fleet.trouble is None)
            assert {*one.fleet.view.rows} == rows
        # What was broken at first is there as it was.
        for name, (value, _) in names.items():
            kept = client.hget(f"{KEY}:streams", name)
            assert kept == (value if isinstance(value, bytes) else value.encode())
        assert_none_stopped()
        assert "stream bad0 is not worked on, its row cannot be read: it is no JSON" in caplog.text
        # Keys that no agent can do without: streams end in time, and go on once the keys are there again.
        streams = one.streams | two.streams
        for name in NEEDED:
            client.rename(f"{KEY}:{name}", "aside")
            client.set(f"{KEY}:{name}", "another program's")
            what = f"the key {KEY}:{name} is a string, which no agent has written"
            await until(lambda what=what: what in (one.fleet.trouble or ""))
            client.rename("aside", f"{KEY}:{name}")
            await until(lambda: one.fleet.trouble is None and two.fleet.trouble is None)
            await until(lambda: one.streams | two.streams == streams)
    assert history.faults([], 0, []) == []


#: Of the counter of changes: Lua and sorted sets have 53 bits for a number, and a text of it 14 digits.
REVISIONS = [
    "9007199254740993",
    "9223372036854775807",
    "2000000000000000",
    "1234567890123456",
    "99999999999999",
    "0",
]


async def test_every_change_is_told_whatever_the_counter_of_changes_was_set_to(redis):
    """The kind is a number that another program has written and from which a script counts on."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        for number, value in enumerate(REVISIONS):
            redis.client.hset(KEY, "revision", value)
            pair = {f"a{number}", f"b{number}"}
            for stream_id in sorted(pair):
                await one.fleet.put(row(stream_id), 0)
            await until(lambda pair=pair: pair <= one.streams)
            one.fleet.hurry()
            for stream_id in pair:
                await one.fleet.want(stream_id, "stop", STOPPED, "")
            await until(lambda pair=pair: not pair & one.streams)
            await until(lambda: all(each.wanted == "stop" for each in one.fleet.view.rows.values()))
        assert {*one.fleet.view.rows} == {f"{a}{n}" for a in "ab" for n in range(len(REVISIONS))}
        assert int(redis.client.hget(KEY, "revision")) < 2**53


async def test_the_highest_epochs_are_used_up_and_refused_then(redis):
    """The kind is a number that another program has written, and that no script can raise and tell."""
    async with agent(redis.url, "one", History()) as one:
        await until(lambda: one.fleet.trouble is None)
        for stream_id, epoch in (("s", 99_999_999_999_999), ("t", 10**15 - 2), ("u", 10**15 - 1)):
            redis.client.hset(f"{KEY}:epochs", stream_id, epoch)
            await one.fleet.put(row(stream_id), 0)
        await until(lambda: one.streams == {"s", "t"} and "u" in one.fleet.view.broken)
        assert {one.notes.running[each][0] for each in "st"} == {10**14, 10**15 - 1}
        assert "the highest epoch that there is" in one.fleet.view.broken["u"]
        redis.client.hset(f"{KEY}:epochs", "s", 10**16)  # while it is worked on
        await one.fleet.put(row("s", 2), 1)
        await until(lambda: one.notes.versions["s"] == 2)
        redis.client.hset(f"{KEY}:versions", "s", 10**15 - 1)
        with pytest.raises(FleetServerError, match="the highest version"):
            await one.fleet.put(row("s", 10**15), 10**15 - 1)
        assert one.notes.reasons == []
