"""Analytics plugins within a worker: their file is loaded; they are opened, fed and closed.

What is run are the very bytes whose SHA-256 the service checked; else nothing is.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from lva.contract import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin
from lva.video.board import STEPS, Board
from lva.video.frame import Frame
from lva.video.geometry import Region
from lva.video.growth import Growth
from lva.video.worker.census import Census

_STEP: Final = {name: number for number, name in enumerate(STEPS)}
_EDGES: Final = frozenset({"x", "y", "width", "height"})
#: Frames in a row that may fail before the plugin is set aside.
MOST_FAILURES: Final = 10


class AnalyticsLoadError(Exception):
    """A plugin's file is not the one that was checked, or cannot be imported."""


class Analytics:
    """One analytics plugin of one stream.

    Args:
        number: Its place in the stream's list.
        spec: ``name``, ``path``, ``files`` (SHA-256 by path), ``module``, ``class`` and ``parameters``;
            from the test kit ``census``, the path of a file for what it used and left.
        stream: What the plugin knows of the stream.
        board: Says which step it is in.
        growth: Notes how much memory its calls add.
    """

    def __init__(
        self,
        number: int,
        spec: Mapping[str, Any],
        stream: AnalyticsStream,
        board: Board,
        growth: Growth,
    ) -> None:
        self.name: str = spec["name"]
        self.failures: int = 0
        self.opened: bool = False
        self._spec = spec
        self._stream = stream
        self._in = _NotedStep(number, board, growth)
        self._plugin: BaseAnalyticsPlugin | None = None
        self._census: Census | None = None

    def open(self) -> None:
        """Load the file, make the instance and open it.

        Raises:
            Exception: Whatever the plugin raises.
        """
        if (path := self._spec.get("census")) is not None:
            self._census = Census(path)
        with self._in("loading"):
            load_module(self._spec)
            module = sys.modules[self._spec["class_module"]]
            cls: type[BaseAnalyticsPlugin] = getattr(module, self._spec["class"])
            parameters = self._spec.get("parameters", {})
            config = parameters if cls.Config is None else cls.Config(**parameters)
            self._plugin = cls(config, logging.getLogger(f"lva.analytics.{self.name}"))
        self.opened = True
        with self._in("open"):
            self._plugin.open(self._stream)

    def handle(self, frame: Frame) -> list[AnalyticsEvent]:
        """Have a frame looked at.

        Raises:
            Exception: Whatever the plugin raises.
            TypeError: It returned something else than events.
        """
        assert self._plugin is not None
        begun = 0.0 if self._census is None else time.monotonic()
        with self._in("handleFrame", frame.number):
            events = events_in(self._plugin.handleFrame(frame))
        if self._census is not None:
            self._census.note(time.monotonic() - begun)
        if frame.droi is frame.roi:
            return events
        return [event for event in events if _counts(event, frame.droi)]

    def close(self) -> None:
        """Close the plugin, once for each `open` that was entered.

        Raises:
            Exception: Whatever the plugin raises.
        """
        if self.opened and self._plugin is not None:
            self.opened = False
            with self._in("close"):
                self._plugin.close()
            if self._census is not None:
                self._census.write()


class _NotedStep:
    """Notes on the board which step of a plugin is under way, and how much memory it adds.

    Called with the step's name and the number of its frame, it is a context.
    """

    __slots__ = ("_board", "_frame", "_growth", "_number", "_pid", "_step")

    def __init__(self, number: int, board: Board, growth: Growth) -> None:
        self._number = number
        self._board = board
        self._growth = growth
        self._pid = os.getpid()
        self._step = self._frame = 0

    def __call__(self, step: str, frame: int = 0) -> _NotedStep:
        self._step, self._frame = _STEP[step], frame
        return self

    def __enter__(self) -> None:
        self._growth.enter()
        self._board.begin_step(self._step, self._number, self._frame)

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._pid:  # the plugin forked, and its child went on by itself
            os._exit(0)
        self._growth.leave(self._number)
        self._board.end_step()


def _counts(event: AnalyticsEvent, droi: Region) -> bool:
    """Return whether an event is of the region where results count; one without a box is."""
    box = event.data.get("box")
    if not isinstance(box, Mapping) or not box.keys() >= _EDGES:
        return True
    return droi.holds(Region(*(box[name] for name in ("x", "y", "width", "height"))))


def events_in(found: object) -> list[AnalyticsEvent]:
    """Return the events in what `handleFrame` returned; a generator runs here.

    Raises:
        TypeError: There is something else in it.
    """
    if found is None:
        return []
    if isinstance(found, AnalyticsEvent):
        return [found]
    if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
        raise TypeError(
            f"handleFrame() returns or yields AnalyticsEvents, not {type(found).__name__}"
        )
    events = list(found)
    for event in events:
        if not isinstance(event, AnalyticsEvent):
            raise TypeError(
                f"handleFrame() returns or yields AnalyticsEvents, not {type(event).__name__}"
            )
    return events


def load_module(spec: Mapping[str, Any]) -> ModuleType:
    """Import a plugin's file or package, once.

    Raises:
        AnalyticsLoadError: A file is not the one that the service checked.
        Exception: Whatever the import raises.
    """
    name, path = spec["module"], Path(spec["path"])
    if (known := sys.modules.get(name)) is not None:
        return known
    finder = _CheckedFiles(name, path, spec["files"])
    sys.meta_path.insert(0, finder)
    for parent in _parents(name):
        try:  # an installed package, whose other modules the plugin may use
            importlib.import_module(parent)
        except ModuleNotFoundError:
            sys.modules.setdefault(parent, ModuleType(parent)).__path__ = []
    return importlib.import_module(name)


class _CheckedFiles(importlib.machinery.SourceFileLoader, importlib.abc.MetaPathFinder):  # type: ignore[misc] # typeshed has one method twice
    """Finds and loads the modules of one plugin, from bytes of the SHA-256 that was checked."""

    def __init__(self, module: str, path: Path, files: Mapping[str, str]) -> None:
        super().__init__(module, str(path))
        self._module = module
        self._main = path
        self._files = files

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module and not fullname.startswith(f"{self._module}."):
            return None
        below = fullname.removeprefix(self._module).strip(".").replace(".", "/")
        for file in (
            (self._main,)
            if not below
            else (
                self._main.parent / f"{below}.py",
                self._main.parent / below / "__init__.py",
            )
        ):
            if str(file) in self._files:
                loader = _CheckedFiles(self._module, file, self._files)
                loader.name, loader.path = fullname, str(file)
                package = [str(file.parent)] if file.name == "__init__.py" else None
                return importlib.util.spec_from_file_location(
                    fullname, file, loader=loader, submodule_search_locations=package
                )
        return None

    def get_code(self, fullname: str) -> Any:
        path = Path(self.path)
        source = path.read_bytes()
        if hashlib.sha256(source).hexdigest() != self._files[str(path)]:
            raise AnalyticsLoadError(
                f"{path} was changed since the service checked it; reload the plugin"
            )
        return compile(source, str(path), "exec", dont_inherit=True)


def _parents(name: str) -> Iterable[str]:
    while name := name.rpartition(".")[0]:
        yield name
