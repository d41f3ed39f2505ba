"""The rooms of a package as floors, drawn from what their modules import."""

from __future__ import annotations

import ast
import textwrap
from collections import defaultdict
from pathlib import Path

import lva

_ROOT = Path(lva.__file__).parent
#: Modules that are rooms by themselves.
_ALONE = {"routing", "plugin_modules"}
_WIDTH = 84


def floors(package: str) -> str:
    """Return the picture as a block of text: a box for each room, with its modules and what it imports.

    Args:
        package: Of `lva`. What is in none of its rooms has a box with its name.
    """
    uses, modules = _rooms(package)
    lines = [".. code-block:: text", ""]
    for room in _from_the_top(uses, modules):
        lines += [f"   {line}" for line in _box(room, modules[room], sorted(uses[room]))]
    lines.append(lines[2])
    return "\n".join(lines) + "\n"


def _rooms(package: str) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    root, within = _ROOT / package, f"lva.{package}."
    uses: defaultdict[str, set[str]] = defaultdict(set)
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        room = parts[0] if len(parts) > 1 or parts[0] in _ALONE else package
        if parts[-1] != "__init__":
            modules[room].append(parts[-1])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(within):
                name = f"{node.module}.".split(".")[2]
                for target in [name] if name else [alias.name for alias in node.names]:
                    if (root / target).is_dir() or target in _ALONE:
                        uses[room] |= {target} - {room}
                    elif (root / f"{target}.py").is_file():
                        uses[room] |= {package} - {room}
    return uses, modules


def _from_the_top(uses: dict[str, set[str]], rooms: dict[str, list[str]]) -> list[str]:
    """Return the rooms so that each stands above those that it imports from."""
    height: dict[str, int] = {}

    def measure(room: str) -> int:
        if room not in height:
            height[room] = 1 + max(map(measure, uses.get(room, ())), default=0)
        return height[room]

    return sorted(rooms, key=lambda room: (-measure(room), room))


def _box(room: str, modules: list[str], uses: list[str]) -> list[str]:
    said = [room]
    if modules != [room]:
        said += [f"  {line}" for line in textwrap.wrap(", ".join(modules), _WIDTH - 6)]
    said.append(f"  imports from: {', '.join(uses) or 'none of these'}")
    edge = f"+{'-' * _WIDTH}+"
    return [edge, *(f"| {text:{_WIDTH - 2}} |" for text in said)]
