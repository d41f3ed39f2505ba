"""The console's files: whole, small, cached for good, and from nowhere else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lva import ConsolePage
from lva.web.resources import bundle
from lva.web.resources.assets import PAGE, ROOT, assets, build
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


PAGED = """
    from pathlib import Path
    from lva import ConsolePage

    class Paged(BaseBackgroundPlugin):
        consolePage = ConsolePage("Cam<eras", Path(__file__).with_name("{script}.js"))

        async def start(self):
            if self.config.get("wait"):
                raise RuntimeError("not now")
"""
SCRIPT = """import { h } from "./dom.js";
import { text } from "./words.js";
export function view(model, plugin) {
  return { element: h("h1", {}, text, plugin), name: "Cameras" };
}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    tmp_path = tmp_path_factory.mktemp("assets")
    names = {
        "cams": "cams",
        "gone": "nothing",
        "clash": "table",
        "broken": "broken",
        "later": "cams",
    }
    for name, script in names.items():
        write_plugin(tmp_path / "plugins", name, PAGED.format(script=script))
    for script in ("cams", "table"):
        (tmp_path / "plugins" / f"{script}.js").write_text(SCRIPT)
    (tmp_path / "plugins" / "words.js").write_text('export const text = "Hello";\n')
    (tmp_path / "plugins" / "broken.js").write_text("export default 1;\n")
    table = "[plugins.later]\nmax_restarts = 0\n[plugins.later.config]\nwait = 1\n"
    with ServiceProcess(tmp_path, [*names], table) as process:
        process.wait_until(lambda: process.plugin("later")["state"] == "failed")
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


def test_the_page_names_nothing_but_its_icon(service: ServiceProcess) -> None:
    """Anything more would cost a round trip before the first screen."""
    assert parts() == [f"/console/{build()}/icon.svg"]
    part = service.get(parts()[0])
    assert (part.status_code, part.headers["content-type"]) == (200, "image/svg+xml; charset=utf-8")


def test_each_module_and_style_sheet_stands_in_the_page_once() -> None:
    page = assets()[PAGE].content.decode()
    assert "{{" not in page
    for path in ROOT.rglob("*.*"):
        text = path.read_text()
        if path.suffix == ".css":
            assert page.count(text) == 1
        elif path.suffix == ".js":
            own = max(re.split("^(?:import .*|export )", text, flags=re.MULTILINE), key=len)
            assert page.count(own) == 1, path
    assert not re.search("^(import|export) ", page, re.MULTILINE)


def test_modules_become_functions_in_the_order_of_their_imports() -> None:
    files = {
        "a.js": 'import { two } from "./b.js";\nimport { one, f } from "./c.js";\nf(one, two);\n',
        "b.js": 'import { one } from "./c.js";\nexport const two = one + one;\n',
        "c.js": "export const one = 1;\nexport async function f() {}\nconst private = 0;\n",
    }
    script = bundle.modules("a.js", files.__getitem__)
    assert script.startswith('"use strict";')
    assert re.findall(r"const module_(\w+) =", script) == ["c", "b", "a"]
    assert "return { one, f };" in script
    assert "const { one, f } = module_c;" in script


@pytest.mark.parametrize(
    "line",
    [
        'import * as b from "./b.js";',
        'import { one as two } from "./b.js";',
        'import { one } from "elsewhere";',
        "export default 1;",
        "export { one };",
        "export let one = 1;",
    ],
)
def test_what_the_bundle_does_not_provide_for_is_refused(line: str) -> None:
    files = {"a.js": f"{line}\n", "b.js": "export const one = 1;\n"}
    with pytest.raises(ValueError, match=r"a\.js has .* not provided for"):
        bundle.modules("a.js", files.__getitem__)


@pytest.mark.parametrize("text", ['"</script>"', "<!-- -->", "</STYLE >"])
def test_what_would_end_its_element_is_refused(text: str) -> None:
    for kind in ("script", "style"):
        with pytest.raises(ValueError, match="which a page cannot hold"):
            bundle.page(f"{{{{{kind} file}}}}", lambda _: text, "0")


def test_the_page_is_small_and_compressed(service: ServiceProcess) -> None:
    plain = packed = 0
    for path in ("/", *parts()):
        with service.stream(path, headers=BROWSER) as answer:
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


def test_of_the_page_just_what_is_in_it_may_run(service: ServiceProcess) -> None:
    """Not even a script of this service's own: plugins answer under the same origin."""
    page = service.get("/", headers=BROWSER)
    for answer in (page, service.get(parts()[0])):
        headers = answer.headers
        policy = dict(
            rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["img-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        for tag in ("script", "style"):
            inside = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
            assert policy[f"{tag}-src"].split() == ([named(text) for text in inside] or ["'none'"])
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert re.findall(r"<script[^>]*>", page.text) == ["<script>"] * 3
    body = re.sub(r"<(script|style)>.*?</\1>", "", page.text, flags=re.DOTALL)
    assert not re.search(r" (style|on\w+)=", body)


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({}, True),
        ({"Host": "localhost:5240"}, True),
        ({"Host": "[::1]:5240"}, True),
        ({"Host": "agent.test"}, False),
        ({"Host": "192.0.2.7:5240"}, False),
        ({"Host": "agent.test", "X-Forwarded-Proto": "http"}, False),
        ({"Host": "agent.test", "X-Forwarded-Proto": "https"}, True),
    ],
)
def test_the_page_is_kept_from_its_opener_where_browsers_heed_that(
    service: ServiceProcess, headers: dict[str, str], sent: bool
) -> None:
    answer = service.get("/", headers={**BROWSER, **headers})
    assert answer.headers.get("Cross-Origin-Opener-Policy") == ("same-origin" if sent else None)


def named(text: str) -> str:
    """Return how a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_no_file_names_another_host() -> None:
    """Names of XML dialects and the library's own home apart, which nobody asks for anything."""
    for name, asset in assets().items():
        text = re.sub(r"http://www\.w3\.org/\S+", "", asset.content.decode())
        text = text.replace("https://github.com/leeoniya/uPlot", "")
        if not name.endswith("LICENSE"):
            assert not re.search(r"https?://|\bsrc=\"//", text), name


def test_the_vendored_library_has_its_licence_and_version() -> None:
    assert "MIT License" in assets()["vendor/uplot/LICENSE"].content.decode()
    script = (ROOT / "vendor/uplot/uPlot.iife.min.js").read_text()
    assert re.search(r"\(v(\d+\.\d+\.\d+)\)", script[:100])


def test_a_plugins_page_is_the_consoles_frame_with_its_script(service: ServiceProcess) -> None:
    """The kind: just what stands in a page may run there, whoever has written it."""
    answer = service.get("/console/cams", headers=BROWSER)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert 'data-plugin="cams"' in answer.text
    assert 'const text = "Hello";' in answer.text
    policy = answer.headers["content-security-policy"]
    for tag in ("script", "style"):
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL):
            assert named(text) in policy
    again = service.get("/console/cams", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    plugins = hello(service)["plugins"]
    assert {plugin["name"]: plugin["page"] for plugin in plugins}["cams"] == "Cam<eras"


@pytest.mark.parametrize(
    ("plugin", "status", "said"),
    [
        ("gone", 500, "nothing.js"),
        ("clash", 500, "the console has a module of that name"),
        ("broken", 500, "broken.js has 'export default 1;', which is not provided for"),
        ("later", 404, "has no part 'later'"),
        ("nobody", 404, "has no part 'nobody'"),
    ],
)
def test_a_page_that_cannot_be_made_says_why_and_one_without_its_plugin_is_none(
    service: ServiceProcess, plugin: str, status: int, said: str
) -> None:
    answer = service.get(f"/console/{plugin}")
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", Path("a.js")), ValueError),
        (("A", Path("a.py")), ValueError),
        (("A", Path("a-b.js")), ValueError),
        (("A", "a.js"), TypeError),
        ((1, Path("a.js")), TypeError),
    ],
)
def test_a_page_is_checked_where_it_is_made(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="page"):
        ConsolePage(*arguments)


def hello(service: ServiceProcess) -> dict[str, Any]:
    """Return the first event that consoles get."""
    with service.stream("/events") as answer:
        data = next(line for line in answer.iter_lines() if line.startswith("data: "))
    found: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return found
