"""There is no circle of imports, the rooms of the host stand in one order, and no class is too large."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

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
#: Most lines and functions of a class in these rooms; one that has more says why, from `LARGE` on.
ROOMS, MOST_LINES, MOST_FUNCTIONS, LARGE = (
    ("host", "web", "video", "fleet"),
    300,
    25,
    "One class, as ",
)
#: Most arguments of a constructor. Data classes are records, whose members are named where they are made.
MOST_ARGUMENTS = 6
#: What runs in a stream's worker, or on both sides; and where the service's side begins.
IN_WORKER = (
    "worker",
    "decoder",
    "opening",
    "same_server",
    "pictures",
    "failures",
    "frame",
    "analysis",
    "output",
    "census",
    "growth",
    "descendants",
    "orphans",
    "selection",
    "newest",
    "niceness",
    "sameness",
    "board",
    "messages",
    "geometry",
)
#: What both sides may import of the rest of the package.
GROUND = (
    "boot_clock", "contract", "errors", "events.points", "events.streams", "http_targets", "logs.limits",
    "metrics", "posix_timers", "routes.admin", "routes.bodies", "routes.pages", "routes.query",
    "routes.wrong_keys",
)  # fmt: skip
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


@pytest.mark.slow("every file is parsed")
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


def test_a_worker_imports_nothing_of_the_service():
    """The kind is an import that makes each worker larger and slower, or ties it to the host."""
    reached, ahead = set(), {"lva.video.worker"}
    while ahead:
        module = ahead.pop()
        reached.add(module)
        ahead |= {*imports(FILES[module])} - reached
    allowed = {f"lva.video.{name}" for name in IN_WORKER} | {f"lva.{name}" for name in GROUND}
    assert reached <= {*allowed, "lva.video"}


def test_streams_import_the_ground_floor_alone():
    video = [module for module in FILES if module.startswith("lva.video")]
    allowed = {f"lva.{name}" for name in (*GROUND, "http_replies", "logs.loggers", "settings")}
    assert not [
        (module, target)
        for module in video
        for target in imports(FILES[module])
        if not target.startswith(("lva.video", "lva.fleet")) and target not in allowed
    ]


def test_a_fleet_knows_nothing_of_what_it_shares():
    allowed = {"lva.boot_clock", "lva.settings.redis_server"}
    assert not [
        (module, target)
        for module in FILES
        if module.startswith("lva.fleet")
        for target in imports(FILES[module])
        if not target.startswith("lva.fleet") and target not in allowed
    ]


def test_each_room_says_what_it_is_for():
    for path in ROOT.rglob("__init__.py"):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        in_host = "host" in path.relative_to(ROOT).parts[:1]
        assert len(said.splitlines()) >= (3 if in_host else 1), path


@pytest.mark.slow("every file is parsed")
def test_each_room_of_the_host_says_what_is_used_of_it_and_what_it_uses():
    uses = {(module, target) for module, path in FILES.items() for target in imports(path)}
    for room in {*FLOORS} - {"plugin_modules", "routing"}:
        within = f"lva.host.{room}."
        used, used_by_it = set(), set()
        for module, target in uses:
            if target.startswith(within) and not module.startswith(within):
                used.add(target.removeprefix(within))
            elif module.startswith(within) and not target.startswith(within):
                top, _, name = target.partition("lva.host.")
                used_by_it |= set() if top else {name.partition(".")[0]}
        said = ast.get_docstring(ast.parse(FILES[within[:-1]].read_text(encoding="utf-8"))) or ""
        of_it, by_it = said.partition("Used from outside: ")[2].split(". Uses: ")
        assert {*re.findall(r"`(\w+)`", of_it)} == used
        assert {*re.findall(r"`(\w+)`", by_it)} == used_by_it


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the classes in `ROOMS`, each with its name as people say it."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield f"{path.relative_to(ROOT)}: {node.name}", node


def functions(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions of a class, properties among them."""
    return [it for it in node.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.slow("every file is parsed")
def test_no_class_is_large_without_a_reason():
    sizes = {
        name: ((node.end_lineno or 0) - node.lineno + 1, len(functions(node)))
        for name, node in classes()
        if LARGE not in (ast.get_docstring(node) or "")
    }
    assert not {
        name: (lines, count)
        for name, (lines, count) in sizes.items()
        if lines > MOST_LINES or count > MOST_FUNCTIONS
    }


@pytest.mark.slow("every file is parsed")
def test_no_constructor_takes_many_arguments():
    many = {}
    for name, node in classes():
        for function in functions(node):
            arguments = function.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
            if function.name == "__init__" and count > MOST_ARGUMENTS:
                many[name] = count
    assert not many
