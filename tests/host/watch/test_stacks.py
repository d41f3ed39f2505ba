"""Whose code is on a stack."""

from __future__ import annotations

import sys
from types import ModuleType

from lva.host.plugin_modules import package_of
from lva.host.watch.stacks import Line, formatted, owner_of, stack_of, without_callers

PLUGINS = {"a", "b"}
MODULES = {"lva_plugins.a": "a", "acme": "b"}
LIBRARY = Line("/lib/json.py", 1, "dumps", None)
HELPER = Line("/plugins/helper.py", 2, "help", "helper")
A = Line("/plugins/a.py", 3, "work", "a")
A_OUTER = Line("/plugins/a.py", 4, "start", "a")
B = Line("/plugins/b.py", 5, "call", "b")
SERVICE = Line("/lva/host/runtimes/runtime.py", 6, "_body", None)


def test_a_task_s_plugin_goes_before_whose_code_it_calls():
    assert owner_of("a", [LIBRARY, B, SERVICE], PLUGINS) == "a"
    assert owner_of("a", [LIBRARY, SERVICE], PLUGINS) == "a"


def test_a_step_without_a_plugin_is_its_whose_code_it_is_in():
    assert owner_of(None, [LIBRARY, HELPER, A, B, SERVICE], PLUGINS) == "a"
    assert owner_of("gone", [B, SERVICE], PLUGINS) == "b"


def test_a_step_of_the_service_is_nobody_s():
    assert owner_of(None, [LIBRARY, SERVICE], PLUGINS) is None
    assert owner_of(None, [], PLUGINS) is None


def test_callers_of_the_plugin_are_cut_off():
    stack = [LIBRARY, A, LIBRARY, A_OUTER, SERVICE]
    assert [*without_callers(stack, "a")] == stack[:4]
    assert [*without_callers(stack, "b")] == stack
    assert [*without_callers(stack, None)] == stack


def in_module(name, depth=0):
    """Return the stack of a function that a module of this name defines."""
    module = ModuleType(name)
    module.__dict__.update(sys=sys, stack_of=stack_of, MODULES=MODULES)
    source = (
        "def f(depth):\n"
        "    return f(depth - 1) if depth else stack_of(sys._getframe(), MODULES)\n"
    )  # fmt: skip
    exec(compile(source, "/plugins/file.py", "exec"), module.__dict__)
    return module.f(depth)


async def test_lines_know_their_plugin_and_end_at_the_event_loop():
    stack = in_module("lva_plugins.a.part")
    assert stack[0] == Line("/plugins/file.py", 2, "f", "a")
    assert in_module("lva_pluginsx.a")[0].plugin is None
    assert in_module("acme.part")[0].plugin == "b", "of an installed package"
    assert in_module("lva.host.watch.alarm")[0].function == "in_module"
    assert not [line for line in stack if line.function == "unrolled_run"]
    assert len(in_module("lva_plugins.a", depth=200)) == 40


def test_a_stack_is_formatted_as_a_traceback_is(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("one\n    two\n")
    text = formatted([Line(str(file), 2, "inner", "a"), Line("/nowhere.py", 7, "outer", None)])
    assert text.splitlines() == [
        "Stack (most recent call last):",
        '  File "/nowhere.py", line 7, in outer',
        f'  File "{file}", line 2, in inner',
        "    two",
    ]


def test_all_modules_of_a_package_in_a_plugin_directory_are_the_plugin_s():
    assert package_of("lva_plugins.a.part.more") == package_of("lva_plugins.a") == "lva_plugins.a"
    assert package_of("acme.cameras") == "acme.cameras"
