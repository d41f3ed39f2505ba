"""The rooms of the host as floors, drawn from what their modules import."""

from __future__ import annotations

import ast
import textwrap
from collections import defaultdict
from pathlib import Path

import lva

_HOST = Path(lva.__file__).parent / "host"
_TOP = "host"
_WIDTH = 84


def host_floors() -> str:
    """Return the picture as a block of text: a box for each room, with its modules and what it imports."""
    uses, modules = _rooms()
    lines = [".. code-block:: text", ""]
    for room in _from_the_top(uses):
        lines += [f"   {line}" for line in _box(room, modules[room], sorted(uses[room]))]
    lines.append(lines[2])
    return "\n".join(lines) + "\n"


def _rooms() -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    uses: defaultdict[str, set[str]] = defaultdict(set)
    modules: defaultdict[str, list[str]] = defaultdict(list)
    below = {"routing", "plugin_modules"}  # modules that are below a room
    for path in sorted(_HOST.rglob("*.py")):
        parts = path.relative_to(_HOST).with_suffix("").parts
        room = parts[0] if len(parts) > 1 or parts[0] in below else _TOP
        if parts[-1] != "__init__":
            modules[room].append(parts[-1])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lva.host."):
                target = str(node.module).split(".")[2]
                if (_HOST / target).is_dir() or target in below:
                    uses[room] |= {target} - {room}
    return uses, modules


def _from_the_top(uses: dict[str, set[str]]) -> list[str]:
    """Return the rooms so that each stands above those that it imports from."""
    height: dict[str, int] = {}

    def measure(room: str) -> int:
        if room not in height:
            height[room] = 1 + max(map(measure, uses.get(room, ())), default=0)
        return height[room]

    measure(_TOP)
    return sorted(height, key=lambda room: (-height[room], room))


def _box(room: str, modules: list[str], uses: list[str]) -> list[str]:
    said = [room]
    if modules != [room]:
        said += [f"  {line}" for line in textwrap.wrap(", ".join(modules), _WIDTH - 6)]
    said.append(f"  imports from: {', '.join(uses) or 'nothing of the host'}")
    edge = f"+{'-' * _WIDTH}+"
    return [edge, *(f"| {text:{_WIDTH - 2}} |" for text in said)]
