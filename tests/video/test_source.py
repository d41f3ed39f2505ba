from pathlib import Path

import pytest

from lva.video.source import SourceError, parse_source


@pytest.mark.parametrize(
    ("text", "whitelist"),
    [
        ("rtsp://cam/1", "rtsp,tcp"),
        ("rtsps://cam/1", "rtsp,srtp,tcp,tls"),
        ("http://cam/live.m3u8", "http,tcp"),
        ("https://cam/live.m3u8", "https,tls,tcp"),
    ],
)
def test_network_sources_open_their_own_protocols_only(text, whitelist):
    source = parse_source(text)
    assert source.live
    assert source.options["protocol_whitelist"] == whitelist
    assert "file" not in whitelist.split(",")


def test_a_camera_is_asked_for_video_over_tcp():
    options = parse_source("rtsp://cam/1").options
    assert options["rtsp_transport"] == "tcp"
    assert options["allowed_media_types"] == "video"


def test_files_are_below_their_directories_only(tmp_path: Path):
    inside = tmp_path / "videos" / "a.mp4"
    inside.parent.mkdir()
    inside.touch()
    (inside.parent / "out").symlink_to("/etc/passwd")
    allowed = [inside.parent]
    source = parse_source(str(inside), directories=allowed)
    assert (source.live, source.url) == (False, str(inside))
    assert source.options["protocol_whitelist"] == "file"
    assert parse_source(f"file://{inside}", directories=allowed).url == str(inside)
    assert parse_source(str(inside.parent), directories=allowed).kind == "pictures"
    for outside in (
        "/etc/passwd",
        "file:///etc/passwd",
        f"{inside.parent}/../../etc/passwd",
        f"{inside.parent}/out",
        f"{tmp_path}/videos2/a.mp4",
    ):
        with pytest.raises(SourceError, match="below these directories only"):
            parse_source(outside, directories=allowed)
    with pytest.raises(SourceError, match="set directories"):
        parse_source(str(inside))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "door",
        "concat:/etc/passwd|/etc/hosts",
        "lavfi:movie=/etc/passwd",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "data:text/plain,x",
        "pipe:0",
        "gopher://x/1",
        "rtsp://",
        "http://[::1",
        "rtsp://cam/1\nx",
        "/dev/video",
        "/dev/video0/../mem",
    ],
)
def test_what_is_not_known_is_refused(text):
    with pytest.raises(SourceError, match="source:"):
        parse_source(text)


def test_a_scheme_has_to_be_allowed():
    with pytest.raises(SourceError, match="'rtsp' is not allowed here; allowed: test"):
        parse_source("rtsp://cam/1", schemes=["test"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@cam/1", "rtsp://***@cam/1"),
        ("http://cam/x?user=a&password=hunter2&size=2", "http://cam/x?user=a&password=***&size=2"),
        ("https://cam/x?access_token=hunter2", "https://cam/x?access_token=***"),
        ("rtsp://cam/1", "rtsp://cam/1"),
        ("rtsp://a:12/hunter2@cam/1", "rtsp://***@cam/1"),
        ("http://hunter2@cam/x", "http://***@cam/x"),
        ("rtsp://cam/user=a_password=hunter2_channel=1/2", "rtsp://cam/user=***/2"),
        ("http://cam/x?user=a;pwd=hunter2#key=hunter2", "http://cam/x?user=a;pwd=***#key=***"),
        ("http://cam/x?loginp%61s=hunter2&a=%0A", "http://cam/x?loginp%61s=***&a=%0A"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    source = parse_source(text)
    assert (source.shown, source.url) == (shown, text)


def test_test_pictures_take_nothing_but_what_was_checked():
    source = parse_source("test:smptebars?size=320x240&rate=5&seconds=2")
    assert source.url == "smptebars=size=320x240:rate=5:duration=2,realtime"
    assert source.live
    assert parse_source("test:").url == "testsrc2=size=640x360:rate=10,realtime"
    assert parse_source("test:black?live=0").url == "color=black:size=640x360:rate=10"
    for wrong in (
        "test:movie=/etc/passwd",
        "test:testsrc2,movie=/etc/passwd",
        "test:?size=640x360,movie=x",
        "test:?size=9x9",
        "test:?rate=0",
        "test:?rate=10:x=1",
        "test:?seconds=-1",
        "test:?live=2",
        "test:?filename=/etc/passwd",
        "test:?size=99999999999999999999x20",
    ):
        with pytest.raises(SourceError):
            parse_source(wrong)


@pytest.mark.parametrize("text", ["rtsp://a:hunter2?@cam/1", "rtsp://a:hunter2#@cam/1"])
def test_what_is_refused_is_not_repeated(text):
    with pytest.raises(SourceError, match="not understood") as refused:
        parse_source(text)
    assert "hunter2" not in str(refused.value)


def test_a_path_that_cannot_be_followed_is_refused(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop" / "x", tmp_path / ("a" * 3000)):
        with pytest.raises(SourceError, match="source:"):
            parse_source(str(path), directories=[tmp_path])
