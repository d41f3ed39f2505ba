"""What a person at a terminal sees besides the log: where the service is, and the receipt as a table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Final

from lva.host.loading import LoadedPlugin
from lva.host.receipt import Receipt
from lva.logs import redact
from lva.settings import Settings

LOGGER: Final = logging.getLogger("lva.service")


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


def show_receipt(receipt: Receipt) -> None:
    """Print the receipt as a table if standard error is a terminal; the log has it in any case."""
    if not sys.stderr.isatty():
        return
    from rich.console import Console  # late: only needed at a terminal
    from rich.table import Table

    table = Table(
        title=f"stopped: {receipt.reason}; exit code {receipt.exit_code} after {receipt.seconds:.2f} s"
    )
    for column in ("plugin", "ended", "stop s", "restarts"):
        table.add_column(column)
    for column in ("accepted", "delivered", "rejected", "lost", "leaked"):
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
            str(len(plugin.leaked_tasks) + len(plugin.leaked_threads)),
        )
    Console(stderr=True).print(table, markup=False)
