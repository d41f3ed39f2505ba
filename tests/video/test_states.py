"""The states of a stream: which follow which, each with its reason, in the log, and what is said of codes."""

from __future__ import annotations

from itertools import product

import pytest

from lva.video.codes import CODES, ENDED, SLOW, TRANSITIONS, StreamState
from tests.video.supervision.test_watch import new_stream

S = StreamState
#: By hand: what a stream may do. A change within a state, such as a warning, is always allowed.
ALLOWED = {
    S.PENDING: {S.IN_PROGRESS, S.PAUSED, S.STOP, S.RESTART, S.DONE, S.FAILURE},
    S.IN_PROGRESS: {S.PENDING, S.PAUSED, S.STOP, S.RESTART, S.DONE, S.FAILURE},
    S.PAUSED: {S.PENDING, S.STOP, S.FAILURE},
    S.STOP: {S.PENDING},
    S.RESTART: {S.PENDING, S.IN_PROGRESS, S.PAUSED, S.STOP, S.DONE, S.FAILURE},
    S.DONE: {S.PENDING, S.STOP},
    S.FAILURE: {S.PENDING, S.RESTART, S.STOP},
}
#: How each state is come to from `pending`.
WAY = {state: [state] for state in S} | {S.PENDING: []}


@pytest.mark.parametrize(("before", "after"), [*product(S, S)])
def test_each_change_is_allowed_or_refused(before, after):
    stream = new_stream()
    for state in WAY[before]:
        stream.move(state, "on the way")
    count = len(stream.log)
    if after in ALLOWED[before] | {before}:
        stream.move(after, "why")
        entry = stream.log[-1]
        assert (entry["before"], entry["status"], entry["reason"]) == (before, after, "why")
    else:
        with pytest.raises(ValueError, match=f"{before} cannot become {after}"):
            stream.move(after, "why")
        assert (stream.state, len(stream.log)) == (before, count)


def test_every_state_can_be_left_and_those_that_end_are_left_by_a_user_alone():
    assert set(TRANSITIONS) == set(ALLOWED) == set(S)
    for state in ENDED:
        assert S.PENDING in TRANSITIONS[state]
    assert set(CODES) > SLOW
