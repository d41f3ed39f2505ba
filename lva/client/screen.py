"""`lva top`'s screen: the service, its requests, its plugins, what has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from lva.client.words import STATE_STYLES, age, clean, count, gauge, milliseconds, spark
from lva.errors import counted

if TYPE_CHECKING:
    from lva.client.model import Model, PluginRow

#: Lines besides the plugins and the changes: service, two gaps, four of requests, heads, keys.
_FIXED: Final = 10
#: Most changes of state that are shown, and the least room that plugins keep for themselves.
_CHANGES: Final = 6
_LEAST_ROWS: Final = 4


def screen(
    model: Model, address: str, *, width: int, height: int, scrolled: int, trouble: str, plain: bool
) -> tuple[RenderableType, int]:
    """Return the screen, and how far it is scrolled.

    Args:
        model: What is known.
        address: The service's.
        width: In columns.
        height: In lines.
        scrolled: How many plugins to leave out at the top; too many is taken for as many as possible.
        trouble: Why there is nothing new, if there is not.
        plain: Whether the terminal has no block elements.
    """
    plugins = model.by_trouble()
    room = height - _FIXED - (1 if trouble else 0)
    changes = min(len(model.timeline), _CHANGES, max(0, room - max(_LEAST_ROWS, len(plugins))))
    if not changes and len(model.timeline):
        changes = min(len(model.timeline), max(0, min(3, room - _LEAST_ROWS)))
    rows = max(1, room - changes)
    scrolled = max(0, min(scrolled, len(plugins) - rows))
    visible = plugins[scrolled : scrolled + rows]
    parts: list[RenderableType] = [_headline(model, address, width)]
    if trouble:
        parts.append(_cropped(Text(clean(trouble), "bold red"), width))
    parts += [Text(), *_requests(model, width, plain), Text()]
    parts.append(_plugins(model, visible, width, plain))
    parts += [Text()] * (rows - len(visible))
    if changes:
        parts.append(Text("CHANGES", "dim"))
        parts += [_change(model, item, width) for item in [*model.timeline][-changes:][::-1]]
    else:
        parts.append(Text())
    parts.append(_footer(scrolled, len(visible), len(plugins), width))
    return Group(*parts), scrolled


def whole(model: Model) -> int:
    """Return how many lines show all plugins."""
    return _FIXED + max(1, len(model.plugins)) + min(len(model.timeline), _CHANGES)


def _headline(model: Model, address: str, width: int) -> Text:
    if not model.at:
        return Text(f"LVA at {address}", "bold")
    word, style = ("ready", "bold green") if model.ready else ("not ready", "bold red")
    if model.draining:
        word, style = "stopping", "bold yellow"
    up = age(model.at - model.service["started"])
    left = Text.assemble(("● ", style), (word, style), f"  lva {clean(model.service['version'])}")
    left.append(f"  {address}  up {up}", "dim")
    return _apart(left, _clock(model.at), width)


def _requests(model: Model, width: int, plain: bool) -> list[Text]:
    columns = max(10, min(90, width - 46))

    def line(title: str, number: str, series: str, style: str, more: str = "") -> Text:
        drawn = spark([*model.series.get(series, ())], columns, plain=plain)
        text = Text.assemble((f"{title:<10}", "dim"), f"{number:>9}  ", (drawn, style), f"  {more}")
        return _cropped(text, width)

    errors = (model.newest("client_errors") or 0, model.newest("server_errors") or 0)
    tail = f"95 % {milliseconds(model.newest('p95'))}  99 % {milliseconds(model.newest('p99'))}"
    return [
        line("requests", f"{count(model.newest('requests') or 0)}/s", "requests", "cyan"),
        line("4xx", f"{count(errors[0])}/s", "client_errors", "yellow"),
        line("5xx", f"{count(errors[1])}/s", "server_errors", "red"),
        line("latency", milliseconds(model.newest("p50")), "p50", "blue", tail),
    ]


#: The columns of the plugins' table: title, width (None: the rest), how it is aligned, and from which
#: width of the screen on there is room for it.
_COLUMNS: Final[Sequence[tuple[str, int | None, JustifyMethod, int]]] = (
    ("PLUGIN", 22, "left", 0),
    ("STATE", 12, "left", 0),
    ("FOR", 7, "left", 0),
    ("LAST 15 MINUTES", 20, "left", 120),
    ("RATE", 8, "right", 0),
    ("FILL", 8, "left", 98),
    ("QUEUE", 5, "right", 0),
    ("DROPPED", 7, "right", 0),
    ("RESTARTS", 8, "right", 88),
    ("LOOP", 4, "right", 86),
    ("WHY", None, "left", 140),
)


def _plugins(model: Model, plugins: Iterable[PluginRow], width: int, plain: bool) -> Table:
    """Return the plugins' table, with as many columns as there is room for."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", width=width)
    shown = [least <= width for *_, least in _COLUMNS]
    for (title, size, justify, _), is_shown in zip(_COLUMNS, shown, strict=True):
        if is_shown:
            table.add_column(
                title,
                width=size,
                ratio=None if size else 1,
                justify=justify,
                no_wrap=True,
                overflow="ellipsis",
            )
    for plugin in plugins:
        cells = zip(_row(model, plugin, plain), shown, strict=True)
        table.add_row(*(cell for cell, is_shown in cells if is_shown))
    return table


def _row(model: Model, plugin: PluginRow, plain: bool) -> list[Text]:
    row = plugin.row
    state = clean(row["state"])
    style = STATE_STYLES.get(state, "")
    fill, share, lost = row.get("fill"), row.get("share"), row["dropped"]
    full = "red" if (fill or 0) >= 0.8 else "yellow" if (fill or 0) >= 0.5 else "green"
    waiting = None if row["queued"] is None else row["queued"] + row["in_flight"]
    return [
        Text(clean(plugin.name), "bold" if plugin.trouble < 3 else ""),
        Text(state, style),
        Text(age(model.at - row["since"]), "dim"),
        Text(spark([*plugin.spark], 20, plain=plain), "cyan"),
        Text("-" if plugin.about.get("unit") is None else f"{count(row['rate'] or 0)}/s"),
        Text(gauge(fill, 8, plain=plain), full if fill is None else f"{full} on bright_black"),
        Text(count(waiting)),
        Text(count(lost), "bold red" if lost else ""),
        Text(count(row["restarts"]), "yellow" if row["restarts"] else "dim"),
        Text("" if share is None else f"{share:.0%}", "bold red" if (share or 0) >= 0.5 else ""),
        Text(_why(plugin), style if state != "running" else "yellow"),
    ]


def _why(plugin: PluginRow) -> str:
    """Return what is to be known of a plugin: why it is not running, what fails, how it blocked a loop."""
    if plugin.row["state"] != "running":
        return clean(plugin.reason or "")
    if dropping := plugin.row.get("dropping"):
        return f"{counted(dropping, 'point')} dropped in the last minute"
    if plugin.failing:
        return f"{counted(plugin.failing, 'request')} failed in the last minute"
    if plugin.row.get("probe_at") is not None:
        return "circuit open"
    if plugin.block is None:
        return ""
    took = milliseconds(plugin.block["seconds"] * 1000)
    line = clean(plugin.block["where"]).rpartition("/")[2]  # there is no room for the directories
    return f"blocked {plugin.block['what']} {took} at {line}"


def _change(model: Model, item: dict[str, object], width: int) -> Text:
    state = clean(item["state"])
    at = item["at"]
    assert isinstance(at, int | float)
    text = Text.assemble(
        (_clock(at), "dim"), f"  {clean(item['plugin'])}  ", (state, STATE_STYLES.get(state, ""))
    )
    if item["reason"]:
        text.append(f"  {clean(item['reason'])}", "dim")
    return _cropped(text, width)


def _footer(scrolled: int, visible: int, plugins: int, width: int) -> Text:
    rows = (
        f"{scrolled + 1} to {scrolled + visible} of {counted(plugins, 'plugin')}"
        if visible < plugins
        else ""
    )
    return _apart(Text("q quit   ↑↓ scroll", "dim"), rows, width)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def _apart(left: Text, right: str, width: int) -> Text:
    """Return a line with something at each end."""
    left.truncate(max(0, width - len(right) - 1), overflow="ellipsis")
    return left + Text(" " * (width - left.cell_len - len(right)) + right, "dim")


def _cropped(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text
