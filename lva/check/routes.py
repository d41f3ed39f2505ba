"""The routes that plugins are going to add, as far as their paths are written in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from werkzeug.routing import Map, Rule

from lva.check.contract import signature_problem
from lva.check.source import Class, Function, PluginSource, calls, dotted
from lva.errors import PluginProblem
from lva.host.routing import VERBS, Gate, Owner, RouteRefusedError, RouteTable

_NAME: Final = "addRoute"


@dataclass(frozen=True)
class Adding:
    """One call of `addRoute()`.

    Attributes:
        source: The file.
        function: What it is in.
        call: The call itself.
        path: The route's path; None if it is computed.
        sure: Whether it happens each time that the function is called.
    """

    source: PluginSource
    function: Function
    call: ast.Call
    path: str | None
    sure: bool

    def argument(self, position: int, name: str) -> ast.expr | None:
        """Return one of the call's arguments."""
        for keyword in self.call.keywords:
            if keyword.arg == name:
                return keyword.value
        return self.call.args[position] if len(self.call.args) > position else None


def addings(source: PluginSource, plugin: str) -> list[Adding]:
    """Return the calls of `self.addRoute()` and `self.app.addRoute()` in a plugin's file."""
    found = []
    for function in source.functions:
        sure = {
            id(item)
            for part in function.node.body
            if isinstance(part, ast.Expr | ast.Assign)
            for item in ast.walk(part)
        }
        for call in calls(function):
            if dotted(call.func) in (f"self.{_NAME}", f"self.app.{_NAME}"):
                path = call.args[0] if call.args else None
                for keyword in call.keywords:
                    path = keyword.value if keyword.arg == "path" else path
                text = _text_of(path, source, function, plugin) if path is not None else None
                found.append(Adding(source, function, call, text, id(call) in sure))
    return sorted(found, key=lambda adding: adding.call.lineno)


def _text_of(node: ast.expr, source: PluginSource, function: Function, plugin: str) -> str | None:
    """Return a path that is written down, or made of texts that are and the plugin's name."""
    if not isinstance(node, ast.JoinedStr):
        return source.text_of(node, function)
    text = ""
    for part in node.values:
        value = part.value if isinstance(part, ast.FormattedValue) else part
        known = plugin if dotted(value) == "self.app.name" else source.text_of(value, function)
        if known is None:
            return None
        text += known
    return text


def route_problems(
    own: Mapping[str, Sequence[Adding]],
    others: Mapping[str, Sequence[Adding]],
    reserved: Iterable[str],
) -> dict[str, list[PluginProblem]]:
    """Return what is wrong with the routes of each plugin: malformed paths, wrong handlers, taken paths.

    Args:
        own: The plugins that are looked at, by name, in the order in which they start.
        others: Further plugins that run beside them.
        reserved: The service's own paths.
    """
    table = RouteTable()
    service = Owner(None, Gate.OPEN)
    for path in reserved:
        table.add(service, path, _serve)
    first: dict[str, Adding] = {}
    for name, several in others.items():
        for adding in several:
            if adding.sure:
                _add(table, Owner(name), adding)
    problems: dict[str, list[PluginProblem]] = {}
    for name, several in own.items():
        owner = Owner(name)
        problems[name] = []
        for adding in several:
            refused = _add(table, owner, adding, first)
            problems[name] += [refused] if refused is not None else []
            problems[name] += _handler_problems(adding)
    return problems


def _add(
    table: RouteTable, owner: Owner, adding: Adding, first: dict[str, Adding] | None = None
) -> PluginProblem | None:
    if adding.path is None:
        return None
    methods = _methods(adding)
    try:
        table.add(owner, adding.path, _serve, methods)
    except RouteRefusedError as error:
        level: Literal["error", "warning"] = "error"
        if "before by this plugin" in str(error) or "belongs to plugin" in str(error):
            known = first is not None and adding.sure and first.get(adding.path, adding).sure
            if "before by this plugin" in str(error) and not known:
                return None  # the two may be on different ways through the code
            level = "error" if adding.sure else "warning"
        return _at(adding, adding.call, str(error), level)
    if first is not None:
        first.setdefault(adding.path, adding)
    return None


def _methods(adding: Adding) -> Any:
    node = adding.argument(2, "methods")
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None  # computed


def _handler_problems(adding: Adding) -> Iterator[PluginProblem]:
    node = adding.argument(1, "handler")
    if node is None:
        yield _at(adding, adding.call, "addRoute() needs a path and a handler")
        return
    source, function = adding.source, adding.function
    if isinstance(node, ast.Call):
        inner = source.local(node.func, function)
        made = isinstance(node.func, ast.Name) and source.classes.get(node.func.id)
        if inner is not None and not inner.node.decorator_list and _returns_no_callable(inner):
            called = ast.unparse(node)
            yield _at(
                adding, node, f"pass the function {ast.unparse(node.func)} itself, not {called}"
            )
        elif made and "handler" in source.kinds(made):
            yield _at(adding, node, f"pass the class {made.name} itself, not an instance of it")
        return
    variables = _variables(adding.path)
    cls = source.classes.get(node.id) if isinstance(node, ast.Name) else None
    if cls is not None:
        yield from _class_problems(adding, node, cls, variables)
        return
    called_function = source.local(node, function)
    if called_function is None or variables is None:
        return
    if (why := signature_problem(called_function, ("request",), variables)) is not None:
        call = (
            f"{called_function.node.name}({', '.join(['request', *(f'{v}=…' for v in variables)])})"
        )
        yield _at(
            adding, called_function.node, f"{called_function.name}() {why}; it is called as {call}"
        )


def _class_problems(
    adding: Adding, node: ast.expr, cls: Class, variables: Sequence[str] | None
) -> Iterator[PluginProblem]:
    source = adding.source
    known = all(base is not None for one in source.lineage(cls) for base in one.bases)
    if "handler" not in source.kinds(cls) and known and not _inherits(source, cls):
        text = (
            f"the handler of {adding.path!r} is the class {cls.name}; it must derive from"
            " BaseBackgroundHandler"
        )
        yield _at(adding, node, text)
        return
    for verb in VERBS if variables is not None else ():
        function = source.method(cls, verb.lower())
        if function is None or signature_problem(function, ("request",)) == "takes no `self`":
            continue
        why = signature_problem(function, ("request",), variables or ())
        alone = signature_problem(function, ("request",), _named(function))
        if why is not None and alone is None:  # the other kind is the class's own problem
            call = f"{verb.lower()}({', '.join(['request', *(f'{v}=…' for v in variables or ())])})"
            yield _at(adding, function.node, f"{function.name}() {why}; it is called as {call}")


def _named(function: Function) -> list[str]:
    arguments = function.node.args
    return [item.arg for item in (*arguments.args[2:], *arguments.kwonlyargs)]


def _inherits(source: PluginSource, cls: Class) -> bool:
    """Return whether a class has bases from elsewhere, about which nothing is known."""
    return any(
        base not in (None, "object") and base not in source.classes
        for one in source.lineage(cls)
        for base in one.bases
    )


def _returns_no_callable(function: Function) -> bool:
    """Return whether calling a function cannot give a handler: it is a coroutine, or takes a request."""
    return function.is_async or "request" in {item.arg for item in function.node.args.args}


def _variables(path: str | None) -> Sequence[str] | None:
    """Return the names of a path's variables; None if they cannot be told."""
    if path is None:
        return None
    try:
        rule = Rule(path, endpoint="")
        rule.bind(Map())
    except (ValueError, LookupError, SyntaxError, TypeError):
        return None
    return sorted(rule.arguments)


def _serve(_request: object) -> None:
    """Stand for a handler: only paths and methods are looked at."""


def _at(
    adding: Adding, node: ast.AST, text: str, level: Literal["error", "warning"] = "error"
) -> PluginProblem:
    return adding.source.problem(node, text, "route", level)
