"""The documented base classes, without a host."""

from __future__ import annotations

import inspect
import logging
from types import SimpleNamespace

import pytest

import lva
from lva import (
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    BaseEventPlugin,
    BaseRequestMonitoringPlugin,
    PartialDeliveryError,
    PermanentDeliveryError,
    pluginHTTPResponse,
)
from tests.support import numbered

LOGGER = logging.getLogger("lva.plugin.p")


class Flusher(BaseRequestMonitoringPlugin):
    def __init__(self, outcomes):
        super().__init__(SimpleNamespace(ctx=SimpleNamespace(logger=LOGGER), config={"a": 1}))
        self.outcomes = outcomes
        self.flushed = []

    async def flushPointToMonitoring(self, point, logger):
        assert logger is LOGGER
        self.flushed.append(point)
        if (error := self.outcomes.get(point.fields["n"])) is not None:
            raise error


def test_the_public_names_are_sorted_and_there():
    assert lva.__all__ == sorted(lva.__all__)
    assert all(hasattr(lva, name) for name in lva.__all__)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (BaseEventPlugin.__init__, ["self", "app"]),
        (BaseBackgroundPlugin.__init__, ["self", "app"]),
        (BaseRequestMonitoringPlugin.flushPointToMonitoring, ["self", "point", "logger"]),
        (BaseRequestMonitoringPlugin.handleEvent, ["self", "points", "logger"]),
        (BaseBackgroundPlugin.addRoute, ["self", "path", "handler", "methods"]),
        (BaseBackgroundHandler.response, ["self", "body", "headers", "statusCode"]),
        (pluginHTTPResponse, ["statusCode", "body", "headers"]),
    ],
)
def test_the_documented_signatures(function, parameters):
    assert list(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize("base", [BaseEventPlugin, BaseRequestMonitoringPlugin])
def test_event_plugins_are_abstract(base):
    with pytest.raises(TypeError, match="abstract"):
        base(None)


async def test_a_background_plugin_needs_no_method_of_its_own():
    plugin = BaseBackgroundPlugin(SimpleNamespace(ctx=SimpleNamespace(logger=LOGGER), config=5))
    await plugin.initialize()
    await plugin.start()
    await plugin.close()
    assert plugin.logger is LOGGER
    assert plugin.config == 5


async def test_every_point_is_flushed_in_order():
    plugin = Flusher({})
    points = numbered(5)
    await plugin.handleEvent(points, LOGGER)
    assert plugin.flushed == points
    await plugin.handleEvent([], LOGGER)
    assert plugin.eventName == "monitoring_event"


async def test_the_points_that_failed_are_reported_and_the_others_still_flushed():
    plugin = Flusher({1: OSError("down"), 2: PermanentDeliveryError("bad"), 3: ValueError("last")})
    points = numbered(5)
    with pytest.raises(PartialDeliveryError) as caught:
        await plugin.handleEvent(points, LOGGER)
    assert plugin.flushed == points
    assert [id(point) for point in caught.value.failed] == [id(points[1]), id(points[3])]
    assert [id(point) for point in caught.value.rejected] == [id(points[2])]
    assert str(caught.value) == "3 of 5 points failed, the last with ValueError: last"
    assert isinstance(caught.value.__cause__, ValueError)


async def test_what_is_no_exception_of_the_point_ends_the_batch():
    plugin = Flusher({1: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        await plugin.handleEvent(numbered(3), LOGGER)
    assert len(plugin.flushed) == 2


@pytest.mark.parametrize("status", [100, 200, 418, 599])
def test_a_response_keeps_what_it_was_given(status):
    headers = {"X-A": "b"}
    made = pluginHTTPResponse(statusCode=status, body={"a": 1}, headers=headers)
    assert (made.statusCode, made.body, made.headers) == (status, {"a": 1}, {"X-A": "b"})
    headers["X-A"] = "c"
    assert made.headers == {"X-A": "b"}
    assert (
        BaseBackgroundHandler().response(body={"a": 1}, headers={"X-A": "b"}, statusCode=status)
        == made
    )


def test_a_response_without_anything_is_an_empty_200():
    made = pluginHTTPResponse()
    assert (made.statusCode, made.body, dict(made.headers)) == (200, None, {})
    assert BaseBackgroundHandler().response() == made


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 1000])
def test_an_impossible_status_is_refused(status):
    with pytest.raises(ValueError, match="100 to 599"):
        pluginHTTPResponse(statusCode=status)
    with pytest.raises(ValueError, match="100 to 599"):
        BaseBackgroundHandler().response(statusCode=status)
