"""A page that a plugin adds to the console."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """A page of a plugin in the console, at ``/console/NAME`` while the plugin runs. The bar names it.

    Args:
        title: What the bar calls it: a word or two.
        script: A JavaScript module, a file beside the plugin's. Its ``view(model, plugin)`` returns what is
            shown; it may import modules of its own directory, and those of the console.
        style: A CSS file, beside the console's own; None if there is none.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The title is empty, or the script is no ``.js`` file.
    """

    title: str
    script: Path
    style: Path | None = None

    def __post_init__(self) -> None:
        for value, kind in ((self.title, str), (self.script, Path), (self.style, Path | None)):
            if not isinstance(value, kind):
                raise TypeError("a page has a title, which is a str, and files, which are Paths")
        if not self.title.strip():
            raise ValueError("the title of a page is empty")
        if self.script.suffix != ".js" or not self.script.stem.isidentifier():
            raise ValueError(
                f"the script of a page is a .js file named like a variable, not {self.script.name!r}"
            )


def console_page(classes: Iterable[type]) -> ConsolePage | None:
    """Return the page that the first of a plugin's classes that has one adds to the console."""
    found = (getattr(cls, "consolePage", None) for cls in classes)
    return next((page for page in found if isinstance(page, ConsolePage)), None)
