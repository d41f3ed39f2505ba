"""Values in words and small pictures, for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.table import Table

#: The style of each state of a plugin.
STATE_STYLES: Final = {
    "running": "green",
    "initializing": "yellow",
    "backoff": "yellow",
    "failed": "bold red",
    "abandoned": "bold red",
    "loaded": "dim",
    "stopping": "dim",
    "stopped": "dim",
}
#: For terminals that have no others: the second of each pair.
_BLOCKS: Final = ("▁▂▃▄▅▆▇█", "_.,-=+*#")
_EIGHTHS: Final = (" ▏▎▍▌▋▊▉█", "    #####")


def clean(value: object) -> str:
    """Return a value as text that a terminal shows and does not obey."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def clock(seconds: float) -> str:
    """Return the local time of day, to the millisecond."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S.%f")[:-3]


def count(number: float | None) -> str:
    """Return a number in at most five letters."""
    if number is None:
        return ""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.1f}{unit}" if scaled < 100 else f"{scaled:.0f}{unit}"
    if number == int(number):
        return str(int(number))
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"


def milliseconds(number: float | None) -> str:
    """Return a time in a few letters."""
    if number is None:
        return "-"
    if number >= 1000:
        return f"{number / 1000:.1f} s"
    return f"{number:.1f} ms" if number < 10 else f"{number:.0f} ms"


def age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit or two."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60:02}s"
    if left < 86_400:
        return f"{left // 3600}h {left % 3600 // 60:02}m"
    return f"{left // 86_400}d {left % 86_400 // 3600:02}h"


def fine_age(seconds: float | None) -> str:
    """Return the same, but to a tenth of a second below ten; a dash if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f}s" if seconds < 10 else age(seconds)


def table_with(left: Iterable[str], right: Iterable[str]) -> Table:
    """Return a table without lines, with these columns: first those of texts, then those of numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in left:
        table.add_column(title, no_wrap=True)
    for title in right:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def spark(values: Sequence[float | None], width: int, *, plain: bool = False) -> str:
    """Return the newest values as a line, the highest at full height; nothing where there is none."""
    blocks = _BLOCKS[plain]
    newest = [*values][-width:]
    most = max((value for value in newest if value is not None), default=0.0)
    line = "".join(
        " " if value is None else blocks[round(value / most * 7) if most > 0 else 0]
        for value in newest
    )
    return line.rjust(width)


def gauge(share: float | None, width: int, *, plain: bool = False) -> str:
    """Return a share of one as a bar."""
    if share is None:
        return " " * width
    eighths = _EIGHTHS[plain]
    filled = round(min(1.0, max(0.0, share)) * width * 8)
    if share > 0:
        filled = max(1, filled)
    bar = eighths[8] * (filled // 8) + (eighths[filled % 8] if filled % 8 else "")
    return bar.ljust(width)


def pairs(values: dict[str, Any]) -> str:
    """Return tags or fields on one line."""
    return " ".join(
        f"{clean(name)}={f'{value:.6g}' if isinstance(value, float) else clean(value)}"
        for name, value in values.items()
    )
