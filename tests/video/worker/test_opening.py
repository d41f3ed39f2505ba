"""What a source may open: itself, and nothing else, whatever a server or a file says."""

from __future__ import annotations

import os
import socket
import wave
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from lva.video.source import parse_source
from lva.video.worker.decoder import Decoder
from lva.video.worker.failures import ConnectionLostError
from tests.video.faulty_source import faulty_source, jpeg, response, video

SEGMENT = video(24, 60, "mpeg2video", "mpegts")
PASSWD = "file:///etc/passwd"


@pytest.fixture(scope="module")
def server():
    with faulty_source() as source:
        source.documents["segment.ts"] = response(SEGMENT)
        source.documents["segment"] = response(SEGMENT)
        yield source


@contextmanager
def untouched():
    """Give the port of another server; no connection is made to it, and no datagram is sent."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        port = listener.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        yield port
        listener.setblocking(False)
        datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)


def playlist(*lines: str) -> bytes:
    text = "\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:1", *lines, "#EXT-X-ENDLIST", ""])
    return response(text.encode(), "application/vnd.apple.mpegurl")


def count(board, url, **allowed):
    """Return how many frames a source gives."""
    decoder = Decoder(parse_source(url, **allowed).as_message(), 1.0, board)
    found = sum(1 for _ in decoder.frames())
    decoder.close()
    return found


def failure(board, url, **allowed):
    with pytest.raises(ConnectionLostError) as caught:
        count(board, url, **allowed)
    assert board["decoded"] == board["bytes"] == 0
    return caught.value


@pytest.mark.slow("FFmpeg reads from a server")
def test_a_playlist_and_its_segments_are_of_one_server(server, board):
    """The kinds are names with and without an ending, whole addresses, byte ranges, and variants."""
    url = server.url("segment.ts")
    server.documents["list.m3u8"] = playlist("#EXTINF:1,", "segment.ts", "#EXTINF:1,", url)
    assert count(board, server.url("list.m3u8")) == 48
    server.documents["bare.m3u8"] = playlist("#EXTINF:1,", "segment?session=1")
    assert count(board, server.url("bare.m3u8?a=b")) == 24
    variants = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nbare.m3u8\n"
    server.documents["main.m3u8"] = response(variants.encode(), "application/vnd.apple.mpegurl")
    assert count(board, server.url("main.m3u8")) == 24


@pytest.mark.parametrize(
    "line",
    [
        PASSWD,
        "http://127.0.0.1:{other}/segment.ts",
        "http://localhost:{server}/segment.ts",  # its own address by another name
        "https://127.0.0.1:{server}/segment.ts",
        "rtsp://127.0.0.1:{other}/1",
        "tcp://127.0.0.1:{other}",
        "udp://127.0.0.1:{other}",
        "concat:" + PASSWD,
        "subfile,,start,0,end,99,,:/etc/passwd",
        "crypto:" + PASSWD,
        "data:video/mp2t;base64,R0A=",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "#EXTINF:1,\n{line}",
        '#EXT-X-MAP:URI="{line}"\n#EXTINF:1,\nsegment.ts',
        '#EXT-X-KEY:METHOD=AES-128,URI="{line}"\n#EXTINF:1,\nsegment.ts',
        "#EXT-X-STREAM-INF:BANDWIDTH=1\n{line}",
    ],
    ids=["segment", "map", "key", "variant"],
)
def test_a_playlist_opens_nothing_elsewhere(server, board, line, form):
    with untouched() as other:
        text = form.format(line=line.format(other=other, server=server.port))
        server.documents["list.m3u8"] = playlist(text)
        failure(board, server.url("list.m3u8"))


def test_what_is_elsewhere_is_named(server, board):
    server.documents["list.m3u8"] = playlist("#EXTINF:1,", "http://user:hunter2@192.0.2.1/a.ts")
    found = failure(board, server.url("list.m3u8"))
    assert (found.code, str(found)) == (
        "forbidden",
        "the source names http://192.0.2.1, which is not its own server",
    )


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{other}/x", "rtsp://127.0.0.1:{other}/x", "tcp://127.0.0.1:{other}", PASSWD],
)
@pytest.mark.parametrize("name", ["moved", "moved.m3u8"])
@pytest.mark.parametrize("header", ["Location", "URI"])
def test_a_redirect_leads_nowhere_else(server, board, location, name, header):
    with untouched() as other:
        server.documents[name] = response(
            b"", status="302 Found", **{header: location.format(other=other)}
        )
        assert failure(board, server.url(name)).code in {"forbidden", "invalid_data"}


@pytest.mark.slow("FFmpeg reads from a server")
def test_a_redirect_within_the_server_is_followed(server, board):
    server.documents["moved"] = response(b"", status="301 Moved", Location="/segment.ts")
    server.documents["moved.m3u8"] = response(b"", status="307 Moved", Location="/list.m3u8")
    server.documents["list.m3u8"] = playlist("#EXTINF:1,", "moved")
    assert count(board, server.url("moved")) == 24
    assert count(board, server.url("moved.m3u8")) == 24


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("401 Unauthorized", "auth_failed"),
        ("403 Forbidden", "auth_failed"),
        ("404 Not Found", "not_found"),
        ("500 Oops", "connection_failed"),
    ],
)
def test_playlists_and_segments_fail_with_the_codes_of_all_sources(server, board, status, code):
    server.documents["gone.m3u8"] = response(b"", status=status)
    server.documents["list.m3u8"] = playlist("#EXTINF:1,", "gone.m3u8")
    for name in ("gone.m3u8", "list.m3u8"):
        found = failure(board, server.url(name))
        assert (found.code, str(found)[:8]) == (code, f"HTTP {status[:3]}")


@pytest.mark.slow("FFmpeg reads from a server")
def test_a_playlist_s_password_goes_to_its_server(server, board):
    server.documents["list.m3u8"] = playlist("#EXTINF:1,", server.url("segment.ts"))
    server.login = b"Basic " + b64encode(b"ad/min:hunter2")
    url = server.url("list.m3u8").replace("//", "//ad%2Fmin:hunter2@")
    try:
        assert failure(board, server.url("list.m3u8")).code == "auth_failed"
        assert count(board, url) == 24
    finally:
        server.login = None


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile '/etc/passwd'\n",
        "ffconcat version 1.0\nfile 'http://127.0.0.1:{other}/x'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {other} RTP/AVP 26\n",
        "#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:{other}/x\n#EXT-X-ENDLIST\n",
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>http://127.0.0.1:{other}/</BaseURL></Period></MPD>',
    ],
    ids=["concat-file", "concat-http", "sdp", "playlist-file", "playlist-http", "dash"],
)
@pytest.mark.parametrize("ending", ["mp4", "txt", "sdp", "m3u8"])
def test_scripts_open_nothing(server, board, tmp_path, text, ending):
    """The kind is a text that names further addresses, from a server and in a file, whatever its name."""
    with untouched() as other:
        body = text.format(other=other).encode()
        server.documents[f"script.{ending}"] = response(body, "application/octet-stream")
        failure(board, server.url(f"script.{ending}"))
        path = tmp_path / f"script.{ending}"
        path.write_bytes(body)
        failure(board, str(path), directories=[tmp_path])


@pytest.mark.parametrize("name", ["a*b", "[a-b]?", "{a,b}", "100%", "%03d", "a\\b", "Tür"])
def test_names_are_no_patterns(board, tmp_path, name):
    """The kind is a character that means something to FFmpeg, in a directory's and in a file's name."""
    for directory in (name, "ab", "a"):  # those that a pattern would find
        (tmp_path / directory).mkdir(exist_ok=True)
    for number in range(3):
        (tmp_path / name / f"{number}{name}.jpg").write_bytes(jpeg(number))
    (tmp_path / name / "3.JPEG").write_bytes(jpeg(3))
    assert count(board, str(tmp_path / name), directories=[tmp_path]) == 4
    assert count(board, str(tmp_path / name / f"1{name}.jpg"), directories=[tmp_path]) == 1


def test_a_directory_shows_its_own_pictures_alone(board, tmp_path):
    """The kind is what is no picture of the directory: a link, a pipe, a directory, a text."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret.jpg").write_bytes(jpeg(1))
    for number in (1, 5, 9):
        (inside / f"{number}.jpg").write_bytes(jpeg(number))
    (inside / "2.jpg").symlink_to(outside / "secret.jpg")
    (inside / "3.jpg").symlink_to("/etc/passwd")
    os.mkfifo(inside / "4.jpg")
    (inside / "6.jpg").mkdir()
    (inside / "7.jpg").write_text("no picture")
    (inside / "8.jpg").write_bytes(b"")
    assert count(board, str(inside), directories=[inside]) == 3


def test_what_has_taken_a_file_s_place_is_not_opened(board, tmp_path):
    """The kind is a path that was a file when it was checked, and is a link or a pipe now."""
    path = tmp_path / "a.ts"
    path.write_bytes(SEGMENT)
    source = parse_source(str(path), directories=[tmp_path])
    path.unlink()
    for change in (lambda: path.symlink_to("/etc/passwd"), lambda: os.mkfifo(path)):
        change()
        with pytest.raises(ConnectionLostError) as caught:
            Decoder(source.as_message(), 1.0, board)
        assert caught.value.code == "forbidden"
        path.unlink()
    with pytest.raises(ConnectionLostError) as caught:
        Decoder(source.as_message(), 1.0, board)
    assert caught.value.code == "not_found"


def test_a_camera_of_this_machine_that_is_not_there(board):
    found = failure(board, "/dev/video987", schemes=["v4l2"])
    assert found.code == "not_found"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FileNotFoundError, "not_found", "is the camera connected?"),
        (PermissionError, "forbidden", "in the group video"),
        (OSError, "connection_failed", "another program may be using it"),
    ],
)
def test_a_camera_of_this_machine_says_what_to_do(board, monkeypatch, error, code, said):
    """The kinds are a device that is not there, is not the service's to open, and is in use."""

    def refuse(*_: object, **__: object) -> None:
        raise error(16, "Device or resource busy", "/dev/video987")

    monkeypatch.setattr(av, "open", refuse)
    found = failure(board, "/dev/video987", schemes=["v4l2"])
    assert found.code == code
    assert said in str(found)


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("a.m3u8", playlist("#EXTINF:1,", "a.ts").partition(b"\r\n\r\n")[2], "unsupported", "none of mov, "),
        ("a.mp4", b"no video " * 500, "invalid_data", "it is no video, or a part of it is missing"),
    ],
    ids=["playlist", "text"],
)  # fmt: skip
def test_a_file_says_why_it_is_not_read(board, tmp_path, name, content, code, said):
    """The kind is FFmpeg's own text, which says nothing: invalid argument, invalid data."""
    path = tmp_path / name
    path.write_bytes(content)
    found = failure(board, str(path), directories=[tmp_path])
    assert found.code == code
    assert said in str(found)


def test_a_playlist_without_its_ending_is_told(server, board):
    server.documents["live"] = playlist("#EXTINF:1,", "segment.ts")
    found = failure(board, server.url("live"))
    assert found.code == "unsupported"
    assert "for HLS, the path ends in .m3u8" in str(found)


def test_a_source_without_video_is_not_left_open(board, tmp_path, no_collection):
    """A camera may serve one at a time."""
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    source = {"kind": "file", "url": str(path), "format": None, "options": {}, "live": False}
    with pytest.raises(ConnectionLostError, match="no video"):
        Decoder(source, 1.0, board)
    assert str(path) not in [os.path.realpath(it) for it in Path("/proc/self/fd").iterdir()]
