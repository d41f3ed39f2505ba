"""Calls of a plugin that nobody awaits: Python only warns of them, and what was called is never done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lva.testing.places import Place
from lva.testing.report import Breach

_WORDS: Final = "was never awaited"


@contextmanager
def unawaited(root: str) -> Iterator[list[Breach]]:
    """Take Python's warnings of coroutines that were never awaited, as problems with the line of each.

    Args:
        root: What the names of the plugin's files begin with; warnings of other files go their way.
    """
    problems: list[Breach] = []

    def take(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *rest: Any,
        **more: Any,
    ) -> None:
        if _WORDS not in str(message) or not filename.startswith(root):
            show(message, category, filename, lineno, *rest, **more)
            return
        text = f"{message}, so what it is to do is never done"
        place = Place(filename, lineno)
        problems.append(Breach("await", text, place, "write `await` before the call"))

    with warnings.catch_warnings():
        warnings.filterwarnings("always", f".*{_WORDS}", RuntimeWarning)
        show: Any = warnings.showwarning
        warnings.showwarning = take
        yield problems
