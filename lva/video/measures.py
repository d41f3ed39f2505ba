"""What plugins that ship measure: one table of metrics for the documentation and for scrapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from lva.metrics import Metric

#: The values of labels, with the value of the metric.
Values: TypeAlias = Mapping[tuple[str, ...], float]
#: The labels that all metrics of a stream have.
STREAM: Final = ("stream", "stream_id")
#: Longer names of streams are cut.
LONGEST_NAME: Final = 100


class Measure(NamedTuple):
    """One metric: what the documentation's table and a scrape are made from.

    Attributes:
        labels: All labels that the plugin gives it.
        values: Returns the values by the labels that are not those of what is measured, given that.
    """

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str
    values: Callable[..., Values]


def measured(
    measures: Iterable[Measure], things: Collection[tuple[tuple[str, ...], tuple[Any, ...]]]
) -> list[Metric]:
    """Return the metrics as they are now.

    Args:
        measures: Of these.
        things: Of each thing that is measured, the values of its own labels, which come first, and what the
            measures' functions are called with.
    """
    return [
        Metric(
            each.name,
            each.kind,
            each.meaning,
            each.labels,
            [
                ((*own, *labels), value)
                for own, thing in things
                for labels, value in each.values(*thing).items()
            ],
        )
        for each in measures
    ]
