"""The pytest plugin: `pytest` finds it by its entry point, in every project that LVA is installed for.

Imports nothing of the kit before a test asks for it, so that other tests start as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def lva_host(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`lva.testing.running_plugin`: ``async with lva_host("plugins/pump.py") as host: ...``."""
    if _taken_by_asyncio(request.config):
        pytest.fail(
            "lva_host needs Trio's event loop, but pytest-asyncio in auto mode takes every async test: set"
            " asyncio_mode = strict, and trio_mode = true or @pytest.mark.trio",
            pytrace=False,
        )
    from lva.testing import running_plugin

    return running_plugin


def _taken_by_asyncio(config: pytest.Config) -> bool:
    """Return whether pytest-asyncio is there and runs all async tests, those marked for Trio too."""
    if not config.pluginmanager.hasplugin("asyncio"):
        return False
    mode = config.getoption("asyncio_mode", None) or config.getini("asyncio_mode")
    return str(getattr(mode, "value", mode)).lower() == "auto"
