"""Paths as people write them in settings, for fields of pydantic models.

path: Annotated[Path, BeforeValidator(absolute)]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def absolute(value: Any) -> Any:
    """Return a path with the home directory in place of ``~``, from the current directory if it is relative.

    What is no path is left to the field's own check.

    Raises:
        ValueError: It has a NUL character, or there is no such home directory.
    """
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    if "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"there is no home directory for {path.parts[0]!r}") from error
