"""What is wrong with a JSON document: each key with its path, as people and as programs write it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lva.errors import hint

if TYPE_CHECKING:
    from pydantic import ValidationError

#: Names of members and numbers of items, from the document's root on.
KeyPath: TypeAlias = tuple[str | int, ...]
_PLAIN = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class WrongKey:
    """One thing that is wrong.

    Attributes:
        path: The key's; empty for the whole document.
        detail: What is wrong, without the value, which may be secret.
    """

    path: KeyPath
    detail: str

    @property
    def key(self) -> str:
        """The path for people, such as ``analytics[0].parameters.sensitivity``."""
        parts = (_written(part) for part in self.path)
        return "".join(parts).removeprefix(".")

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer in a URI fragment (RFC 6901), such as ``#/analytics/0``."""
        parts = (str(part).replace("~", "~0").replace("/", "~1") for part in self.path)
        return "#" + "".join(f"/{part}" for part in parts)

    def as_dict(self) -> dict[str, str]:
        """Return it as a problem document has it (RFC 9457)."""
        return {"key": self.key, "pointer": self.pointer, "detail": self.detail}

    def __str__(self) -> str:
        return f"{self.key or 'the body'}: {self.detail}"


def _written(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN.fullmatch(part) else f"[{part[:50]!r}]"


class WrongKeysError(ValueError):
    """A JSON document that is wrong.

    Args:
        problems: All that is wrong with it, at least one.
    """

    def __init__(self, *problems: WrongKey) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems: tuple[WrongKey, ...] = problems

    def below(self, *path: str | int) -> WrongKeysError:
        """Return the same for the document that this one stands in, at that path."""
        return WrongKeysError(
            *(WrongKey((*path, *problem.path), problem.detail) for problem in self.problems)
        )


def wrong_keys(
    error: ValidationError, document: Any = None, known: Collection[str] = ()
) -> WrongKeysError:
    """Return what pydantic found, without the values.

    Args:
        error: It.
        document: What was validated. Where a value may be one of several kinds, pydantic's paths have names
            of our classes in them, which are left out if this is given.
        known: The keys there are at its root, to name the nearest one, or all, where one is unknown.
    """
    found = error.errors(include_input=False, include_context=False, include_url=False)
    problems = (
        WrongKey(
            _path(item["loc"], document, item["type"]),
            _said(item["type"], item["msg"]) + _instead(item["type"], item["loc"], known),
        )
        for item in found
    )
    return WrongKeysError(*dict.fromkeys(problems))


def _path(location: KeyPath, document: Any, kind: str) -> KeyPath:
    if document is None:
        return location
    path, here = [], document
    for number, part in enumerate(location):
        if isinstance(here, Mapping):
            there = part in here
        else:
            there = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if there:
            here = here[part]
        if there or (kind == "missing" and number == len(location) - 1):
            path.append(part)
    return tuple(path)


def _instead(kind: str, location: KeyPath, known: Collection[str]) -> str:
    unknown = kind == "extra_forbidden" and len(location) == 1 and known
    return hint(str(location[0]), known) if unknown else ""


def _said(kind: str, message: str) -> str:
    """Return a message of pydantic's in the words of JSON."""
    if kind == "extra_forbidden":
        return "unknown key"
    message = message.removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^(List|Tuple|Set) should", "Array should", message)
    message = re.sub(r" a valid dictionary or instance of \w+$", " an object", message)
    message = re.sub(r" a valid (list|tuple|set)$", " a valid array", message)
    return re.sub(r" a valid dictionary$", " an object", message)
