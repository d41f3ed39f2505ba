"""What the receipt tells of streams: what became of all frames, and how the workers ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lva.video.board import DROPPED, SKIPPED, held_of
from lva.video.supervision.stream import Stream


def account_of(streams: Iterable[Stream], ends: Mapping[str, int]) -> dict[str, Any]:
    """Return the account of streams whose workers have ended.

    Args:
        streams: All there are.
        ends: How many workers ended in which way.
    """
    counts = [stream.ledger.counts() for stream in streams]

    def total(name: str) -> int:
        return sum(each[name] for each in counts)

    return {
        "streams": len(counts),
        "frames": {
            "decoded": total("decoded"),
            "analysed": total("analysed"),
            "failed": total("failed"),
            "skipped": {reason: total(f"skipped_{reason}") for reason in SKIPPED},
            "dropped": {reason: total(f"dropped_{reason}") for reason in DROPPED},
            "held": sum(map(held_of, counts)),
        },
        "workers": dict(ends),
    }
