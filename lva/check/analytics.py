"""Whether the analytics classes of a file keep to their contract, as far as the source shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from lva.check.contract import misspelt, signature_problem
from lva.check.source import Class, Function, PluginSource, calls, self_attribute
from lva.errors import PluginProblem, hint

#: The methods that a worker calls, and what it calls them with.
ANALYTICS_METHODS: Final[Mapping[str, Sequence[str]]] = {
    "open": ("stream",),
    "handleFrame": ("frame",),
    "close": (),
}
_SLIPS: Final = {
    "handleframe": "handleFrame",
    "handleframes": "handleFrame",
    "onframe": "handleFrame",
    "process": "handleFrame",
    "processframe": "handleFrame",
    "initialize": "open",
    "initialise": "open",
    "setup": "open",
    "start": "open",
    "onopen": "open",
    "onclose": "close",
    "stop": "close",
    "teardown": "close",
    "config": "Config",
}
#: Of the service, and not in a stream's process.
_HOST_NAMES: Final = ("app", "nursery", "addRoute")
_HOST_MODULES: Final = (
    "lva.app", "lva.check", "lva.cli", "lva.client", "lva.commands", "lva.host", "lva.server", "lva.testing",
    "lva.web",
)  # fmt: skip
_FRAME_NAMES: Final = frozenset(
    ("age", "droi", "gray", "image", "jpeg", "key", "number", "pts", "roi", "size", "small", "wall_time")
)  # fmt: skip
#: What people know frames by from other libraries.
_FRAME_SLIPS: Final = {
    "shape": "use frame.size, or frame.image().shape",
    "to_ndarray": "use frame.image() or frame.gray()",
    "width": "use frame.size",
    "height": "use frame.size",
    "copy": "use frame.image().copy()",
    "time": "use frame.pts or frame.wall_time",
    "timestamp": "use frame.pts or frame.wall_time",
    "to_image": "use frame.image()",
    "data": "use frame.image()",
}


def analytics_problems(source: PluginSource) -> Iterator[PluginProblem]:
    """Yield what is wrong with the analytics classes of a file, and with what a file that has one imports."""
    found = [cls for cls in source.classes.values() if "analytics" in source.kinds(cls)]
    for cls in found:
        for name in ANALYTICS_METHODS:
            if (function := cls.methods.get(name)) is not None:
                yield from analytics_method_problems(source, function, name)
        if (function := cls.methods.get("__init__")) is not None:
            yield from analytics_constructor_problems(source, function)
        yield from misspelt(source, cls, _SLIPS)
        yield from _what_is_not_there(source, cls)
        if (function := cls.methods.get("handleFrame")) is not None:
            yield from () if function.is_async else _results(source, function)
            yield from _frame_names(source, function)
    if found:
        yield from _imports(source)


def analytics_method_problems(
    source: PluginSource, function: Function, name: str
) -> Iterator[PluginProblem]:
    """Yield what keeps a worker from calling a method.

    Args:
        source: The file.
        function: A method of one of its classes.
        name: What the worker knows it by, which may be another name of it.
    """
    arguments = ", ".join(ANALYTICS_METHODS[name])
    if function.is_async:
        yield source.problem(function.node, async_text(function.name, name), "async")
    if (why := signature_problem(function, ANALYTICS_METHODS[name])) is not None:
        text = f"{function.name}() {why}; a stream's process calls `plugin.{name}({arguments})`"
        yield source.problem(function.node, text, "signature")


def async_text(shown: str, name: str) -> str:
    """Say what is wrong with a method that is async.

    Args:
        shown: The method, with its class.
        name: What the worker knows it by.
    """
    return (
        f"{shown}() is async; write `def {name}`: methods of analytics plugins run in the stream's own"
        " process and may block"
    )


def analytics_constructor_problems(
    source: PluginSource, function: Function
) -> Iterator[PluginProblem]:
    """Yield what keeps a worker from making an instance that it can use."""
    assert function.owner is not None
    if (why := signature_problem(function, ("config", "logger"))) is not None:
        text = f"{function.name}() {why}; a stream's process calls `{function.owner.name}(config, logger)`"
        yield source.problem(function.node, text, "signature")
    called = any(
        isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"
        for call in calls(function)
    )
    if not called:
        text = f"{function.name}() must call `super().__init__(config, logger)`"
        yield source.problem(function.node, text, "constructor")
    for node in function.body:
        if self_attribute(node) == "stream":
            text = "the stream is not known in __init__(); use it in open(stream)"
            yield source.problem(node, text, "constructor")


def _what_is_not_there(source: PluginSource, cls: Class) -> Iterator[PluginProblem]:
    """Look for what only plugins within the service have."""
    own = {name for one in source.lineage(cls) for name in one.names}
    own |= {
        node.attr
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    for function in source.functions:
        if function.owner is not cls:
            continue
        for node in function.body:
            name = self_attribute(node)
            if name in _HOST_NAMES and name not in own:
                text = (
                    f"an analytics plugin has no self.{name}: it runs in the stream's process; return"
                    " AnalyticsEvents, and use self.config and self.logger"
                )
                yield source.problem(node, text, "attribute")


def _results(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Look for results that are no AnalyticsEvent for certain."""
    for node in function.body:
        values: list[ast.expr] = []
        if isinstance(node, ast.Return) and node.value is not None:
            nothing = isinstance(node.value, ast.Constant) and node.value.value is None
            if function.is_generator and not nothing:
                text = "what a generator returns is lost; yield it"
                yield source.problem(node, text, "result")
                continue
            values = [node.value]
            if isinstance(node.value, ast.List | ast.Tuple):
                values = node.value.elts
        elif isinstance(node, ast.Yield):
            values = [node.value] if node.value is not None else [ast.Constant(None)]
        for value in values:
            if (what := _no_event(value, isinstance(node, ast.Return))) is not None:
                text = f"handleFrame() returns or yields AnalyticsEvents, not {what}"
                yield source.problem(node, text, "result")
        if isinstance(node, ast.Call) and source.resolve(node.func, function) in {
            "lva.AnalyticsEvent",
            "lva.contract.AnalyticsEvent",
        }:
            yield from _event(source, node)


def _no_event(value: ast.expr, returned: bool) -> str | None:
    if isinstance(value, ast.Constant):
        if value.value is None:
            return None if returned else "None"
        return type(value.value).__name__
    kinds = {ast.Dict: "a dict", ast.Set: "a set", ast.JoinedStr: "str", ast.Compare: "bool"}
    if isinstance(value, ast.Tuple | ast.List):
        return "a list" if isinstance(value, ast.List) else "a tuple"
    return kinds.get(type(value))


def _event(source: PluginSource, call: ast.Call) -> Iterator[PluginProblem]:
    """Look at the arguments of an AnalyticsEvent that are written down."""
    if any(isinstance(item, ast.Starred) for item in call.args) or None in {
        item.arg for item in call.keywords
    }:
        return
    names = ("event_type", "data", "image")
    given = dict(zip(names, call.args, strict=False))
    given |= {item.arg: item.value for item in call.keywords if item.arg is not None}
    for name in given.keys() - {*names}:
        text = f"AnalyticsEvent takes no {name!r}{hint(name, names)}"
        yield source.problem(call, text, "result")
    kind, data = given.get("event_type"), given.get("data")
    wrong_kind = isinstance(kind, ast.Dict | ast.List) or (
        isinstance(kind, ast.Constant) and (not isinstance(kind.value, str) or not kind.value)
    )
    if kind is None or len(call.args) > len(names) or wrong_kind:
        text = (
            "AnalyticsEvent(event_type, data, image) begins with its type, such as 'motion_start'"
        )
        yield source.problem(call, text, "result")
    if isinstance(data, ast.List | ast.Tuple | ast.Set | ast.Constant | ast.JoinedStr):
        text = "the data of an AnalyticsEvent is a dict, such as {'count': 3}"
        yield source.problem(call, text, "result")


def _frame_names(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Look for attributes that a Frame does not have."""
    arguments = [item.arg for item in function.node.args.args[1:2]]
    bound = [
        node.id
        for node in function.body
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    for node in function.body:
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in arguments
            and node.value.id not in bound
            and node.attr not in _FRAME_NAMES
        ):
            todo = _FRAME_SLIPS.get(node.attr)
            said = f"; {todo}" if todo else hint(node.attr, _FRAME_NAMES)
            yield source.problem(node, f"a Frame has no {node.attr!r}{said}", "attribute")


def _imports(source: PluginSource) -> Iterator[PluginProblem]:
    for node in ast.walk(source.tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            modules = [node.module]
            if node.module == "lva":
                modules = [f"lva.{alias.name}" for alias in node.names]
        for module in modules:
            if any(module == one or module.startswith(f"{one}.") for one in _HOST_MODULES):
                text = (
                    f"{module} is of the service, which is another process; an analytics plugin uses lva and"
                    " lva.video"
                )
                yield source.problem(node, text, "host-import")
