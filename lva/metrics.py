"""What a plugin measures, for ``/metrics``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

_NAME: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_KINDS: Final = ("counter", "gauge")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a plugin, with its values now.

    Args:
        name: As Prometheus has it: letters, digits and ``_``; that of a counter ends with ``_total``.
        kind: ``"counter"``, which only rises, or ``"gauge"``.
        meaning: One sentence for people.
        labels: Names of its labels. Keep their values few: each combination is a series.
        samples: The values of the labels, in their order, with the value.

    Raises:
        TypeError, ValueError: One of these is not as it should be.
    """

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: Sequence[str] = ()
    samples: Sequence[tuple[Sequence[str], float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in (self.name, *self.labels):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name: letters, digits and _, not beginning with a digit"
                )
        if self.kind not in _KINDS:
            raise ValueError(f"the kind of {self.name} is counter or gauge, not {self.kind!r}")
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(
                f"{self.name}: names of counters, and of nothing else, end with _total"
            )
        for values, value in self.samples:
            if isinstance(values, str) or len(values) != len(self.labels):
                raise ValueError(
                    f"a sample of {self.name} has {values!r} for the labels {self.labels!r}"
                )
            if not isinstance(value, int | float) or not all(
                isinstance(one, str) for one in values
            ):
                raise TypeError(
                    f"a sample of {self.name} is no number with texts: {values!r}, {value!r}"
                )


#: Returns a plugin's metrics as they are now.
ReadMetrics: TypeAlias = Callable[[], Iterable[Metric]]
