"""What tests ask of the streams of the real service."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

from tests.support import PATIENCE, ServiceProcess, has_ended
from tests.video.test_board import balance


def until(
    service: ServiceProcess, stream_id: str, condition: Any, within: float = PATIENCE
) -> dict[str, Any]:
    """Wait until the status of a stream is as wanted; return it."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found.append(service.get(f"/streams/{stream_id}").json())
        return bool(condition(found[-1]))

    service.wait_until(look, within)
    return found[-1]


def logs(service: ServiceProcess, stream_id: str) -> list[dict[str, Any]]:
    """Return what a stream's log says, newest first."""
    found: list[dict[str, Any]] = service.get(f"/streams/{stream_id}/logs").json()["logs"]
    return found


def unaccounted(status: dict[str, Any]) -> int:
    """Return of how many frames the service does not tell what became of them; negative if of too many."""
    return balance(cast("Any", SimpleNamespace(frames=lambda: status["frames"])))


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Return whether a process ends; a zombie, which its parent has to reap, has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if has_ended(pid):
            return True
        time.sleep(0.02)
    return False
