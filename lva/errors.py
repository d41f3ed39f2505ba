"""Problems that stop the service before its port is bound."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


#: What other programs call a setting.
SYNONYMS: Final = dict.fromkeys(("address", "host", "listen", "port"), "bind")


@dataclass(frozen=True, slots=True)
class PluginProblem:
    """One thing that is wrong with a plugin.

    Attributes:
        text: What is wrong, and what to do about it, for people.
        file: Where it is.
        line: The line there, from 1.
        code: The kind of problem, for programs.
        level: Whether the service refuses the plugin, or it fails there; or it only looks wrong.
    """

    text: str
    file: Path | None = None
    line: int | None = None
    code: str = "file"
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        line = f":{self.line}" if self.line is not None else ""
        return f"{self.file}{line}: {self.text}" if self.file is not None else self.text


class ConfigurationError(Exception):
    """Settings or plugin files are wrong; carries every problem found, each a message for people.

    Args:
        problems: One or more messages. The first line says what is wrong and where; what to do
            about it stands in the same message.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: list[str] = list(problems)


def suggestion(wrong: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to the wrong one, or nothing.

    Args:
        wrong: The wrong name.
        known: The names there are.
        cutoff: How alike they have to be, from 0 to 1.
    """
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(wrong.casefold(), by_folded, n=1, cutoff=cutoff)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for people: ``1 point``, ``2,000 points``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listing(names: Iterable[str]) -> str:
    """Return the names sorted and separated by commas, or ``none``."""
    return ", ".join(sorted(names)) or "none"


def hint(wrong: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the nearest known name as a suggestion, or all of them when none is near."""
    names = list(known)
    return suggestion(wrong, names, cutoff) or f"; available: {listing(names)}"


def wrong_key(error: ErrorDetails, known: Iterable[str] = ()) -> str:
    """Return what pydantic finds wrong with a key, for people and without the key's value.

    Args:
        error: One of pydantic's errors.
        known: The keys there are, should this one be unknown.
    """
    if error["type"] == "extra_forbidden" and known:
        return f"unknown key{hint(str(error['loc'][-1]), known)}"
    text = re.sub(r" or instance of \w+$", "", error["msg"].removeprefix("Value error, "))
    return text[:1].lower() + text[1:]
