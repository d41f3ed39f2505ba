"""Calls of a plugin that nobody awaits: Python only warns of them, and what was called is never done."""

from __future__ import annotations

import warnings
from typing import Any, Final, Self

from lva.testing.places import Place
from lva.testing.report import Breach

_WORDS: Final = "was never awaited"


class Unawaited:
    """Takes Python's warnings of coroutines that were never awaited. Use as a context manager.

    Args:
        root: What the names of the plugin's files begin with; warnings of other files go their way.

    Attributes:
        problems: What was found, with the line of each.
    """

    def __init__(self, root: str) -> None:
        self.problems: list[Breach] = []
        self._root = root
        self._kept = warnings.catch_warnings()

    def __enter__(self) -> Self:
        self._kept.__enter__()
        warnings.filterwarnings("always", f".*{_WORDS}", RuntimeWarning)
        self._show: Any = warnings.showwarning
        warnings.showwarning = self._take
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.__exit__(None, None, None)

    def _take(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *rest: Any,
        **more: Any,
    ) -> None:
        if _WORDS not in str(message) or not filename.startswith(self._root):
            self._show(message, category, filename, lineno, *rest, **more)
            return
        text = f"{message}, so what it is to do is never done"
        self.problems.append(
            Breach("await", text, Place(filename, lineno), "write `await` before the call")
        )
