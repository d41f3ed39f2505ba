"""What is kept of streams and agents, as JSON, and how it is read: another program may have written it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

#: Most bytes of a row that are looked at, and the highest number that all programs read alike.
MAX_ROW: Final = 2 * 1024 * 1024
MAX_NUMBER: Final = 2**53
#: The highest epoch and version: scripts count on from what is read.
MAX_COUNT: Final = 10**15 - 1
_ID: Final = re.compile(r"[!-~]{1,200}")
_ADDRESS: Final = re.compile(r"https?://[^\s/?#@]+")


class BrokenRowError(ValueError):
    """A row cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a stream.

    Attributes:
        incarnation: Of the agent's process.
        epoch: From 1 on; each holder's is higher than those before.
    """

    incarnation: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.incarnation} {self.epoch}"

    @classmethod
    def read(cls, text: str) -> Lease | None:
        """Return the lease that a value says; None for none, and for what is no lease: it can be taken."""
        incarnation, _, epoch = text.partition(" ")
        number = count_of(epoch)
        return None if not incarnation or number is None else cls(incarnation, number)


@dataclass(frozen=True, slots=True)
class ReportedState:
    """How a stream is, as its last holder said.

    Attributes:
        status: As `/streams` has it.
        over: Whether nobody is to work on it.
        reason, code: Of the state.
        since: In Unix seconds.
        agent: Who said so.
        epoch: Of its lease.
    """

    status: str
    over: bool
    reason: str
    code: str | None
    since: float
    agent: str
    epoch: int = 0

    def as_json(self) -> str:
        """Return it as it is kept."""
        return _json(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the state that a value says.

        Raises:
            BrokenRowError: It is none.
        """
        found = _object(text)
        try:
            return cls(
                _typed(found, "status", str),
                _typed(found, "over", bool),
                _typed(found, "reason", str),
                None if found.get("code") is None else _typed(found, "code", str),
                float(_typed(found, "since", int, float)),
                _typed(found, "agent", str),
                _typed(found, "epoch", int),
            )
        except KeyError as error:
            raise BrokenRowError(f"it has no {error.args[0]}") from None


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream of the fleet.

    Attributes:
        id: Its id.
        version: Of its definition, from 1 on.
        definition: What the user asked for, as JSON.
        created: In Unix seconds.
        labels: An agent has to have all of them.
        wanted: ``run``, ``stop`` or ``remove``.
        state: As its last holder said; None if nobody has held it since it was made, changed or resumed.
        lease: Who works on it; None for nobody.
        lease_value: As it is kept, which may be no lease.
        epoch: The highest of its leases until now.
        offered: The agent to which it is being handed over.
    """

    id: str
    version: int
    definition: Mapping[str, Any]
    created: float
    labels: frozenset[str] = frozenset()
    wanted: str = "run"
    state: ReportedState | None = None
    lease: Lease | None = None
    lease_value: str = ""
    epoch: int = 0
    offered: str = ""

    @property
    def to_run(self) -> bool:
        """Whether somebody is to work on it."""
        return self.wanted == "run" and (self.state is None or not self.state.over)

    def as_json(self) -> str:
        """Return the part that users write, as it is kept."""
        return _json(
            {
                "version": self.version,
                "definition": self.definition,
                "created": self.created,
                "labels": sorted(self.labels),
            }
        )

    @classmethod
    def read(cls, values: Sequence[str]) -> Self:
        """Return the stream that a row of a beat's reply says.

        Args:
            values: Id, row, what is wanted, state, lease, epoch, offer; all but the first two may be empty.

        Raises:
            BrokenRowError: It is none.
        """
        stream_id, row, wanted, state, lease, epoch, offered = values
        if not _ID.fullmatch(stream_id):
            raise BrokenRowError("its id is none")
        found = _object(row)
        try:
            version = _typed(found, "version", int)
            made = cls(
                stream_id,
                version,
                _typed(found, "definition", dict),
                float(_typed(found, "created", int, float)),
                _labels(found),
            )
        except KeyError as error:
            raise BrokenRowError(f"it has no {error.args[0]}") from None
        if version < 1:
            raise BrokenRowError("version is from 1 on")
        if version > MAX_COUNT:
            raise BrokenRowError("version is too large")
        if wanted not in ("", "run", "stop", "remove"):
            raise BrokenRowError(f"what is wanted is run, stop or remove, not {wanted[:20]!r}")
        return replace(
            made,
            wanted=wanted or "run",
            state=ReportedState.read(state) if state else None,
            lease=Lease.read(lease),
            lease_value=lease,
            epoch=count_of(epoch) or 0,
            offered=offered,
        )


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent of the fleet.

    Attributes:
        name: Its name.
        incarnation: Of its process.
        address: Where it is reached.
        room: Most streams it works on.
        labels: Streams that ask for these may be given to it.
        streams: How many it works on.
        load: Of its machine: running processes for each processor.
        draining: Whether it hands its streams over and takes none.
        full: Whether it takes none because of its load.
        since: When it has started, in Unix seconds.
    """

    name: str
    incarnation: str
    address: str
    room: int
    labels: frozenset[str]
    streams: int = 0
    load: float = 0.0
    draining: bool = False
    full: bool = False
    since: float = 0.0

    def as_json(self) -> str:
        """Return it as it is kept, behind its incarnation."""
        found = {**asdict(self), "labels": sorted(self.labels)}
        return _json({key: found[key] for key in found if key not in ("name", "incarnation")})

    @classmethod
    def read(cls, name: str, text: str) -> Self:
        """Return the agent that a value says.

        Raises:
            BrokenRowError: It is none.
        """
        incarnation, _, rest = text.partition(" ")
        if not _ID.fullmatch(incarnation) or not _ID.fullmatch(name):
            raise BrokenRowError("it names no process of an agent")
        found = _object(rest)
        try:
            address = _typed(found, "address", str)
            if not _ADDRESS.fullmatch(address):
                raise BrokenRowError("address is http://host:port")
            return cls(
                name,
                incarnation,
                address,
                max(0, _typed(found, "room", int)),
                _labels(found),
                max(0, _typed(found, "streams", int)),
                float(_typed(found, "load", int, float)),
                _typed(found, "draining", bool),
                _typed(found, "full", bool),
                float(_typed(found, "since", int, float)),
            )
        except KeyError as error:
            raise BrokenRowError(f"it has no {error.args[0]}") from None


def count_of(text: str) -> int | None:
    """Return the epoch or version that a value says, if it is one, of at most `MAX_COUNT`."""
    is_one = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNT))
    return int(text) if is_one else None


def _json(found: Mapping[str, Any]) -> str:
    return as_utf8(json.dumps(found, ensure_ascii=False, separators=(",", ":")))


def as_utf8(text: str) -> str:
    """Return a text with ``?`` for what is no character: a camera's response may have half of one."""
    return text.encode("utf-8", "replace").decode()


def _object(text: str) -> dict[str, Any]:
    if not text:
        raise BrokenRowError("there is no row")
    if len(text) > MAX_ROW:
        raise BrokenRowError(f"it has {len(text)} characters, more than {MAX_ROW}")
    try:
        found = json.loads(text, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BrokenRowError("it is no UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BrokenRowError(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BrokenRowError("it is no JSON object")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _typed(found: Mapping[str, Any], key: str, *kinds: type) -> Any:
    value = found[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise BrokenRowError(f"{key} is a {type(value).__name__}")
    if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:  # and not NaN
        raise BrokenRowError(f"{key} is too large")
    return value


def _labels(found: Mapping[str, Any]) -> frozenset[str]:
    labels = _typed(found, "labels", list)
    if not all(isinstance(label, str) for label in labels):
        raise BrokenRowError("labels are texts")
    return frozenset(labels)
