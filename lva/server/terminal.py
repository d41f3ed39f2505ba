"""What a person at a terminal sees besides the log: where the service is, and the receipt as a table."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence
from typing import Final

from lva.host.loading.load import LoadedPlugin
from lva.host.receipt import Receipt
from lva.logs.loggers import output, redact, service_logger
from lva.logs.writer import PATIENCE
from lva.settings import Settings

LOGGER: Final = service_logger("lva.service")


def announce(settings: Settings, plugins: Sequence[LoadedPlugin], address: str) -> None:
    """Log where the service listens, what it runs, and where to look next."""
    names = ", ".join(f"{plugin.name} ({plugin.kind})" for plugin in plugins) or "none"
    url = _openable(address)
    others = "" if url == address else " and on all other addresses of this machine"
    LOGGER.info("listening on %s%s", url, others, extra={"address": address})
    LOGGER.info("active plugins: %s", names)
    LOGGER.info("state directory: %s", settings.state_dir)
    if url.startswith("http"):
        LOGGER.info("look next: %s/ in a browser, or curl %s/readyz ; stop with Ctrl-C", url, url)


def _openable(address: str) -> str:
    """Return the address that leads to the service from its own machine."""
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def tell_receipt(receipt: Receipt) -> None:
    """Write the receipt: a table at a terminal, else one JSON object in the log, whatever the log's level.

    It goes straight to the log's own writer, whatever plugins did to `logging` and `sys.stderr`.
    """
    out = output()
    if out is not None and out.tables:
        out.writer.write(_table(receipt), keep=True)
        out.writer.flush(PATIENCE)
        return
    level = logging.INFO if receipt.exit_code == 0 else logging.WARNING
    values = receipt.as_dict()
    LOGGER.tell(level, f"receipt {json.dumps(values)}", {"receipt": values})


def _table(receipt: Receipt) -> str:
    from rich.box import ASCII, HEAVY_HEAD  # late: only needed at a terminal
    from rich.console import Console
    from rich.table import Table

    draws = "utf" in getattr(sys.stderr, "encoding", "").lower()
    table = Table(
        box=HEAVY_HEAD if draws else ASCII,
        title=f"stopped: {receipt.reason}; exit code {receipt.exit_code} after {receipt.seconds:.2f} s",
    )
    for column in ("plugin", "ended", "stop s", "restarts"):
        table.add_column(column)
    for column in ("accepted", "delivered", "rejected", "dropped", "leaked"):
        table.add_column(column, justify="right")
    for plugin in receipt.plugins:
        seconds = "" if plugin.stop_seconds is None else f"{plugin.stop_seconds:.2f}"
        ended = plugin.state if plugin.state == "stopped" else f"{plugin.state}: {plugin.reason}"
        points = plugin.points
        table.add_row(
            plugin.name,
            redact("; ".join([ended, *plugin.problems])),
            seconds,
            str(plugin.restarts),
            *(str(points[key]) for key in ("accepted", "delivered", "rejected")),
            str(plugin.lost),
            str(
                sum(map(len, (plugin.leaked_tasks, plugin.leaked_threads, plugin.leaked_processes)))
            ),
        )
    console = Console(file=io.StringIO(), force_terminal=True)
    with console.capture() as captured:
        console.print(table, markup=False)
    return captured.get().rstrip("\n")
