"""One plugin as status pages show it: plain values, without secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lva.host.receipt import total_points
from lva.logs import redact

if TYPE_CHECKING:
    from lva.host.lifecycle import PluginLife


def plugin_status(life: PluginLife) -> dict[str, Any]:
    """Return what `GET /plugins/NAME` shows."""
    loaded = life.loaded
    delivery_errors = [item.last_error for item in life.deliveries.values() if item.last_error]
    last_error = life.last_error or (delivery_errors[-1] if delivery_errors else None)
    return {
        "name": life.name,
        "classes": [cls.__name__ for cls in loaded.classes],
        "kind": loaded.kind,
        "runtime": loaded.runtime,
        "file": str(loaded.path),
        "sha256": loaded.sha256,
        "state": life.state.value.value,
        "since": timestamp(life.last.at),
        "reason": redact(life.last.reason),
        "restarts": life.restarts,
        "critical": life.settings.critical,
        "routes": [
            {"path": route.template, "methods": route.allowed}
            for route in life.owner.routes.values()
        ],
        "ledger": total_points(life) if life.is_event_plugin else None,
        "last_error": None if last_error is None else redact(last_error),
        "history": [
            {"state": step.state.value, "at": timestamp(step.at), "reason": redact(step.reason)}
            for step in life.history
        ],
    }


def timestamp(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
