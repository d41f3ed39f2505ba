import os
import resource
from pathlib import Path

import pytest

from lva.video.board import AGES, Board, FrameLedger, new_board


def balance(ledger: FrameLedger) -> int:
    frames = ledger.frames()
    gone = frames["analysed"] + frames["failed"] + frames["held"]
    return (
        frames["decoded"] - gone - sum(frames["skipped"].values()) - sum(frames["dropped"].values())
    )


def test_what_one_side_writes_the_other_reads():
    ours, descriptor = new_board()
    theirs = Board(os.dup(descriptor))
    theirs.add("decoded", 3)
    theirs["last_frame"] = 2**62
    assert (ours["decoded"], ours["last_frame"]) == (3, 2**62)
    ours.close()
    theirs.close()
    os.close(descriptor)


def test_a_shortage_of_descriptors_leaves_none():
    """The kind is a limit that is reached between the two descriptors that a board needs."""
    before = {*Path("/proc/self/fd").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for more in (0, 1):
        fillers = [os.open("/dev/null", os.O_RDONLY)]
        while fillers[-1] <= max(int(each.name) for each in before):
            fillers.append(os.open("/dev/null", os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1 + more, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                new_board()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in fillers:
                os.close(descriptor)
        assert {*Path("/proc/self/fd").iterdir()} == before


def test_frames_are_conserved_over_workers_that_die():
    """The kind is a worker that ends with frames in hand: they are dropped, and nothing is counted twice."""
    ledger = FrameLedger()
    assert ledger.frames()["decoded"] == balance(ledger) == 0
    for round_ in (1, 2):
        board, descriptor = new_board()
        os.close(descriptor)
        ledger.begin(board)
        board.add("decoded", 10)
        board.add("analysed", 4)
        board.add("failed", 1)
        board.add("skipped_rate", 2)
        board.add("dropped_busy", 1)
        assert (ledger.frames()["held"], balance(ledger)) == (2, 0)
        ledger.end()
        board.close()
        frames = ledger.frames()
        assert (frames["held"], frames["dropped"]["stop"], frames["decoded"]) == (
            0,
            2 * round_,
            10 * round_,
        )
        assert balance(ledger) == 0


def test_ages_are_told_by_their_classes():
    ledger = FrameLedger()
    assert ledger.ages() == {"p50": None, "p95": None, "max": None}
    board, descriptor = new_board()
    os.close(descriptor)
    ledger.begin(board)
    for milliseconds in [3.0] * 90 + [120.0] * 9 + [99_999.0]:
        board.note_age(milliseconds)
    assert ledger.ages() == {"p50": float(AGES[0]), "p95": 150.0, "max": 99_999.0}
    ledger.end()
    board.close()
    assert ledger.ages()["max"] == 99_999.0
