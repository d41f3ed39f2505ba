"""Reloading plugins when their files are saved: `lva run --watch`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Final, TypeVar

import trio

from lva.errors import ConfigurationError
from lva.host.changes import ActionRefusedError
from lva.host.host import Host
from lva.host.loading.files import SourceFiles
from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.host")

#: How often, in seconds, the files are looked at. One is loaded once it stayed the same for this long.
INTERVAL: Final = 0.3


_T = TypeVar("_T")


async def watch(host: Host) -> None:
    """Reload each plugin when one of its files was saved, until the host is to stop.

    A plugin that an operator has stopped is not touched.

    Cancellation: ends it; a reload that is under way is completed, and a thread that a file system does not
    let go is abandoned.

    Errors: a broken file is logged, and the plugin goes on as it is until the file is saved again.
    """
    LOGGER.info(
        "watching files, to reload a plugin when one of its own is saved: %s", ", ".join(host.lives)
    )
    saves = _Saves()
    async with trio.open_nursery() as nursery:
        while not host.stop.requested.is_set():
            paused = host.paused()
            files = {name: life.files for name, life in host.lives.items() if name not in paused}
            for name in await saves.look(files):
                nursery.start_soon(_reload, host, name, saves)
            with trio.move_on_after(INTERVAL):
                await host.stop.requested.wait()


async def _reload(host: Host, name: str, saves: _Saves) -> None:
    try:
        await host.changes.reload(name, "its file was saved")
    except ConfigurationError:
        pass  # the host has logged it
    except ActionRefusedError:
        saves.forget(name)  # another action is under way: later
    except Exception:
        LOGGER.exception("the reload of plugin %s failed", name)


class _Saves:
    """Tells which plugins' files were saved: changed, and the same at two looks after that.

    A save may take several steps, between which a file may be gone or half there.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Hashable] = {}
        self._settled: dict[str, Hashable] = {}

    async def look(self, files: Mapping[str, SourceFiles]) -> list[str]:
        """Return the plugins whose files were saved since they were last returned."""
        signatures = await _in_thread(partial(_signatures, files))
        settled = {
            name: now
            for name, now in signatures.items()
            if now == self._seen.get(name) != self._settled.get(name) and None not in now
        }
        self._seen.update(signatures)
        self._settled.update(settled)
        return [name for name in settled if await _in_thread(files[name].look)]

    def forget(self, name: str) -> None:
        """Return this plugin again at the next look."""
        self._settled.pop(name, None)


def _signatures(files: Mapping[str, SourceFiles]) -> dict[str, tuple[Hashable, ...]]:
    return {name: each.signature() for name, each in files.items()}


async def _in_thread(work: Callable[[], _T]) -> _T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, thread_name="lva-files")
