"""Paths as people write them in settings, for fields of pydantic models.

path: Annotated[Path, BeforeValidator(absolute)]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def absolute(value: Any) -> Any:
    """Return a path with the home directory in place of ``~``, from the current directory if it is relative.

    What is no path is left to the field's own check.

    Raises:
        ValueError: It has a NUL character or one that the locale lacks, or there is no such home directory.
    """
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    if "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    try:
        found = path.expanduser().absolute()
        os.fsencode(found)
    except RuntimeError as error:
        raise ValueError(f"there is no home directory for {path.parts[0]!r}") from error
    except UnicodeEncodeError as error:
        why = f"names of files cannot have {error.object[error.start]!r} in this locale"
        raise ValueError(
            f"{why} ({sys.getfilesystemencoding()}); run with LC_ALL=C.UTF-8"
        ) from error
    return found
