import os

import pytest

from lva.video.board import new_board
from lva.video.decoder import ConnectionLostError, Decoder, PresentationTimes
from lva.video.source import parse_source
from tests.video.faulty_source import faulty_source, video

pytestmark = pytest.mark.slow("waits for servers that are silent")


@pytest.fixture
def board():
    board, descriptor = new_board()
    os.close(descriptor)
    yield board
    board.close()


@pytest.fixture(scope="module")
def server():
    with faulty_source() as source:
        yield source


def read(source, board, most=1000, timeout=0.5):
    decoder = Decoder(source.as_message(), timeout, board)
    found = []
    for picture, time in decoder.frames():
        found.append((picture, time))
        if len(found) == most:
            break
    decoder.close()
    return found


@pytest.mark.parametrize(
    "kind", [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video"), ("avi", "mpeg4")]
)
def test_a_file_gives_all_its_frames_in_order(tmp_path, board, kind):
    path = tmp_path / "video"
    path.write_bytes(video(24, 12, kind[1], kind[0]))
    found = read(parse_source(str(path), directories=[tmp_path]), board)
    times = [time for _, time in found]
    assert len(found) == 24
    assert times == sorted(set(times))
    assert times[-1] - times[0] == pytest.approx(23 / 12, abs=0.01)
    assert board["packets"] >= 24
    assert (board["decode_errors"], board["time_jumps"], board["reading_since"]) == (0, 0, 0)


def test_the_source_s_clock_may_jump(board):
    """The kind is a time that is no use: hours away, backwards, the same again, or none."""
    times = PresentationTimes(board, 0.04)
    given = [5.0, 5.04, 3605.0, 3605.04, 3605.0, 3605.0, None, 0.0, 0.04]
    found = [times.of(time) for time in given]
    steps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert all(0.03 < step < 0.05 for step in steps), steps
    assert board["time_jumps"] == 4
    assert found[0] == 0.0


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
        read(parse_source(server.url(fault)), board)
    assert caught.value.code == code
    assert board["decoded"] == 0


@pytest.mark.parametrize("fault", ["silent", "closes"])
def test_rtsp_servers_may_be_silent_too(server, board, fault):
    with pytest.raises(ConnectionLostError) as caught:
        read(parse_source(server.url(fault, "rtsp")), board)
    assert caught.value.code in {"timeout", "invalid_data", "connection_failed"}


def test_nobody_listens(board):
    with pytest.raises(ConnectionLostError) as caught:
        read(parse_source("rtsp://127.0.0.1:1/x"), board)
    assert caught.value.code == "connection_failed"


@pytest.mark.parametrize("fault", ["playlist", "concat", "sdp"])
def test_what_a_server_sends_opens_no_file_and_no_other_host(server, board, fault):
    """The kind is a source that names further addresses: a playlist, a script, a session description."""
    with pytest.raises(ConnectionLostError):
        read(parse_source(server.url(fault)), board)
    assert (board["packets"], board["bytes"]) == (0, 0)


def test_no_file_opens_another(tmp_path, board):
    script = tmp_path / "a.mp4"
    script.write_text("ffconcat version 1.0\nfile '/etc/passwd'\n")
    with pytest.raises(ConnectionLostError):
        read(parse_source(str(script), directories=[tmp_path]), board)
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    with pytest.raises(ConnectionLostError):
        read(parse_source(str(playlist), directories=[tmp_path]), board)


def test_pictures_may_change_their_size(server, board):
    found = read(parse_source(server.url("sizes")), board, 14)
    sizes = {(picture.width, picture.height) for picture, _ in found}
    assert sizes == {(64, 48), (96, 64)}
    assert board["size_changes"] >= 2


def test_a_directory_of_pictures_is_a_file_too(tmp_path, board):
    from tests.video.faulty_source import jpeg

    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    assert len(read(parse_source(str(tmp_path), directories=[tmp_path]), board)) == 5
