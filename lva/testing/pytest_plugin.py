"""The pytest plugin: `pytest` finds it by its entry point, in every project that LVA is installed for.

Imports nothing of the kit before a test asks for it, so that other tests start as fast as before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import pytest

_STRICT: Final = "set asyncio_mode = strict, and trio_mode = true or @pytest.mark.trio"


def pytest_configure(config: pytest.Config) -> None:
    """Warn of two plugins that take each test from one another: it runs, and then fails all the same."""
    if _taken_by_asyncio(config) and _in_trio_mode(config):
        config.issue_config_time_warning(
            pytest.PytestConfigWarning(
                f"pytest-asyncio in auto mode takes every async test from pytest-trio: {_STRICT}"
            ),
            stacklevel=2,
        )


@pytest.fixture
def lva_host(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`lva.testing.running_plugin`: ``async with lva_host("plugins/pump.py") as host: ...``."""
    if inspect.iscoroutinefunction(request.function) and (why := _why_not_on_trio(request)):
        pytest.fail(f"lva_host needs Trio's event loop, but {why}", pytrace=False)
    from lva.testing import running_plugin

    return running_plugin


def _why_not_on_trio(request: pytest.FixtureRequest) -> str:
    """Return what keeps an async test from Trio's event loop, as far as that is known before it runs."""
    if _taken_by_asyncio(request.config):
        return f"pytest-asyncio in auto mode takes every async test: {_STRICT}"
    by_anyio = "anyio_backend" in request.fixturenames
    if not by_anyio and not request.config.pluginmanager.hasplugin("trio"):
        return "pytest-trio is not active: install lva with the extra testing, without -p no:trio"
    return ""


def _in_trio_mode(config: pytest.Config) -> bool:
    """Return whether pytest-trio is there and runs all async tests."""
    return config.pluginmanager.hasplugin("trio") and bool(config.getini("trio_mode"))


def _taken_by_asyncio(config: pytest.Config) -> bool:
    """Return whether pytest-asyncio is there and runs all async tests, those marked for Trio too."""
    if not config.pluginmanager.hasplugin("asyncio"):
        return False
    mode = config.getoption("asyncio_mode", None) or config.getini("asyncio_mode")
    return str(getattr(mode, "value", mode)).lower() == "auto"
