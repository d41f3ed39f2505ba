"""The package has no circle of imports, and the rooms of the host stand in one order."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import lva

ROOT = Path(lva.__file__).parent
#: From the lowest up; what is named in none of them stands on all.
FLOORS = (
    "plugin_modules",
    "watch",
    "process",
    "runtimes",
    "delivery",
    "routing",
    "loading",
    "life",
)
FILES = {
    ".".join(("lva", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports, also where only types are wanted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module for name in names)


def floor(module: str) -> int:
    """Return on which floor of the host a module is."""
    room = module.removeprefix("lva.host.").partition(".")[0]
    return FLOORS.index(room) if room in FLOORS else len(FLOORS)


def test_no_circle_of_imports():
    TopologicalSorter({module: set(imports(path)) for module, path in FILES.items()}).prepare()


def test_no_import_in_the_host_leads_uphill():
    host = [module for module in FILES if module.startswith("lva.host.")]
    uphill = [
        (module, target)
        for module in host
        for target in imports(FILES[module])
        if target.startswith("lva.host.") and floor(target) > floor(module)
    ]
    assert not uphill


def test_each_room_says_what_it_is_for():
    for path in ROOT.rglob("__init__.py"):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        in_host = "host" in path.relative_to(ROOT).parts[:1]
        assert len(said.splitlines()) >= (3 if in_host else 1), path
