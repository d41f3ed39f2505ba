"""How long steps take: what is between two runs is no step."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lva.testing import check_plugin

SLOW = """
import time
from lva import BaseBackgroundPlugin

time.sleep(0.05)


class Slow(BaseBackgroundPlugin):
    async def initialize(self):
        pass
"""


@pytest.mark.slow("a file takes long on purpose")
def test_a_file_that_takes_long_to_load_blocks_nothing(tmp_path: Path):
    """It is loaded before the event loop runs, in the service as in a check."""
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    began = time.perf_counter()
    check_plugin(path, block_limit=0.02)
    assert time.perf_counter() - began > 0.1  # it was loaded more than once
