"""The kit tells wrong plugins from right ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from lva.testing import contract
from lva.testing.report import Report, full_name
from tests.testing.gallery import RIGHT, WRONG, Plugin

#: Right plugins whose contract takes about a second or more: they have many steps to be stopped at.
LONG = {
    "asks_for_patience",
    "asyncio_close_does_not_await_its_task",
    "asyncio_group_in_start",
    "asyncio_retrieves_its_errors",
    "asyncio_uses_threads",
    "connects_for_each_batch",
    "has_nurseries_and_deadlines_of_its_own",
    "publishes_points_of_its_own",
    "runs_a_subprocess",
    "sends_four_batches_at_once",
    "sends_one_by_one",
    "start_returns_and_children_work",
}


def check(plugin: Plugin) -> Report:
    """Check a plugin as its author would."""
    if plugin.event:
        return contract.check_event_contract(plugin.source, **plugin.options)
    return contract.check_plugin(plugin.source, **plugin.options)


def test_the_gallery_is_large():
    assert len(WRONG) >= 40
    assert len(RIGHT) >= 20
    assert len({plugin.name for plugin in WRONG + RIGHT}) == len(WRONG + RIGHT)
    assert {plugin.name for plugin in RIGHT} >= LONG


@pytest.mark.slow("the whole contract is checked")
@pytest.mark.parametrize("plugin", WRONG, ids=lambda plugin: plugin.name)
def test_a_wrong_plugin_is_caught(plugin: Plugin):
    report = check(plugin)
    found = [
        step
        for step in report.failures
        if step.guarantee == full_name(plugin.guarantee) and plugin.says in step.message
    ]
    assert found, f"not caught with {plugin.guarantee} {plugin.says!r}:\n{report}"
    if plugin.lines:
        assert plugin.lines <= {step.line for step in found}, str(report)
        assert Path(str(found[0].file)).name.startswith("plugin_under_test")
    if plugin.name.startswith("leaves_a"):
        # The host and the kit both see what is leaked; its author reads of it once.
        assert [step for step in report.failures if "leaked" in step.message] == found, str(report)
    with pytest.raises(AssertionError, match="breaks its contract"):
        report.raise_if_failed()


@pytest.mark.slow("the whole contract is checked")
@pytest.mark.parametrize(
    "plugin",
    [
        pytest.param(plugin, marks=[pytest.mark.soak] if plugin.name in LONG else [])
        for plugin in RIGHT
    ],
    ids=lambda plugin: plugin.name,
)
def test_a_right_plugin_passes(plugin: Plugin):
    report = check(plugin)
    assert report.ok, str(report)


@pytest.mark.soak
@pytest.mark.parametrize(
    "plugin", [plugin for plugin in RIGHT if plugin.event], ids=lambda plugin: plugin.name
)
def test_a_right_event_plugin_lives_well(plugin: Plugin):
    arguments = {**plugin.options}
    arguments.pop("ordered", None)
    contract.check_plugin(plugin.source, **arguments).raise_if_failed()
