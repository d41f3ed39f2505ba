"""A plugin file as text: its classes, its functions, and what the names in them stand for.

Nothing is imported or executed. What cannot be told from the text alone is left open, never guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from lva import __all__ as LVA_NAMES  # noqa: N812 - a constant of the package
from lva.contract import RuntimeName
from lva.errors import PluginProblem
from lva.luna import MODULES

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

#: The base classes by their names, wherever they are imported from.
_KINDS: Final = {
    "BaseEventPlugin": "event",
    "BaseRequestMonitoringPlugin": "event",
    "RequestMonitoringPlugin": "event",
    "BaseBackgroundPlugin": "background",
    "BackgroundPluginExample": "background",
    "BaseAnalyticsPlugin": "analytics",
    "PresencePlugin": "analytics",
    "BaseBackgroundHandler": "handler",
    "HandlerExample": "handler",
}
_IGNORE: Final = re.compile(r"#\s*lva:\s*ignore(?:\[([\w\s,-]+)\])?")


@dataclass(eq=False)
class Function:
    """A function of the file, a method, or one inside of another.

    Attributes:
        node: Its definition.
        owner: The class whose method it is.
        outer: The function that it is inside of.
        imports: What is imported inside of it: name -> dotted name.
        bound: The names that it binds by itself, parameters included.
        types: What local variables were made by: name -> dotted name of the class or function called.
        inner: The functions inside of it, by name.
        body: Everything that runs when it is called, in no order: not the bodies of inner functions.
    """

    node: FunctionNode
    owner: Class | None = None
    outer: Function | None = None
    imports: dict[str, str] = field(default_factory=dict)
    bound: set[str] = field(default_factory=set)
    types: dict[str, str] = field(default_factory=dict)
    inner: dict[str, Function] = field(default_factory=dict)
    body: list[ast.AST] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name, with its class's."""
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @property
    def is_async(self) -> bool:
        """Whether it is an ``async def``."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def is_generator(self) -> bool:
        """Whether calling it runs nothing yet, because it yields."""
        return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in self.body)


@dataclass(eq=False)
class Class:
    """A class of the file.

    Attributes:
        node: Its definition.
        bases: Its bases as dotted names; None for one that is no name.
        methods: By name, as its own body defines them.
        attributes: What `self.NAME` was made by, where that is always the same.
        names: All names that its body defines.
    """

    node: ast.ClassDef
    bases: Sequence[str | None] = ()
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name


class PluginSource:
    """One file.

    Args:
        path: For messages.
        text: Its content.

    Raises:
        SyntaxError: It is not Python.
        ValueError: It holds what no source may, such as NUL bytes.

    Attributes:
        functions: All of them, also those inside of others.
        classes: Those at the top of the file, by name.
    """

    def __init__(self, path: Path, text: str | bytes) -> None:
        self.path = path
        self.tree: ast.Module = ast.parse(text)
        decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
        # Not `splitlines()`, which also ends a line where Python does not.
        self.lines: list[str] = re.split(r"\r\n|\r|\n", decoded)
        self.functions: list[Function] = []
        self.classes: dict[str, Class] = {}
        self.imports: dict[str, str] = {}
        self.defined: dict[str, Function] = {}
        self.constants: dict[str, str] = {}
        self._from_lva = False
        self._collect()

    def ignores(self, line: int | None, code: str) -> bool:
        """Return whether a comment on that line lets this kind of problem pass."""
        if line is None or not 0 < line <= len(self.lines):
            return False
        match = _IGNORE.search(self.lines[line - 1])
        return match is not None and (
            match[1] is None or code in re.split(r"[\s,]+", match[1].strip())
        )

    def problem(
        self, node: ast.AST, text: str, code: str, level: Literal["error", "warning"] = "error"
    ) -> PluginProblem:
        """Return a problem at the line of a node."""
        return PluginProblem(text, self.path, getattr(node, "lineno", 1), code, level)

    @property
    def summary(self) -> str:
        """The first line of the file's docstring, or else of its first plugin class's."""
        nodes: list[ast.Module | ast.ClassDef] = [self.tree]
        nodes += [cls.node for cls in self.classes.values() if self.kinds(cls) - {"handler"}]
        for node in nodes:
            if text := ast.get_docstring(node):
                return text.splitlines()[0]
        return ""

    # What names stand for

    def resolve(self, node: ast.expr, function: Function | None = None) -> str | None:
        """Return the dotted name of an expression, seen from inside a function; None if it is open.

        A call is the name of what is called with ``()`` behind it: ``requests.Session().get``.
        """
        if isinstance(node, ast.Name):
            return self._name(node.id, function)
        if isinstance(node, ast.Call):
            called = self.resolve(node.func, function)
            return f"{called}()" if called else None
        if isinstance(node, ast.Attribute):
            if (
                isinstance(node.value, ast.Name)
                and node.value.id == "self"
                and (owner := _owner(function))
                and node.attr in owner.attributes
            ):
                return owner.attributes[node.attr]
            base = self.resolve(node.value, function)
            return f"{base}.{node.attr}" if base else None
        return None

    def _name(self, name: str, function: Function | None) -> str | None:
        while function is not None:
            if name in function.types:
                return function.types[name]
            if name in function.imports:
                return function.imports[name]
            if name in function.bound:
                return None
            function = function.outer
        if name in self.imports:
            return self.imports[name]
        if name in self.defined or name in self.classes:
            return None
        if self._from_lva and name in LVA_NAMES:
            return f"lva.{name}"
        return name if name in ("open", "input", "exit", "quit") else None

    def local(self, node: ast.expr, function: Function | None) -> Function | None:
        """Return the function of this file that an expression names: ``f``, ``self.f`` or ``cls.f``."""
        if isinstance(node, ast.Name):
            scope = function
            while scope is not None:
                if node.id in scope.inner:
                    return scope.inner[node.id]
                if node.id in scope.bound:
                    return None
                scope = scope.outer
            return self.defined.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = self.classes.get(node.value.id)
            if node.value.id in ("self", "cls"):
                owner = _owner(function)
            return self.method(owner, node.attr) if owner else None
        return None

    def method(self, cls: Class, name: str) -> Function | None:
        """Return a method of a class or of its bases in this file."""
        for one in self.lineage(cls):
            if name in one.methods:
                return one.methods[name]
            if name in one.names:
                return None
        return None

    def lineage(self, cls: Class, seen: frozenset[str] = frozenset()) -> Iterator[Class]:
        """Yield a class and its bases in this file, nearest first."""
        if cls.name in seen:
            return
        yield cls
        for base in cls.node.bases:
            if isinstance(base, ast.Name) and base.id in self.classes:
                yield from self.lineage(self.classes[base.id], seen | {cls.name})

    def kinds(self, cls: Class) -> set[str]:
        """Return what a class is: ``event``, ``background``, ``handler``."""
        found: set[str] = set()
        for one in self.lineage(cls):
            for base in one.bases:
                module, _, name = (base or "").rpartition(".")
                if _of_lva(module) and name in _KINDS:
                    found.add(_KINDS[name])
        return found

    def style(self, cls: Class) -> RuntimeName:
        """Return where a class's coroutines run, as far as the text tells."""
        for one in self.lineage(cls):
            for node in one.node.body:
                if (
                    isinstance(node, ast.Assign | ast.AnnAssign)
                    and "runtime" in _targets(node)
                    and isinstance(node.value, ast.Constant)
                ):
                    return "asyncio" if node.value.value == "asyncio" else "trio"
            if any(_from_luna(base) for base in one.bases):
                return "asyncio"
        return "trio"

    def text_of(self, node: ast.expr, function: Function | None) -> str | None:
        """Return the text that an expression is, if it is written down: a literal or a constant's name."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.Name) and not (function and node.id in function.bound):
            return self.constants.get(node.id)
        return None

    # Collecting

    def _collect(self) -> None:
        for node in _statements(self.tree.body):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= _imported(node)
                star = any(alias.name == "*" for alias in node.names)
                if isinstance(node, ast.ImportFrom) and star:
                    self._from_lva |= node.module == "lva"
            elif isinstance(node, FunctionNode):
                self.defined[node.name] = self._function(node, None, None)
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = self._class(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                value = node.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    self.constants |= dict.fromkeys(_targets(node), value.value)
        for function in self.functions:  # once all imports are known
            self._note_types(function)
        for cls in self.classes.values():
            cls.bases = [self.resolve(base) or _plain(base) for base in cls.node.bases]
            cls.attributes = self._attributes(cls)

    def _class(self, node: ast.ClassDef) -> Class:
        cls = Class(node)
        for item in _statements(node.body):
            if isinstance(item, FunctionNode):
                cls.methods[item.name] = self._function(item, cls, None)
                cls.names.add(item.name)
            elif isinstance(item, ast.ClassDef):
                cls.names.add(item.name)
                self._class(item)
            elif isinstance(item, ast.Assign | ast.AnnAssign):
                cls.names |= set(_targets(item))
        return cls

    def _function(
        self, node: FunctionNode, owner: Class | None, outer: Function | None
    ) -> Function:
        function = Function(node, owner, outer, bound=set(_parameters(node.args)))
        self.functions.append(function)
        for item in _running(node.body):
            function.body.append(item)
            if isinstance(item, ast.Import | ast.ImportFrom):
                function.imports |= _imported(item)
            elif isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
                function.bound.add(item.id)
            elif isinstance(item, ast.ExceptHandler) and item.name:
                function.bound.add(item.name)
            elif isinstance(item, FunctionNode):
                function.bound.add(item.name)
                function.inner[item.name] = self._function(item, None, function)
            elif isinstance(item, ast.ClassDef):
                function.bound.add(item.name)
                self._class(item)
        for item in function.body:
            if isinstance(item, ast.Global | ast.Nonlocal):
                function.bound -= set(item.names)
        return function

    def _note_types(self, function: Function) -> None:
        """Note what local variables hold that are bound once, to what a call returned."""
        stores: dict[str, int] = {}
        for item in function.body:
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
                stores[item.id] = stores.get(item.id, 0) + 1
        for item in function.body:
            pairs: list[tuple[ast.expr, ast.expr]] = []
            if isinstance(item, ast.Assign) and len(item.targets) == 1:
                pairs = [(item.targets[0], item.value)]
            elif isinstance(item, ast.With):
                pairs = [
                    (part.optional_vars, part.context_expr)
                    for part in item.items
                    if part.optional_vars is not None
                ]
            for target, value in pairs:
                if isinstance(target, ast.Name) and stores.get(target.id) == 1:
                    made = self.resolve(value, function) if isinstance(value, ast.Call) else None
                    if made and made.count("()") == 1:
                        function.types[target.id] = made

    def _attributes(self, cls: Class) -> dict[str, str]:
        made: dict[str, set[str | None]] = {}
        for function in cls.methods.values():
            for item in function.body:
                if not isinstance(item, ast.Assign | ast.AnnAssign) or item.value is None:
                    continue
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                if isinstance(item.value, ast.Constant) and item.value.value is None:
                    continue
                called = isinstance(item.value, ast.Call)
                value = self.resolve(item.value, function) if called else None
                for target in targets:
                    if isinstance(target, ast.Attribute) and _is_self(target.value):
                        made.setdefault(target.attr, set()).add(value)
        return {name: value for name, (value, *more) in made.items() if value and not more}


def in_package(
    package: Mapping[Path, PluginSource], source: PluginSource, name: str
) -> tuple[PluginSource, Function] | None:
    """Return a function of a package by the dotted name that an import gives it, with its file.

    Args:
        package: The package's files, by their paths.
        source: The file that imports it.
        name: The name as `Source.resolve` returns it: relative, or beginning with the package's.
    """
    *modules, last = name.lstrip(".").split(".")
    level = len(name) - len(name.lstrip("."))
    folder = source.path.parent
    for _ in range(level - 1):
        folder = folder.parent
    if not level:
        while folder.parent / "__init__.py" in package:
            folder = folder.parent
        if not modules or modules.pop(0) != folder.name:
            return None
    path = folder.joinpath(*modules)
    for file in (path / "__init__.py", Path(f"{path}.py")):
        if (found := package.get(file)) is not None and last in found.defined:
            return found, found.defined[last]
    return None


def calls(function: Function) -> Iterator[ast.Call]:
    """Yield the calls that happen when a function is called."""
    for node in function.body:
        if isinstance(node, ast.Call):
            yield node


def dotted(node: ast.expr) -> str | None:
    """Return an expression that is only names and dots as it is written: ``self.app.publish``."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def self_attribute(node: ast.AST) -> str | None:
    """Return the name of an attribute of `self` that is looked at."""
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ):
        return node.attr
    return None


def _owner(function: Function | None) -> Class | None:
    """Return the class that `self` is of, in a method or in a function inside of one."""
    while function is not None:
        if function.owner is not None:
            return function.owner
        function = function.outer
    return None


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _plain(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _of_lva(module: str) -> bool:
    return module.partition(".")[0] == "lva" or module in MODULES


def _from_luna(base: str | None) -> bool:
    module = (base or "").rpartition(".")[0]
    return module in MODULES or module == "lva.luna"


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        yield argument.arg
    for star in (arguments.vararg, arguments.kwarg):
        if star is not None:
            yield star.arg


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Return what an import binds: name -> dotted name. Relative ones keep their dots."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: alias.name
            if alias.asname
            else alias.name.partition(".")[0]
            for alias in node.names
        }
    module = "." * node.level + (f"{node.module}." if node.module else "")
    return {
        alias.asname or alias.name: f"{module}{alias.name}"
        for alias in node.names
        if alias.name != "*"
    }


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a block and of the blocks in it, but not of functions and classes."""
    for node in body:
        yield node
        if isinstance(node, FunctionNode | ast.ClassDef):
            continue
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from _statements([child])
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                yield from _statements(child.body)


def _running(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield all nodes that run with a block: a function inside is one node, without its body."""
    pending = list(body)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, FunctionNode | ast.Lambda | ast.ClassDef):
            continue
        pending.extend(ast.iter_child_nodes(node))
