"""The console's files: whole, small, cached for good, and from nowhere else."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator

import httpx
import pytest

from lva.web.assets import PAGE, assets, build
from tests.support import ServiceProcess

pytestmark = pytest.mark.process
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("assets")) as process:
        process.wait_until_ready()
        yield process
        assert process.stop() == 0


def parts() -> list[str]:
    """Return the paths that the page names."""
    return re.findall(r'(?:src|href)="(/console/[^"]+)"', assets()[PAGE].content.decode())


def test_browsers_get_the_console_and_everybody_else_the_index(service: ServiceProcess) -> None:
    page = service.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Accept" in page.headers["vary"]
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
        index = service.get("/", headers={"Accept": accept})
        assert index.headers["content-type"] == "application/json"
        assert index.json()["resources"]["/events"]
        assert "Accept" in index.headers["vary"]


def test_everything_that_the_page_names_is_there(service: ServiceProcess) -> None:
    assert len(parts()) > 10
    for path in parts():
        part = service.get(path)
        assert part.status_code == 200
        assert part.content
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert part.headers["content-type"].startswith(kind[path.rpartition(".")[2]])


def test_every_module_is_loaded_ahead_and_imports_what_there_is() -> None:
    """A module that the page does not name would cost a round trip more."""
    named = {path.rpartition("/")[2] for path in parts()}
    for name, asset in assets().items():
        if name.endswith(".js"):
            assert name.rpartition("/")[2] in named
            for imported in re.findall(r'from "\./([^"]+)"', asset.content.decode()):
                assert imported in assets()


def test_the_page_is_small_and_compressed(service: ServiceProcess) -> None:
    plain = packed = 0
    with httpx.Client(trust_env=False, base_url=service.url) as client:
        for path in ("/", *parts()):
            with client.stream("GET", path, headers=BROWSER) as answer:
                raw = b"".join(answer.iter_raw())
            packed += len(raw)
            zipped = answer.headers.get("content-encoding") == "gzip"
            plain += len(gzip.decompress(raw) if zipped else raw)
            assert zipped or len(raw) < 600, path
    print(f"the page weighs {plain / 1000:.0f} kB, {packed / 1000:.0f} kB on the wire")
    assert plain < 300_000
    assert packed < 100_000


def test_who_cannot_unpack_gets_the_same_unpacked(service: ServiceProcess) -> None:
    for path in parts():
        answer = service.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in answer.headers
        assert answer.content == service.get(path).content
        assert "Accept-Encoding" in answer.headers["vary"]


def test_parts_are_kept_for_good_and_the_page_is_asked_for_again(service: ServiceProcess) -> None:
    for path, caching in (("/", "no-cache"), (parts()[0], "public, max-age=31536000, immutable")):
        answer = service.get(path, headers=BROWSER)
        assert answer.headers["cache-control"] == caching
        again = service.get(path, headers={**BROWSER, "If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]


def test_parts_of_another_version_are_not_mixed_in(service: ServiceProcess) -> None:
    for path in (
        "/console/0123456789ab/main.js",
        f"/console/{build()}/nothing.js",
        f"/console/{build()}/{PAGE}",
        f"/console/{build()}/../assets.py",
        "/console/main.js",
    ):
        assert service.get(path).status_code == 404, path


def test_nothing_of_others_and_nothing_inline_may_run(service: ServiceProcess) -> None:
    for path in ("/", parts()[0]):
        headers = service.get(path, headers=BROWSER).headers
        policy = dict(
            rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    text = assets()[PAGE].content.decode()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)| on\w+=", text)


def test_no_file_names_another_host() -> None:
    """Names of XML dialects and the library's own home apart, which nobody asks for anything."""
    for name, asset in assets().items():
        text = re.sub(r"http://www\.w3\.org/\S+", "", asset.content.decode())
        text = text.replace("https://github.com/leeoniya/uPlot", "")
        if not name.endswith("LICENSE"):
            assert not re.search(r"https?://|\bsrc=\"//", text), name


def test_the_vendored_library_has_its_licence_and_version() -> None:
    assert "MIT License" in assets()["vendor/uplot/LICENSE"].content.decode()
    script = assets()["vendor/uplot/uPlot.iife.min.js"].content.decode()
    assert re.search(r"\(v(\d+\.\d+\.\d+)\)", script[:100])
