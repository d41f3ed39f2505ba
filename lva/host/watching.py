"""Reloading plugins when their files are saved: `lva run --watch`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import trio

from lva.errors import ConfigurationError
from lva.host.changes import ActionRefusedError
from lva.host.host import Host
from lva.logs import service_logger

LOGGER: Final = service_logger("lva.host")

#: How often, in seconds, the files are looked at. One is loaded once it stayed the same for this long.
INTERVAL: Final = 0.3


async def watch(host: Host) -> None:
    """Reload each plugin when one of its files was saved, until the host is to stop.

    A broken file is logged, and the plugin goes on as it is until the file is saved again. A plugin that
    an operator has stopped is left alone.
    """
    seen: dict[str, Hashable] = {}
    settled: dict[str, Hashable] = {}

    async def reload(name: str) -> None:
        try:
            await host.changes.reload(name, "its file was saved")
        except ConfigurationError:
            pass  # the host has logged it
        except ActionRefusedError:
            settled.pop(name, None)  # another action is under way: later
        except Exception:
            LOGGER.exception("the reload of plugin %s failed", name)

    async with trio.open_nursery() as nursery:
        while not host.stop_requested.is_set():
            for name in host.lives.keys() - set(host.paused()):
                files = host.lives[name].files
                now = files.signature()
                # A save may take several steps, between which a file may be gone or half there.
                if now == seen.get(name) != settled.get(name) and None not in now:
                    settled[name] = now
                    if files.changed:
                        nursery.start_soon(reload, name)
                seen[name] = now
            with trio.move_on_after(INTERVAL):
                await host.stop_requested.wait()
