"""What an operator says of a fleet and of this agent's part in it."""

from __future__ import annotations

import re
import socket
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from lva.settings.redis_server import RedisAddress


def _name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text) is None:
        raise ValueError(
            "a name begins with a letter or a digit, goes on with these and . _ - and has at most 100"
            " of them"
        )
    return text


def _address(text: str) -> str:
    if re.fullmatch(r"https?://[^\s/?#@]+", text) is None:
        raise ValueError("an address is http://host:port or https://host:port, and ends there")
    return text


#: Names are parts of keys in Redis, of addresses and of labels of metrics.
Name = Annotated[str, AfterValidator(_name)]
#: Part of the time of a lease after which a holder that cannot renew ends its workers.
SOFT = 0.75


def hard_end(lease: float) -> float:
    """Return how many seconds after a beat was sent the kernel ends the workers, if none succeeded since.

    The rest of the lease is for their end: a process is gone only once it has had the processor, and
    workers give way to others.

    Args:
        lease: Its time, in seconds.
    """
    return lease - max(0.05 * lease, min(0.3, 0.15 * lease))


def _own_name() -> str:
    return socket.gethostname()[:100] or "agent"


class FleetConfig(RedisAddress):
    """`[plugins.streams.config.fleet]`: share the streams of other agents over a Redis server."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Name = Field("lva", description="Name of the fleet, the same for all of its agents.")
    agent: Name = Field(
        default_factory=_own_name,
        description="Name of this agent, which no other has; the machine's name if left out.",
    )
    address: Annotated[str, AfterValidator(_address)] | None = Field(
        None,
        description="Where other agents reach this one: http://10.0.0.7:5200; where it listens if left out:"
        " then bind is a host and a port.",
    )
    room: int = Field(50, ge=0, le=10_000, description="Most streams that this agent works on.")
    max_load: float | None = Field(
        None,
        gt=0,
        description="Running processes for each processor of its machine, from which on it takes no more.",
    )
    labels: list[Name] = Field([], max_length=100, description="Streams may ask for these labels.")
    lease: float = Field(
        10.0,
        ge=2.0,
        le=300.0,
        description="Seconds after which the streams of an agent that gives no sign of life are taken over.",
    )
    when_away: Literal["stop", "go_on"] = Field(
        "stop",
        description="While the server is unreachable: stop streams before others take them, or go on.",
    )

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: list[str]) -> list[str]:
        return sorted({*labels})

    @property
    def tick(self) -> float:
        """Seconds between two beats."""
        return min(0.5, self.lease / 6)
