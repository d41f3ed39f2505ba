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
#: From the lowest up; the empty name is what is in no room.
FLOORS = {
    "host": (
        "plugin_modules", "watch", "process", "runtimes", "delivery", "routing", "loading", "life", "",
    ),
    "web": ("", "handling", "resources"),
    "video": ("", "worker", "processes", "supervision", "registry", "reporting", "fleet"),
}  # fmt: skip
#: Most lines and functions of a class in these rooms; one that has more says why, from `LARGE` on.
ROOMS, MOST_LINES, MOST_FUNCTIONS, LARGE = (
    ("host", "web", "video", "fleet"),
    300,
    25,
    "One class, as ",
)
#: Most arguments of a constructor. Data classes are records, whose members are named where they are made.
MOST_ARGUMENTS = 6
#: What a stream's worker may import of what is in no room: the rest has more on board than it needs.
IN_WORKER = ("board", "frame", "geometry", "growth", "messages", "orphans", "pictures")
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
    """Return on which floor of its package a module is."""
    _, package, room, *_ = f"{module}.".split(".")
    return FLOORS[package].index(room if room in FLOORS[package] else "")


@pytest.mark.slow("every file is parsed")
def test_no_circle_of_imports():
    TopologicalSorter({module: set(imports(path)) for module, path in FILES.items()}).prepare()


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_leads_uphill(package: str):
    within = f"lva.{package}."
    uphill = [
        (module, target)
        for module in FILES
        if module.startswith(within)
        for target in imports(FILES[module])
        if target.startswith(within) and floor(target) > floor(module)
    ]
    assert not uphill


def test_a_worker_imports_nothing_of_the_service():
    """The kind is an import that makes each worker larger and slower, or ties it to the host."""
    reached, ahead = set(), {"lva.video.worker.main"}
    while ahead:
        module = ahead.pop()
        reached.add(module)
        ahead |= {*imports(FILES[module])} - reached
    allowed = {f"lva.video.{name}" for name in IN_WORKER} | {f"lva.{name}" for name in GROUND}
    assert {name for name in reached if not name.startswith("lva.video.worker")} <= allowed


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
        in_floors = {*path.relative_to(ROOT).parts[:1]} <= {*FLOORS}
        assert len(said.splitlines()) >= (3 if in_floors else 1), path


@pytest.mark.slow("every file is parsed")
def test_each_room_says_what_is_used_of_it_and_what_it_uses():
    uses = {(module, target) for module, path in FILES.items() for target in imports(path)}
    for package, floors in FLOORS.items():
        for room in filter(lambda name: name and (ROOT / package / name).is_dir(), floors):
            within = f"lva.{package}.{room}."
            used, used_by_it = set(), set()
            for module, target in uses:
                if target.startswith(within) and not module.startswith(within):
                    used.add(target.removeprefix(within))
                elif module.startswith(within) and target.startswith(f"lva.{package}."):
                    used_by_it.add(target.split(".")[2])
            tree = ast.parse(FILES[within[:-1]].read_text(encoding="utf-8"))
            said = " ".join((ast.get_docstring(tree) or "").split())
            of_it, by_it = said.partition("Used from outside: ")[2].split(". Uses: ")
            assert {*re.findall(r"`(\w+)`", of_it)} == used
            assert {*re.findall(r"`(\w+)`", by_it)} == used_by_it & {*floors} - {room}


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
