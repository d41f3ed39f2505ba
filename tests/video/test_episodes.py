import pytest

from lva.video.episodes import Episode


def changes(episode, *frames):
    """Return at which times an episode starts and ends."""
    found = [(pts, episode.update(seen, pts)) for pts, seen in frames]
    return [(pts, change) for pts, change in found if change]


def test_it_starts_once_it_has_lasted_and_ends_once_it_is_over():
    episode = Episode(start_seconds=2, end_seconds=3)
    frames = [
        (0, True),
        (1, False),
        (2, True),
        (3, True),
        (4, True),
        (5, False),
        (6, True),
        (7, False),
    ]
    assert changes(episode, *frames, (9, False), (10, False)) == [(4, "start"), (9, "end")]
    assert episode.seconds == 4
    assert not episode.running


def test_what_cannot_be_said_changes_nothing():
    episode = Episode(start_seconds=1, end_seconds=1)
    assert changes(episode, (0, None), (1, True), (2, None), (3, True)) == [(3, "start")]
    assert changes(episode, (4, None), (9, None), (9.5, False), (10, False)) == [(10, "end")]


def test_it_does_not_start_again_until_it_is_cool():
    episode = Episode(cooldown_seconds=5)
    frames = [(0, True), (1, False), (2, True), (5, True), (6, True)]
    assert changes(episode, *frames) == [(0, "start"), (1, "end"), (6, "start")]


@pytest.mark.parametrize(("start", "times"), [(0, [0]), (0.2, [60])])
def test_frames_that_are_far_apart(start, times):
    episode = Episode(start, 2)
    assert changes(episode, (0, True), (60, True)) == [(at, "start") for at in times]
    assert changes(episode, (120, False)) == [(120, "end")]


def test_a_new_connection_ends_it():
    """The kind is a clock that begins anew: nothing waits for a time that does not come."""
    episode = Episode(start_seconds=1, cooldown_seconds=100)
    assert changes(episode, (50, True), (51, True), (0, True)) == [(51, "start"), (0, "end")]
    assert episode.seconds == 1
    waiting = Episode(start_seconds=1)
    assert changes(waiting, (50, True), (0, True), (1, True)) == [(1, "start")]


def test_times_that_are_sums_of_fractions():
    episode = Episode(start_seconds=0.2)
    assert changes(episode, (2.1, True), (2.2, True), (2.3, True)) == [(2.3, "start")]
