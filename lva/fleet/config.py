"""What an operator says of a fleet and of this agent's part in it."""

from __future__ import annotations

import socket
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from lva.settings.redis_server import RedisAddress

#: Names are parts of keys in Redis, of addresses and of labels of metrics.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
#: Parts of the time of a lease: then a holder that cannot renew ends its workers, and then the kernel does.
SOFT, HARD = 0.75, 0.95


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
    address: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+$",
        description="Where other agents reach this one: http://10.0.0.7:5200; where it listens if left out.",
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
