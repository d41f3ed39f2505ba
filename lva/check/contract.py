"""Whether the classes of a file keep to the contract: coroutines where they belong, the right arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from lva.check.source import Class, Function, PluginSource, calls, self_attribute
from lva.contract import RuntimeName
from lva.errors import PluginProblem, suggestion
from lva.host.routing import VERBS

#: The methods of plugins that the host calls: what they are called with, and which kinds have them.
METHODS: Final[Mapping[str, tuple[Sequence[str], str]]] = {
    "initialize": ((), ""),
    "close": ((), ""),
    "start": ((), "background"),
    "handleEvent": (("points", "logger"), "event"),
    "flushPointToMonitoring": (("point", "logger"), "event"),
}
#: Decorators that leave a method what it is.
_TRANSPARENT: Final = {
    "staticmethod", "classmethod", "override", "typing.override", "final", "typing.final",
}  # fmt: skip
#: Names that people write for them.
_SLIPS: Final = {
    "initialise": "initialize",
    "oninitialize": "initialize",
    "onstart": "start",
    "onclose": "close",
    "handleevents": "handleEvent",
    "onevent": "handleEvent",
    "eventname": "eventName",
    "otherevents": "otherEvents",
    "othereventnames": "otherEvents",
    "config": "Config",
    "hostsettings": "host_settings",
    **{name.lower(): name for name in METHODS},
}


def contract_problems(source: PluginSource, style: RuntimeName) -> Iterator[PluginProblem]:
    """Yield what is wrong with the plugin and handler classes of a file.

    Args:
        source: The file.
        style: Where its coroutines run.
    """
    for cls in source.classes.values():
        kinds = source.kinds(cls)
        if "handler" in kinds:
            yield from _verbs(source, cls)
        if kinds & {"event", "background"}:
            yield from _constructor(source, cls)
            yield from _methods(source, cls, kinds)
            yield from misspelt(source, cls, _SLIPS)
            yield from _what_is_there(source, cls, kinds, style)
            if "event" in kinds:
                yield from _points(source, cls)


def is_wrapped(function: Function) -> bool:
    """Return whether a decorator may have made something else of a function."""
    return not _TRANSPARENT.issuperset(map(ast.unparse, function.node.decorator_list))


def signature_problem(
    function: Function, given: Sequence[str], named: Sequence[str] = ()
) -> str | None:
    """Return why a function cannot be called like this; None if it can, or a decorator may change it.

    Args:
        function: A function or method of the file.
        given: What is passed by position, besides `self`.
        named: What is passed by name.
    """
    arguments = function.node.args
    if is_wrapped(function):
        return None
    names = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
    needed = len(names) - len(arguments.defaults)
    is_static = "staticmethod" in map(ast.unparse, function.node.decorator_list)
    if function.owner is not None and not is_static:
        if not names and arguments.vararg is None:
            return "takes no `self`"
        names, needed = names[1:], max(needed - 1, 0)
    if len(given) > len(names) and arguments.vararg is None:
        count = len(names)
        besides = " besides `self`" if function.owner is not None else ""
        return f"takes {count or 'no'} argument{'' if count == 1 else 's'}{besides}"
    rest = names[len(given) :]
    optional = names[needed:]
    only_named = [item.arg for item in arguments.kwonlyargs]
    defaults = zip(only_named, arguments.kw_defaults, strict=True)
    missing = [name for name in rest if name not in (*optional, *named)]
    missing += [name for name, default in defaults if default is None and name not in named]
    if missing:
        return f"asks for {' and '.join(map(repr, missing))}, which nobody gives"
    by_name = {*rest, *only_named} - {item.arg for item in arguments.posonlyargs}
    unknown = [name for name in named if name not in by_name]
    if unknown and arguments.kwarg is None:
        return f"does not take {' and '.join(map(repr, unknown))}"
    return None


def _methods(source: PluginSource, cls: Class, kinds: set[str]) -> Iterator[PluginProblem]:
    used = {node.attr for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    for name, (_, kind) in METHODS.items():
        function = cls.methods.get(name)
        if function is None:
            continue
        if kind and kind not in kinds:
            if name not in used:  # else it is a helper of that name, called by the file itself
                base = "BaseBackgroundPlugin" if kind == "background" else "BaseEventPlugin"
                text = f"{function.name}() is never called: only a {base} has {name}()"
                yield source.problem(function.node, text, "unused", "warning")
            continue
        yield from method_problems(source, function, name)


def method_problems(source: PluginSource, function: Function, name: str) -> Iterator[PluginProblem]:
    """Yield what keeps the host from calling a method of `METHODS`, or from awaiting what it returns.

    Args:
        source: The file.
        function: A method of one of its classes.
        name: What the host knows it by, which may be another name of it.
    """
    arguments = ", ".join(METHODS[name][0])
    if (why := _why_no_coroutine(function)) is not None:
        text = f"{function.name}({arguments}) {why}; write `async def {function.node.name}`"
        yield source.problem(function.node, text, "not-async")
    if (why := signature_problem(function, METHODS[name][0])) is not None:
        text = f"{function.name}() {why}; the host calls `await plugin.{name}({arguments})`"
        yield source.problem(function.node, text, "signature")


def _why_no_coroutine(function: Function) -> str | None:
    """Say why awaiting what the method returns is bound to fail."""
    if is_wrapped(function):
        return None
    if function.is_generator:
        return "yields, which makes it a generator, and must be a coroutine"
    returned = [item.value for item in function.body if isinstance(item, ast.Return)]
    if function.is_async or any(
        value and not isinstance(value, ast.Constant) for value in returned
    ):
        return None  # a plain function may return an awaitable
    return "must be a coroutine"


def _constructor(source: PluginSource, cls: Class) -> Iterator[PluginProblem]:
    function = cls.methods.get("__init__")
    if function is None:
        return
    yield from constructor_problems(source, function)
    for node in function.body:
        if (name := self_attribute(node)) in {"nursery", "addRoute"}:
            text = f"self.{name} is not there in __init__(); use it in initialize() or later"
            yield source.problem(node, text, "constructor")


def constructor_problems(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Yield what keeps a plugin's `__init__` from making an instance that the host can use."""
    assert function.owner is not None
    if function.is_async:
        text = (
            f"{function.name}() cannot be a coroutine; open connections in `async def initialize`"
        )
        yield source.problem(function.node, text, "not-async")
    if (why := signature_problem(function, ("app",))) is not None:
        text = f"{function.name}() {why}; the host calls `{function.owner.name}(app)`"
        yield source.problem(function.node, text, "signature")
    called = any(
        isinstance(call.func, ast.Attribute)
        and (call.func.attr == "__init__" or _hands_on_the_app(call, function))
        for call in calls(function)
    )
    sets_app = any(
        isinstance(node, ast.Attribute) and node.attr == "app" and isinstance(node.ctx, ast.Store)
        for node in function.body
    )
    if not called and not sets_app:
        text = f"{function.name}() must call `super().__init__(app)`"
        yield source.problem(function.node, text, "constructor")


def _hands_on_the_app(call: ast.Call, function: Function) -> bool:
    """Return whether another method of the instance gets the app, and may do what is to be done with it."""
    names = [item.arg for item in function.node.args.args]
    given = {item.id for item in call.args if isinstance(item, ast.Name)}
    return (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and names[:1] == [call.func.value.id]
        and bool(given & {*names[1:2]})
    )


def misspelt(source: PluginSource, cls: Class, slips: Mapping[str, str]) -> Iterator[PluginProblem]:
    """Look for names of the contract written in another way, which are then just any names.

    Args:
        source: The file.
        cls: One of its classes.
        slips: Names of the contract by what people write for them, in small letters without underscores.
    """
    taken = {name for one in source.lineage(cls) for name in one.names}
    used = {node.attr for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    for node in cls.node.body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [item.id for item in node.targets if isinstance(item, ast.Name)]
        for name in names:
            meant = slips.get(name.replace("_", "").lower())
            if meant and name != meant and meant not in taken and name not in used:
                text = f"{cls.name}.{name} means nothing to the host; did you mean {meant!r}?"
                yield source.problem(node, text, "misspelt", "warning")


def _what_is_there(
    source: PluginSource, cls: Class, kinds: set[str], style: RuntimeName
) -> Iterator[PluginProblem]:
    """Look for what this kind of plugin does not have."""
    names = {name for one in source.lineage(cls) for name in one.names}
    for function in source.functions:
        if function.owner is not cls:
            continue
        for node in function.body:
            if style == "asyncio" and self_attribute(node) == "nursery":
                text = "self.nursery is not there in asyncio style; use asyncio.create_task() or a TaskGroup"
                yield source.problem(node, text, "runtime")
            alone = "background" not in kinds and "addRoute" not in names
            if alone and self_attribute(node) == "addRoute":
                text = f"{cls.name} is an event plugin, which has no self.addRoute(); use self.app.addRoute()"
                yield source.problem(node, text, "attribute")


def _points(source: PluginSource, cls: Class) -> Iterator[PluginProblem]:
    """Look for points that are changed in place."""
    for name in ("handleEvent", "flushPointToMonitoring"):
        function = cls.methods.get(name)
        if function is None:
            continue
        arguments = [item.arg for item in function.node.args.args[1:2]]
        points = set(arguments) if name != "handleEvent" else set()
        for node in function.body:
            if (
                isinstance(node, ast.For | ast.AsyncFor)
                and isinstance(node.target, ast.Name)
                and isinstance(node.iter, ast.Name)
                and node.iter.id in arguments
            ):
                points.add(node.target.id)
        for node in function.body:
            if (changed := _changed(node)) and changed.partition(".")[0] in points:
                text = f"{changed} is shared by all plugins and refuses changes; copy it: dict({changed})"
                yield source.problem(node, text, "points")


def _changed(node: ast.AST) -> str | None:
    """Return ``point.tags`` where a node sets or deletes an item or attribute of it."""
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        value = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr not in ("update", "pop", "setdefault", "clear", "popitem"):
            return None
        value = node.func.value
    else:
        return None
    if (
        isinstance(value, ast.Attribute)
        and value.attr in ("tags", "fields", "data")
        and isinstance(value.value, ast.Name)
    ):
        return f"{value.value.id}.{value.attr}"
    return None


def _verbs(source: PluginSource, cls: Class) -> Iterator[PluginProblem]:
    """Look at a handler class: verbs in small letters, called with the request."""
    lower = [verb.lower() for verb in VERBS]
    for name, function in cls.methods.items():
        if name in lower:
            yield from verb_problems(source, function)
        elif name.lower() in lower:
            text = f"{function.name} handles nothing; verbs are in small letters: {name.lower()!r}"
            yield source.problem(function.node, text, "verb")
    inherited = {name for one in source.lineage(cls) for name in one.methods}
    known = all(base is None or base.startswith(("lva.", "luna")) for base in cls.bases)
    is_base = any(
        isinstance(base, ast.Name) and base.id == cls.name
        for other in source.classes.values()
        for base in other.node.bases
    )
    from_example = any((base or "").endswith("HandlerExample") for base in cls.bases)
    if not inherited & {*lower} and known and not is_base and not from_example:
        near = next((hint for name in inherited if (hint := suggestion(name, lower))), "")
        if not any(name.lower() in lower for name in inherited):
            text = f"the handler class {cls.name} has no method for a verb, such as `async def get`{near}"
            yield source.problem(cls.node, text, "verb")


def verb_problems(source: PluginSource, function: Function) -> Iterator[PluginProblem]:
    """Yield what keeps the host from calling a handler class's method for a verb."""
    # Variables of the path come by name; which there are, only the route says.
    names = [item.arg for item in function.node.args.args[2:]]
    names += [item.arg for item in function.node.args.kwonlyargs]
    if (why := signature_problem(function, ("request",), names)) is not None:
        text = f"{function.name}() {why}; it is called with the request, and variables by name"
        yield source.problem(function.node, text, "signature")
