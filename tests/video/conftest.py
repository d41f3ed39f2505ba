"""What several tests of streams use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lva.video.board import Board, new_board


@pytest.fixture
def board() -> Iterator[Board]:
    """A board that no worker has."""
    board, descriptor = new_board()
    os.close(descriptor)
    yield board
    board.close()
