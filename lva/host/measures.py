"""Reads what plugins measure; one that fails costs no other plugin anything."""

from __future__ import annotations

from collections.abc import Iterable

from lva.host.life.record import Record
from lva.host.life.states import State
from lva.host.watch.clock import enter_plugin, leave_plugin
from lva.logs.loggers import brief, own_logger
from lva.metrics import Metric


class Measures:
    """The metrics of all plugins."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}

    def read(self, records: Iterable[Record]) -> dict[str, list[Metric]]:
        """Return the metrics of the plugins that run, by their names.

        What one of them raises is logged, once until it is something else.
        """
        found = {}
        for record in records:
            if record.metrics and record.state.value is State.RUNNING:
                found[record.name] = self._of(record)
        return found

    def _of(self, record: Record) -> list[Metric]:
        token = enter_plugin(record.name)
        try:
            metrics = [metric for read in record.metrics for metric in read()]
            if wrong := [metric for metric in metrics if not isinstance(metric, Metric)]:
                raise TypeError(
                    f"what reads metrics returned {type(wrong[0]).__name__}, not Metric"
                )
        except Exception as error:  # noqa: BLE001 - whatever the author's code raises
            if self._failed.get(record.name) != (said := brief(error)):
                self._failed[record.name] = said
                own_logger(record.name).error("its metrics are left out: %s", said, exc_info=error)
            return []
        finally:
            leave_plugin(token)
        self._failed.pop(record.name, None)
        return metrics
