"""The pytest plugin: `pytest` finds it by its entry point, in every project that LVA is installed for.

Imports nothing of the kit before a test asks for it, so that other tests start as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def lva_host() -> Callable[..., Any]:
    """`lva.testing.running_plugin`: ``async with lva_host("plugins/pump.py") as host: ...``."""
    from lva.testing import running_plugin

    return running_plugin
