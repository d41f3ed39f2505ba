"""In whose calls a worker's memory grew, as the worker itself finds it; with real memory."""

from __future__ import annotations

import mmap
import os

import av
import numpy as np
import pytest

from lva.video.board import new_board
from lva.video.frame import Frame
from lva.video.growth import Growth, largest_growth

MIB = 2**20


def new_memory(size):
    """Return memory that is surely new to the process: an array may get what was freed before."""
    memory = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        memory[page] = 1
    return memory


@pytest.mark.slow("memory is taken until it counts")
def test_memory_is_counted_to_the_call_that_adds_it_and_not_to_who_asks_for_a_frames_array():
    """The kind is a leak beside a plugin that needs more, and gives it back or has it of the frame."""
    board, descriptor = new_board()
    os.close(descriptor)
    growth, kept = Growth(board), []
    begun = board["memory_begun"]
    for number in range(3):
        picture = av.VideoFrame(4000, 3000, "gray")
        frame = Frame(picture, number, 0.0, True)
        frame.making = growth.not_counted
        growth.enter()
        kept.append(frame.image("rgb24"))  # 34 MiB
        np.ones(40 * MIB, np.uint8)
        growth.leave(0)
        growth.enter()
        kept.append(new_memory(8 * MIB))
        growth.leave(1)
    assert 22 * MIB < board["grown_1"] < 26 * MIB
    assert board["grown_0"] < 10 * MIB
    # Where nothing else was added, that is most; else it is not.
    assert largest_growth(board, begun + 25 * MIB) == (1, board["grown_1"])
    assert largest_growth(board, begun + 60 * MIB) is None
    board.close()
