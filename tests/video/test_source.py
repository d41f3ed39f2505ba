from pathlib import Path

import pytest

from lva import RequestProblem
from lva.video.definition import parse_definition
from lva.video.registry.admission import Admission
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


@pytest.mark.parametrize("text", ["camera1", "video.mp4", "~/video.mp4", "0"])
def test_what_is_no_address_is_told_what_one_is(text):
    with pytest.raises(
        SourceError, match=r"it is no address; write rtsp://HOST/PATH, /PATH of a file"
    ):
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
        ("rtsp://a:12?hunter2@cam/1", "rtsp://***@cam/1"),
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


NEVER = {
    "rtsp://a b": "has a space in it",
    "rtsp://cam/a b": "has a space in it",
    "rtsp://cam/1 ": "has a space in it",
    " rtsp://cam/1": "begins with a space",
    "   ": "give an address such as",
    "rtsp://cam\u00a0x/": "has a space in it",
    "rtsp://cam/1\nx": "control character",
    "rtsp://cam/\x7f": "control character",
    "/videos/a\x85.mp4": "control character",
    "rtsp:///1": "has no host; write SCHEME://HOST/PATH",
    "rtsp:cam/1": "has no host",
    "rtsp://user:hunter2@/1": "has no host",
    "rtsp://cam:0/1": "port is not a number from 1 to 65535",
    "rtsp://cam:65536/1": "port is not a number from 1 to 65535",
    "rtsp://cam:554x/1": "port is not a number from 1 to 65535",
    "rtsp://cam:\u0663/1": "port is not a number from 1 to 65535",
    f"rtsp://cam:{'9' * 4000}/1": "port is not a number from 1 to 65535",
    "http://[::1]:0/1": "port is not a number from 1 to 65535",
    "http://[::1/1": "an IPv6 address is written as",
    "http://::1]/1": "an IPv6 address is written as",
    "http://[cam]/1": "an IPv6 address is written as",
    "http://u:p[x@cam/1": "write special characters of a password as %XX",
    "http://a:hunter2\u2100@cam/1": "write special characters of a password as %XX",
    "rtsp://256.1.1.1/1": "neither a name nor an IPv4 address",
    "rtsp://a..b/1": "neither a name nor an IPv4 address",
    "rtsp://cam!/1": "neither a name nor an IPv4 address",
    "http://cam\\x/1": "neither a name nor an IPv4 address",
    f"rtsp://{'a' * 64}/1": "neither a name nor an IPv4 address",
    "file:videos/a.mp4": "a file is /PATH",
    "file://host/a.mp4": "a file is /PATH",
}


@pytest.mark.parametrize("text", NEVER)
def test_an_address_that_can_never_work_is_refused_with_the_reason(text):
    """Kind: a stream that is accepted, and connects for ever to what is no address."""
    with pytest.raises(SourceError) as refused:
        parse_source(text, directories=[Path("/")])
    assert NEVER[text] in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://cam:/1", "rtsp://[::1]:554/1", "rtsp://[fe80::1%eth0]/1", "rtsp://10.1/1", "rtsp://my_cam.lan./1",
        "rtsp://kamera-s\u00fcd/1", "rtsp://u:p@ss@[::1]/1", "http://cam/?a=[b]", "rtsp://u:%5B@cam/a%20b",
    ],
)  # fmt: skip
def test_an_address_that_may_work_is_taken_as_it_is(text):
    assert parse_source(text).url == text


def test_schemes_are_given_to_ffmpeg_in_small_letters():
    """The kind is what we take for known, and FFmpeg does not."""
    assert parse_source("RTSP://Cam/1").url == "rtsp://Cam/1"
    assert parse_source("FILE:///a.mp4", directories=[Path("/")]).url == "/a.mp4"


async def test_a_file_of_a_directory_that_is_not_there_is_refused_and_one_that_may_come_is_not(
    tmp_path,
):
    """Kind: a mistyped path. Where a stream is kept, its disk may come later."""
    admission = Admission(["file"], [tmp_path], lambda _: [])
    missing = parse_definition({"name": "door", "source": f"{tmp_path}/vidoes/a.mp4"})
    with pytest.raises(RequestProblem, match=f"source: there is no directory {tmp_path}/vidoes"):
        await admission.admit(missing)
    assert (await admission.source(missing)).url == f"{tmp_path}/vidoes/a.mp4"
    await admission.admit({"name": "door", "source": f"file://{tmp_path}/later.mp4"})
