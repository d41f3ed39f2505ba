"""A plugin's file is imported: what it may not do meanwhile, and what is said when that fails."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the stubs leave it out; `signal` is made of it
import contextlib
import linecache
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lva import luna
from lva.errors import PluginProblem, listing
from lva.host import HOST_DIR
from lva.host.loading.finder import PluginFileError, PluginFinder, PluginLocation
from lva.host.plugin_modules import PACKAGE, plugin_entry
from lva.host.process.guard import kept_by
from lva.host.process.starts import imported
from lva.host.process.state import ProcessState, closed_descriptors
from lva.logs.loggers import brief

SHIPPED_DIR: Final = HOST_DIR.parent / "plugins"
#: The extra that brings what a shipped plugin imports, by the name of the package.
_EXTRAS: Final = {
    "aio_pika": "rabbitmq",
    "cv2": "opencv",
    "google": "otlp",
    "opentelemetry": "otlp",
    "prometheus_client": "prometheus",
    "redis": "redis",
}
#: Plain numbers, and `_signal` asked for their handlers: `signal` makes enum members of them, which would add
#: 60 ms to the 390 ms in which 1,000 small plugins are loaded.
_SIGNALS: Final = sorted(map(int, signal.valid_signals()))


def import_plugin(
    name: str, place: PluginLocation, finder: PluginFinder, state: ProcessState | None
) -> None:
    """Import a plugin's module.

    Args:
        name: The plugin's name.
        place: Where it is.
        finder: An installed one.
        state: Of the process; what the module changes of it is put back. As it is now, if None.

    Raises:
        PluginFileError: The module failed, or took what is the service's.
    """
    path = place.path
    with kept_by(name, state), imported(name), _left_to_service(path):
        try:
            finder.load(place)
        except (PluginFileError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PluginFileError(_import_failure(error, path)) from error


@contextlib.contextmanager
def _left_to_service(path: Path) -> Iterator[None]:
    """Refuse a file that takes what is the service's while it is imported.

    Off the main thread, as at a reload, nothing is: what changes meanwhile may be another plugin's doing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _signals_kept(path), _descriptors_kept(path):
        yield


@contextlib.contextmanager
def _signals_kept(path: Path) -> Iterator[None]:
    """Refuse a file that takes a signal away from the service."""
    before = [*map(_signal.getsignal, _SIGNALS)]
    yield
    after = [*map(_signal.getsignal, _SIGNALS)]
    if after == before:
        return
    pairs = zip(_SIGNALS, before, after, strict=True)
    taken = [(number, handler) for number, handler, now in pairs if now != handler]
    for number, handler in taken:
        signal.signal(number, handler)
    names = listing(signal.Signals(number).name for number, _ in taken)
    why = f"sets a handler for {names}; signals are the service's: to clean up at the end, define close()"
    raise PluginFileError(PluginProblem(why, path, code="signal"))


@contextlib.contextmanager
def _descriptors_kept(path: Path) -> Iterator[None]:
    """Refuse a file that closes what is not its own."""
    before = closed_descriptors()
    yield
    if closed_descriptors() != before:
        why = "closes file descriptors of the service, as os.closerange() does; close only your own"
        raise PluginFileError(PluginProblem(why, path, code="import"))


def _import_failure(error: BaseException, path: Path) -> PluginProblem:
    """Name the line of the plugin's own code that failed, and for a missing module what to do."""
    entry = plugin_entry(error)
    file = Path(entry.tb_frame.f_code.co_filename) if entry else path
    linecache.checkcache(str(file))
    code = linecache.getline(str(file), entry.tb_lineno).strip() if entry else ""
    source = f"\n    {code}" if code else ""
    todo = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        todo = _missing_module(error.name, file.parent)
    elif isinstance(error, ImportError) and error.name in luna.MODULES:
        todo = f"; available there: {listing(luna.MODULES[error.name])}"
    said = f"importing it failed with {brief(error)}{todo}{source}"
    return PluginProblem(said, file, entry.tb_lineno if entry else None, "import")


def _missing_module(name: str, directory: Path) -> str:
    top = name.partition(".")[0]
    if top == PACKAGE:
        return ""
    if (directory / f"{top}.py").exists() or (directory / top / "__init__.py").exists():
        return f"; a file beside it is imported relatively: from . import {top}"
    if top in luna.TOP_NAMES:
        return (
            f"; of the original service's modules there are {listing(luna.MODULES)}; a helper of your own is"
            " put beside the plugin and imported relatively: from . import NAME"
        )
    if directory == SHIPPED_DIR and top in _EXTRAS:
        return f"; install the extra that it needs: pip install '/path/to/lva[{_EXTRAS[top]}]'"
    return f"; install the package that provides {name!r} where the service runs"
