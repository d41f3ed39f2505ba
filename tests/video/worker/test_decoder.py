import time

import av
import av.error
import psutil
import pytest

from lva.video.frame import Frame
from lva.video.geometry import Region
from lva.video.source import parse_source
from lva.video.worker.decoder import Decoder, Playback, PresentationTimes
from lva.video.worker.failures import ConnectionLostError, failure_of, words_of
from tests.video.faulty_source import faulty_source, response, video

pytestmark = pytest.mark.slow("waits for servers that are silent")


@pytest.fixture(scope="module")
def server():
    with faulty_source() as source:
        yield source


def read(source, board, most=1000, timeout=0.5):
    decoder = Decoder(source.as_message(), timeout, board)
    found = []
    for picture, at in decoder.frames():
        found.append((picture, at))
        if len(found) == most:
            break
    decoder.close()
    return found


def test_every_call_of_ffmpeg_is_watched(board):
    """The kind is a call that never returns: it is known since when it is under way, decoding too."""
    decoder = Decoder(parse_source("test:").as_message(), 1.0, board)

    class Packet:
        def decode(self):
            return [board["reading_since"]]

    assert decoder._decode(Packet())[0] > 0
    assert board["reading_since"] == 0
    decoder.close()


@pytest.mark.parametrize(
    "kind", [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video"), ("avi", "mpeg4")]
)
def test_a_file_gives_all_its_frames_in_order(tmp_path, board, kind):
    path = tmp_path / "video"
    path.write_bytes(video(24, 12, kind[1], kind[0]))
    found = read(parse_source(str(path), directories=[tmp_path]), board)
    times = [at for _, at in found]
    assert len(found) == 24
    assert times == sorted(set(times))
    assert times[-1] - times[0] == pytest.approx(23 / 12, abs=0.01)
    assert board["packets"] >= 24
    assert (board["decode_errors"], board["time_jumps"], board["reading_since"]) == (0, 0, 0)


def test_a_picture_that_is_kept_stays_as_it_was(tmp_path, board):
    """The kind is a slow reader whose pictures are overwritten by later ones."""
    path = tmp_path / "video.mp4"
    path.write_bytes(video(24))
    pictures = [
        picture for picture, _ in read(parse_source(str(path), directories=[tmp_path]), board)
    ]
    shown = [float(picture.to_ndarray(format="gray").mean()) for picture in pictures]
    assert shown == pytest.approx([number * 10 for number in range(24)], abs=8)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
def test_no_region_is_cut_out_of_planes_of_several_sizes(pixel_format):
    """The kind is an array that would be cut through its colours, without a word."""
    frame = Frame(av.VideoFrame(64, 48, "yuv420p"), 1, 0.0, True, Region(8, 8, 16, 24))
    assert frame.image().shape == (24, 16, 3)
    with pytest.raises(ValueError, match="whole=True"):
        frame.image(pixel_format)
    assert frame.image(pixel_format, whole=True).shape == (72, 64)


@pytest.mark.soak
def test_many_connections_leave_no_memory_behind(server, board):
    """The kind is a little that each connection leaves behind."""
    sizes = []
    server.documents["whole.ts"] = response(video(24, 12, "mpeg2video", "mpegts"))
    for number in range(300):
        read(parse_source(server.url("whole.ts")), board)
        if number in {100, 299}:
            sizes.append(psutil.Process().memory_info().rss)
    assert sizes[1] - sizes[0] < 8 * 1024**2, sizes


def test_the_source_s_clock_may_jump(board):
    """The kind is a time that is no use: hours away, backwards, the same again, or none."""
    times = PresentationTimes(board, 0.04)
    given = [5.0, 5.04, 3605.0, 3605.04, 3605.0, 3605.0, None, 0.0, 0.04]
    found = [times.of(at) for at in given]
    steps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert all(0.03 < step < 0.05 for step in steps), steps
    assert board["time_jumps"] == 4
    assert found[0] == 0.0


def test_the_first_frames_may_have_no_time(board):
    times = PresentationTimes(board, 0.04)
    found = [times.of(at) for at in (None, None, 7.0, 7.04, None)]
    assert found == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])
    assert board["time_jumps"] == 0


def test_pictures_without_times_have_those_of_their_arrival(server, board):
    """The kind is a format whose times FFmpeg makes up, whatever pace the camera has."""
    times = [at for _, at in read(parse_source(server.url("gap")), board, 60, 3)]
    assert len(times) == 60
    assert max(after - before for before, after in zip(times, times[1:], strict=False)) > 0.4


def test_what_comes_in_a_burst_is_played_at_its_own_pace():
    playback, began = Playback(), time.monotonic()
    for number in range(4):
        playback.wait_for(number * 0.05)
    assert time.monotonic() - began >= 0.15
    playback.wait_for(-100)  # late: the times go on from here
    playback.wait_for(-99.95)
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("silent", "timeout"),
        ("half", "timeout"),
        ("unauthorized", "auth_failed"),
        ("missing", "not_found"),
        ("garbage", "connection_failed"),  # FFmpeg says no more than: input/output error
    ],
)
def test_what_is_wrong_with_a_server_has_a_code(server, board, fault, code):
    with pytest.raises(ConnectionLostError) as caught:
        # Where no timeout is sought, a busy machine must not make one.
        read(parse_source(server.url(fault)), board, timeout=0.5 if code == "timeout" else 20.0)
    assert caught.value.code == code
    assert board["decoded"] == 0


@pytest.mark.parametrize(
    "kind",
    [
        av.error.InvalidDataError,
        av.error.OSError,
        av.error.EOFError,
        av.error.UndefinedError,
        OSError,
    ],
)
def test_errors_of_ffmpeg_do_not_tell_the_address(kind):
    error = kind(5, "it broke", "rtsp://admin:hunter2@cam/1")
    assert "hunter2" in str(error)
    assert "hunter2" not in words_of(error) + str(failure_of(error))
    assert words_of(ValueError("no such region")) == "ValueError: no such region"


@pytest.mark.parametrize("fault", ["silent", "closes"])
def test_rtsp_servers_may_be_silent_too(server, board, fault):
    with pytest.raises(ConnectionLostError) as caught:
        read(parse_source(server.url(fault, "rtsp")), board)
    assert caught.value.code in {"timeout", "invalid_data", "connection_failed"}


def test_nobody_listens(board):
    with pytest.raises(ConnectionLostError) as caught:
        read(parse_source("rtsp://127.0.0.1:1/x"), board)
    assert caught.value.code == "connection_failed"


def test_pictures_may_change_their_size(server, board):
    found = read(parse_source(server.url("sizes")), board, 26)
    sizes = {(picture.width, picture.height) for picture, _ in found}
    assert sizes == {(64, 48), (96, 64)}
    assert board["size_changes"] >= 2
