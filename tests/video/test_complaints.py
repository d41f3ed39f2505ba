"""What users of video systems complain of, and which test shows that it does not befall streams here.

Each kind was reported of some system that runs for months: of recorders, restreamers, pipelines, and the
libraries below them. Where no test is named, the reason stands in its place.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]
FAULTS: Final = (
    "test_faulty_sources::test_each_fault_is_noticed_with_its_codes_alone_counted_and_overcome"
)
CHILDREN: Final = (
    "test_stream_children::test_what_a_plugin_starts_ends_with_its_worker_and_with_the_service"
)
RTSP: Final = "test_rtsp::test_cameras_are_read_refused_lost_and_found_again"
TIME: Final = "test_stream_time"
STORM: Final = "test_stream_storm"
BLAMED: Final = "test_stream::test_what_ends_the_worker_is_blamed_and_set_aside"
CANNOT: Final = "cannot befall:"

COMPLAINTS: Final = {
    # Processes and stopping
    "decoders are defunct after a day, and an old picture is shown as live": [
        CHILDREN, "test_freshness::test_at_rest_there_are_no_frames_and_the_age_goes_on",
    ],
    "a restart leaves decoders that keep the camera's only session": [
        RTSP, "test_forks::test_its_end_leaves_no_process",
    ],
    "hundreds of defunct children of plugins, which nobody reaps": [CHILDREN],
    "hundreds of defunct decoders in half a day": [CHILDREN, f"{STORM}::test_kill_at_any_moment"],
    "a stop takes minutes": [
        f"{STORM}::test_sigterm_at_any_moment",
        "test_streams_stop::test_fifty_streams_stop_within_two_seconds",
    ],
    "the camera is back, and the watchdog waits for a decoder to end gracefully": [
        "test_guarantees::test_g12_no_worker_is_left",
    ],
    "a stream whose first connection failed cannot be ended": [
        "test_streams_stop::test_blocked_streams_stop_with_the_service_and_leave_nothing",
    ],
    "a wrong password leaves a process without a stream": [RTSP],
    "a stream does not stop on a disk that cannot be written": [
        "test_streams::test_a_file_that_cannot_be_written_leaves_a_stream_in_a_state_that_is_true",
    ],
    "the interpreter hangs at its end with a decoder's threads": [
        "test_worker::test_a_worker_that_is_asked_to_stop_closes_its_plugins_and_ends",
    ],
    "the parent hangs at its end after a child has decoded": [
        "test_rooms::test_a_worker_imports_nothing_of_the_service", f"{STORM}::test_sigterm_at_any_moment",
    ],
    # Stalls that nobody notices
    "a camera that comes back while it is connected to blocks the read for ever": [FAULTS],
    "the limit for opening leaves out the look into the stream": [FAULTS],
    "a source ends, and the read blocks for ever": [FAULTS],
    "a stream stays ready after its source has gone": [RTSP],
    "after a loss only sound comes back": [FAULTS],
    "a lost connection freezes the reader": [FAULTS, RTSP],
    "a fixed limit ends a healthy slow stream for ever": [
        "test_faulty_sources::test_a_camera_that_is_slower_than_the_limit_is_not_ended_for_ever",
        "test_watch::test_a_slow_stream_is_not_ended_for_ever_and_a_quick_one_is_judged_as_before",
    ],
    "data flow, and there are no frames": [FAULTS, "test_watch::test_each_watchdog_has_its_own_limit"],
    # One camera harms the rest
    "one camera that is away freezes the pages and restarts the detectors": [FAULTS],
    "a camera that is away takes a whole processor, without a pause between attempts": [
        "test_faulty_sources::test_cameras_that_cannot_be_reached_use_no_processor",
        "test_retries::test_the_back_off_of_each_code",
    ],
    "memory runs out with a camera that is away": [
        "test_decoder::test_many_connections_leave_no_memory_behind",
    ],
    "ten connections in threads fall behind, since each look at the limit takes the interpreter's lock": [
        f"{CANNOT} each stream has a process and an interpreter of its own",
    ],
    # Memory and shared memory
    "a decoder grows to gigabytes": [BLAMED, f"{STORM}::test_memory_is_flat_over_an_hour_of_frames"],
    "/dev/shm is too small": [f"{CANNOT} it is one page without a file; frames stay in their process"],
    "shared memory of another size is used again after a restart": [
        f"{CANNOT} shared memory has no name, and each worker gets its own",
        "test_board::test_frames_are_conserved_over_workers_that_die",
    ],
    "each change of sources leaves memory behind": [
        "test_streams_stop::test_a_storm_of_changes_leaves_one_worker_for_each_stream",
        "test_decoder::test_many_connections_leave_no_memory_behind",
    ],
    "pictures leak unless they are unmapped": [f"{STORM}::test_memory_is_flat_over_an_hour_of_frames"],
    # Pictures and time
    "green noise where the size is not the one that was configured": [
        FAULTS, "test_decoder::test_pictures_may_change_their_size",
    ],
    "a slow reader gets pictures that are overwritten": [
        "test_decoder::test_a_picture_that_is_kept_stays_as_it_was",
    ],
    "pictures are seconds old": [
        "test_streams::test_sixteen_live_streams_drop_frames_by_policy_alone",
    ],
    "a release turns to UDP, and cameras that speak TCP alone time out": [
        "test_source::test_a_camera_is_asked_for_video_over_tcp",
    ],
    "errors of the decoder without end": [FAULTS],
    "times of single frames are hours away, or start again": [
        FAULTS, "test_decoder::test_the_source_s_clock_may_jump",
    ],
    "times go back": [FAULTS],
    "an hour is lost where the clock is put back": [
        f"{TIME}::test_steps_of_the_clock_end_no_stream",
        "test_schedule::test_hours_are_those_of_the_clock_on_the_wall",
    ],
    "a camera says 25 frames a second, and has 21": [
        "test_selection::test_a_camera_slower_than_it_says_loses_nothing",
        "test_decoder::test_pictures_without_times_have_those_of_their_arrival",
    ],
    "frames of a playlist are skipped in silence": [
        "test_opening::test_a_playlist_and_its_segments_are_of_one_server",
        "test_decoder::test_what_comes_in_a_burst_is_played_at_its_own_pace",
    ],
    "the end of a file is taken for a lost camera": [
        "test_stream::test_a_file_is_looked_at_whole_and_is_done",
    ],
    "a USB camera that was unplugged never comes back": [
        "test_opening::test_a_camera_of_this_machine_that_is_not_there",
        "test_retries::test_the_back_off_of_each_code",
    ],
    # Many machines, and workers that are judged
    "a worker dies, and its work is never handed out again": [
        "test_stream::test_frames_are_looked_at_and_a_killed_worker_is_replaced",
        "test_streams::test_streams_survive_a_restart_and_workers_do_not",
    ],
    "healthy work is ended as unresponsive, since it blocks who answers": [
        "test_stream::test_native_code_that_keeps_the_interpreter_is_no_silence",
        f"{TIME}::test_a_service_that_stood_still_judges_nobody_by_that",
    ],
}  # fmt: skip


@pytest.mark.parametrize("complaint", COMPLAINTS)
@pytest.mark.slow("files of tests are parsed")
def test_each_complaint_has_a_test_or_a_reason(complaint):
    for shown in COMPLAINTS[complaint]:
        if not shown.startswith(CANNOT):
            file, _, name = shown.partition("::")
            trees = [ast.parse(path.read_text()) for path in TESTS.rglob(f"{file}.py")]
            assert name in {getattr(node, "name", None) for tree in trees for node in tree.body}


def test_all_complaints_are_here():
    assert len(COMPLAINTS) == 42
