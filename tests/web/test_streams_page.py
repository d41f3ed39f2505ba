"""The console's page of streams in a real browser: what somebody sees who leaves it open on a wall."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support import ServiceProcess
from tests.web.chromium import Watched, chromium, until, violations, watched_page

pytestmark = [pytest.mark.process, pytest.mark.slow("starts a browser, and real workers")]

HOSTILE = "<img src=x onerror=alert(1)>"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 720}
PATH = "/console/streams"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("page"), ["streams", "motion"]) as process:
        yield process.wait_until_ready()
        assert process.stop() == 0


@pytest.fixture(scope="module")
def shared(service: ServiceProcess) -> Iterator[Watched]:
    with chromium() as browser, watched_page(browser, service.url) as watched:
        yield watched


@pytest.fixture
def page(shared: Watched, service: ServiceProcess) -> Iterator[Page]:
    """The page, where streams `door` (in progress) and `yard` (unreachable) are, but at first."""
    shared.page.goto("/docs")
    shared.page.set_viewport_size(DESK)
    shared.begin(service.url)
    yield shared.page
    shared.check()


def add(service: ServiceProcess, name: str, source: str, **more: Any) -> str:
    body = {"name": name, "source": source, **more}
    stream_id: str = service.request("POST", "/streams", json=body).json()["stream_id"]
    return stream_id


@pytest.fixture(scope="module")
def door(service: ServiceProcess) -> str:
    roi = {"x": 100, "y": 50, "width": 400, "height": 250}
    regions = [
        {"name": "left", "shape": {"x": 0, "y": 0, "width": 50, "height": 100, "mode": "percent"}},
        {"name": "right", "shape": {"points": [[320, 0], [640, 0], [640, 360]]}},
    ]
    motion = {"name": "motion", "parameters": {"regions": regions}}
    return add(service, "door", "test:?rate=10", analytics=[motion], roi=roi)


@pytest.fixture(scope="module")
def yard(service: ServiceProcess) -> str:
    return add(service, f"yard {HOSTILE}", "rtsp://admin:hidden@127.0.0.1:9/1")


def tile(page: Page, name: str) -> Any:
    return page.locator(".tile").filter(has=page.get_by_role("link", name=name))


def painted(page: Page, selector: str) -> None:
    """Wait until a picture is there, in which there is something."""
    drawn = "(canvas) => canvas.toDataURL().length > 3000"
    until(page, f"[...document.querySelectorAll({selector!r})].some({drawn})")


def test_without_streams_it_says_how_to_add_one(
    page: Page, shared: Watched, service: ServiceProcess
) -> None:
    page.goto("/")
    page.get_by_role("link", name="Streams", exact=True).click()
    expect(page).to_have_url(re.compile(PATH))
    expect(page.get_by_role("heading", level=1)).to_have_text("No streams yet")
    expect(page.get_by_role("region", name="How to add a stream")).to_contain_text(
        f"curl {service.url}/streams -d"
    )
    expect(page.get_by_role("link", name="Streams", exact=True)).to_have_attribute(
        "aria-current", "page"
    )
    assert violations(page) == []
    add(service, "first", "test:black?rate=2")
    expect(tile(page, "first")).to_contain_text("in progress")  # as soon as it is there
    shared.expected = ["404|503"]  # its picture may be on the way just then
    service.request("DELETE", "/streams/first")
    expect(page.get_by_role("heading", level=1)).to_have_text("No streams yet")


def test_the_grid_tells_how_each_stream_is(
    page: Page, service: ServiceProcess, door: str, yard: str
) -> None:
    page.goto(PATH)
    painted(page, ".tile canvas")
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "1 of 2 streams in progress, 1 needs attention"
    )
    expect(page).to_have_title("LVA: streams (1 with problems)")
    expect(tile(page, "door")).to_contain_text(re.compile(r"in progress.*\d fps"))
    expect(tile(page, "door")).to_contain_text(re.compile(r"\d+ of \d+ frames analysed"))
    seen = tile(page, "door").get_by_role("list", name="Seen lately")
    expect(seen.get_by_role("listitem")).to_have_text(re.compile(r"^motion (now|\d+ s ago)$"))
    broken = tile(page, "yard")
    expect(broken.get_by_role("list", name="Seen lately")).to_be_hidden()
    expect(broken).to_contain_text(re.compile("reconnecting|connecting"))
    expect(broken).to_contain_text("No picture yet")
    expect(broken).to_contain_text(re.compile(r"\d+ reconnect"))
    expect(page.locator(".why")).to_contain_text(re.compile("reconnecting.*Connection refused"))
    expect(broken).to_contain_text(HOSTILE)  # as text
    assert page.locator("img").count() == 0
    assert "hidden@" not in page.content()
    expect(page.locator(".lane .span").first).to_be_attached()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of the two
        assert violations(page) == []
    page.set_viewport_size(PHONE)  # type: ignore[arg-type] # it has the two
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert violations(page) == []


def test_the_grid_tells_what_is_wrong_although_frames_come(
    page: Page, service: ServiceProcess, door: str, yard: str
) -> None:
    """The kind is a stream in progress with a code: a picture that stays the same, analytics set aside."""
    stream_id = add(service, "still", "test:black?rate=5", same_picture_limit=1)
    try:
        page.goto(PATH)
        expect(tile(page, "still")).to_contain_text("the picture has not changed for 1 s")
        expect(page.get_by_role("heading", level=1)).to_have_text(
            "1 of 3 streams in progress, 2 need attention"
        )
        named = page.get_by_role("listitem").filter(has_not=page.locator("canvas"))
        expect(named.filter(has_text="still")).to_contain_text("the picture has not changed")
    finally:
        page.goto("/")  # where its picture is not asked for any more
        service.request("DELETE", f"/streams/{stream_id}")


def test_a_search_follows_the_states_and_keeps_the_focus(
    page: Page, service: ServiceProcess, door: str, yard: str
) -> None:
    """The kind is a stream whose state becomes what was searched for, or ceases to be."""
    others = [add(service, name, "test:black?rate=2") for name in ("one", "two")]
    try:
        page.goto(PATH)
        expect(page.locator(".tile")).to_have_count(4)
        page.get_by_role("searchbox").press_sequentially("stop")
        expect(page.locator(".tile")).to_have_count(0)
        service.request("PATCH", f"/streams/{others[1]}", json={"action": "stop"})
        expect(page.locator(".tile")).to_have_count(1)
        page.get_by_role("searchbox").press("Tab")
        expect(page.get_by_role("link", name="two")).to_be_focused()
        service.request("PATCH", f"/streams/{others[0]}", json={"action": "stop"})
        expect(page.locator(".tile")).to_have_count(2)
        expect(page.get_by_role("link", name="two")).to_be_focused()
        service.request("PATCH", f"/streams/{others[0]}", json={"action": "resume"})
        expect(page.locator(".tile")).to_have_count(1)
    finally:
        page.goto("/")  # where their pictures are not asked for any more
        for other in others:
            service.request("DELETE", f"/streams/{other}")


def test_the_grid_is_used_from_the_keyboard(page: Page, door: str, yard: str) -> None:
    page.goto(PATH)
    expect(page.locator(".tile")).to_have_count(2)
    page.get_by_role("searchbox").press_sequentially("doo")
    expect(page.locator(".tile")).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("searchbox").press("Tab")
    expect(page.get_by_role("link", name="door")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("door")
    expect(page.locator("main")).to_be_focused()


def test_pictures_are_asked_for_only_in_view_one_at_a_time_and_a_silent_one_stops_no_other(
    page: Page, service: ServiceProcess, door: str, yard: str
) -> None:
    """The kind: what one camera's picture costs the others."""
    others = [add(service, f"cam {n}", "test:?rate=5&size=320x180") for n in range(3)]
    asked: dict[str, int] = {}
    open_now: dict[str, int] = {}
    silent = others[0]

    def route(route: Route) -> None:
        stream = route.request.url.split("/")[-2]
        asked[stream] = asked.get(stream, 0) + 1
        open_now[stream] = open_now.get(stream, 0) + 1
        assert open_now[stream] == 1
        if stream != silent:  # which gets no response, as behind a dead network
            route.continue_()

    def ended(request: Any) -> None:
        open_now[request.url.split("/")[-2]] = 0

    page.route("**/preview.jpg?*", route)
    for event in ("requestfinished", "requestfailed"):
        page.on(event, lambda request: "preview" in request.url and ended(request))  # type: ignore[call-overload]
    try:
        page.set_viewport_size({"width": 900, "height": 700})
        page.goto(PATH)
        expect(page.locator(".tile")).to_have_count(5)
        until(page, "document.querySelectorAll('.tile canvas').length === 5")
        for _ in range(200):
            if asked.get(door, 0) >= 2 and silent in asked:
                break  # the others go on
            page.wait_for_timeout(50)
        assert asked[door] >= 2
        assert asked[silent] == 1
        assert others[2] not in asked  # below the fold
        assert yard not in asked  # there is no picture of it
        page.locator(".tile").nth(4).scroll_into_view_if_needed()
        for _ in range(200):
            if others[2] in asked:
                break
            page.wait_for_timeout(50)
        assert others[2] in asked
    finally:
        page.unroute_all(behavior="ignoreErrors")
        page.goto("/")  # where their pictures are not asked for any more
        for other in others:
            service.request("DELETE", f"/streams/{other}")


def test_a_streams_page_shows_what_is_seen_and_steers_it(
    page: Page, service: ServiceProcess, door: str
) -> None:
    page.goto(f"{PATH}#/{door}")
    expect(page.get_by_role("heading", level=1)).to_have_text("door")
    painted(page, ".seeing canvas")
    expect(page.get_by_role("group", name="Newest events")).to_contain_text("motion_start")
    thumbnail = page.get_by_role("link", name=re.compile("^Picture of motion_start at [0-9:]{8}$"))
    until(
        page,
        "[...document.querySelectorAll('.events img')].some((img) => img.naturalWidth === 640)",
    )
    with page.context.expect_page() as opened:
        thumbnail.first.press("Enter")
    expect(opened.value).to_have_url(re.compile(rf"/streams/{door}/events/\d+\.jpg$"))
    opened.value.close()
    page.evaluate("document.querySelector('.events img').marked = true")
    expect(page.locator(".overlay .roi text")).to_have_text(["region of interest", "left", "right"])
    expect(page.locator(".overlay polygon.line")).to_have_attribute("points", "320,0 640,0 640,360")
    expect(page.locator(".overlay .roi rect.line").nth(1)).to_have_attribute("width", "320")
    expect(page.locator(".overlay .seen text").first).to_have_text(
        re.compile("motion: (left|right)")
    )
    expect(page.get_by_role("list", name="Seen now")).to_contain_text("motion: left")
    expect(page.get_by_role("region", name="Frames")).to_contain_text(
        re.compile(r"\d frames decoded: [\d,]+ analysed")
    )
    expect(page.get_by_role("region", name="Source")).to_contain_text("640×360")
    expect(page.get_by_role("group", name="Changes of state")).to_contain_text("created")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of the two
        assert violations(page) == []
    page.get_by_role("button", name="Stop", exact=True).press("Enter")
    page.get_by_role("button", name="Stop door").press("Enter")
    expect(page.locator("p.outcome")).to_have_text("door is stopped.")
    expect(page.locator(".title .state")).to_contain_text("stopped")
    expect(page.locator(".picture .age")).to_contain_text(re.compile(r"^(live|\d+ s ago)$"))
    expect(page.get_by_role("group", name="Changes of state")).to_contain_text("stopped by a user")
    expect(page.get_by_role("list", name="Seen now").get_by_role("listitem")).to_have_count(0)
    number = service.get(f"/streams/{door}").json()["events"]
    page.get_by_role("button", name="Resume").press("Enter")
    expect(page.locator(".title .state")).to_contain_text("in progress")
    service.wait_until(lambda: service.get(f"/streams/{door}").json()["events"] > number)
    until(page, f"document.querySelectorAll('.events li').length > {number}")  # without a reload
    # What was shown already stays: its picture is not loaded again.
    assert page.evaluate("[...document.querySelectorAll('.events img')].some((img) => img.marked)")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type] # it has the two
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_a_stream_that_is_none_is_said_to_be_none(page: Page, shared: Watched) -> None:
    shared.expected = ["404", "EventSource"]
    page.goto(f"{PATH}#/nobody")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such stream")


@pytest.mark.soak
def test_an_old_picture_says_so_and_looks_so(
    page: Page, shared: Watched, service: ServiceProcess
) -> None:
    """The kind: a picture of some hours ago that is taken for a live one."""
    ends = add(service, "ends", "test:?rate=10&seconds=3", eof_retry={"delay": 600})
    page.goto(PATH)
    old = tile(page, "ends")
    expect(old.locator(".picture.old .age")).to_have_text(
        re.compile(r"^Picture is 1\d s old, of [\d:]{8}$"), timeout=30_000
    )
    expect(page.locator(".why")).to_contain_text("ends")
    assert violations(page) == []
    kept = service.get("/streams/ends/preview.jpg", timeout=2.5)  # no frame is waited for
    assert kept.status_code == 200
    service.request("DELETE", f"/streams/{ends}")


def test_when_the_plugin_is_stopped_the_page_says_that_it_is_old(
    page: Page, shared: Watched, service: ServiceProcess, door: str
) -> None:
    shared.expected = ["503", "EventSource", "ERR_INCOMPLETE_CHUNKED"]
    page.goto(PATH)
    expect(tile(page, "door")).to_be_visible()
    service.request("POST", "/plugins/streams/stop")
    expect(
        page.get_by_text("The plugin streams is stopped: no stream is worked on")
    ).to_be_visible()
    service.request("POST", "/plugins/streams/start")
    expect(tile(page, "door")).to_contain_text("in progress")
    expect(page.get_by_text("no stream is worked on")).to_be_hidden()
