"""The API document and its page: whole, true, and found to be so by a program that tries to break it."""

from __future__ import annotations

import copy
import gc
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trio
from playwright.sync_api import expect
from schemathesis.specs.openapi.definitions import OPENAPI_31

from lva.app import Service, create_app
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.host.routing import Gate, Owner, RouteTable
from lva.settings import ENV_PREFIX
from lva.web.problems import NotReady
from lva.web.resources.docs import docs_page
from lva.web.resources.openapi import SERVICE_TAG, document, path_of
from lva.web.resources.schemas import schemas_of
from lva.web.resources.table import RESOURCES
from tests.support import ServiceProcess, host_settings, running_host, write_plugin
from tests.web.chromium import chromium, violations, watched_page

#: Endless answers.
STREAMS = ("/tap", "/events")
#: A route of each kind.
ROUTES = '''
class Lamp(BaseBackgroundHandler):
    """What the class says of itself."""

    async def get(self, request, lamp):
        """Tell whether a lamp is lit.

        Lamps are counted from the door.
        """
        return self.response(body={"lamp": lamp})

    async def put(self, request, lamp):
        return self.response(statusCode=204)

def plain(request, **variables):
    return pluginHTTPResponse(body="fine")

class P(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/lamps/<int(min=1, max=9):lamp>", Lamp)
        self.addRoute("/lamps/<name>", plain)
        self.addRoute("/kinds/<any(red, green):colour>/<uuid:key>/<path:rest>", plain)
        self.addRoute("/numbers/<float(signed=True):number>/<int(fixed_digits=3):digits>/", plain, {"post"})
        self.addRoute("/word/<string(length=2):word>", plain, {"patch"})
'''


def operations(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the operations of a document by route and verb, as in the route table."""
    return {
        (route, verb.upper()): operation
        for item in found["paths"].values()
        for verb, operation in item.items()
        for route in operation["x-lva-routes"]
    }


def strict(schema: Any) -> Any:
    """Return a schema that allows no member which it does not describe."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and isinstance(made.get("type"), str):
        made.setdefault("additionalProperties", False)
    return made


def check(found: dict[str, Any], name: str, value: Any) -> None:
    """Hold a value against a schema of the document, with no member left undescribed."""
    schemas = strict(copy.deepcopy(found["components"]["schemas"]))
    root = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    validator = jsonschema_rs.validator_for(root, validate_formats=True)
    assert [str(error) for error in validator.iter_errors(value)] == []


# The document is whole


@asynccontextmanager
async def running_service(
    tmp_path: Path, sources: Mapping[str, str | None]
) -> AsyncIterator[Service]:
    """Run the whole service but for the server; wait until its plugins run."""
    for name, source in sources.items():
        if source is not None:
            write_plugin(tmp_path / "plugins", name, source)
    settings = host_settings(tmp_path, sources)
    service = create_app(settings, load_plugins(settings))
    service.served = True
    orders, receive = trio.open_memory_channel[Any](1)
    send, news = trio.open_memory_channel[Any](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service, {"type": "lifespan"}, receive.receive, send.send)
        await orders.send({"type": "lifespan.startup"})
        assert (await news.receive())["type"] == "lifespan.startup.complete"
        assert service.host is not None
        for life in service.host.lives.values():
            await life.state.wait_value(State.RUNNING)
        yield service
        service.deadline = trio.current_time() + settings.shutdown_timeout
        await orders.send({"type": "lifespan.shutdown"})
        await news.receive()


def routes_of(service: Service) -> RouteTable:
    """Return the service's routes."""
    assert service.host is not None
    return service.host.routes


async def test_every_verb_of_every_route_is_in_the_document(tmp_path: Path) -> None:
    async with running_service(
        tmp_path, {"p": ROUTES, "background_plugin_example": None}
    ) as service:
        table = routes_of(service)
        found = operations(document(table, RESOURCES))
        expected = {(route.template, verb) for route in table for verb in route.verbs}
        assert len(expected) >= len(RESOURCES) + 8
        assert set(found) == expected
        for route in table:
            for verb in route.verbs:
                assert (route.owner.name or SERVICE_TAG) in found[route.template, verb]["tags"]


async def test_what_the_service_answers_itself_is_described_and_nothing_else(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path, {}) as service:
        table = routes_of(service)
        own = {(route.template, verb) for route in table for verb in route.verbs}
        found = document(table, RESOURCES)
    assert own == {(item.path, item.verb) for item in RESOURCES}
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(found)))
    assert named == set(found["components"]["schemas"])


def test_a_schema_describes_what_a_type_inherits() -> None:
    """pydantic itself reads the descriptions of a type's own members only."""
    members = schemas_of(NotReady)["NotReady"]["properties"]
    assert members["reasons"]["description"] == "By plugin, or under service."
    assert members["error_code"]["description"] == "Stable and short, for programs."


async def test_routes_come_and_go_with_their_plugin(tmp_path: Path) -> None:
    source = """
    class P(BaseBackgroundPlugin):
        async def initialize(self):
            self.addRoute("/here", lambda request: "here")
    """
    async with running_service(tmp_path, {"p": source}) as service:
        table = routes_of(service)
        assert "/here" in document(table)["paths"]
        assert "p" in {tag["name"] for tag in document(table)["tags"]}
        assert service.host is not None
        life = service.host.lives["p"]
        life.begin_stop(trio.current_time() + 10)
        await life.ended.wait()
        after = document(table)
        assert "/here" not in after["paths"]
        assert "p" not in {tag["name"] for tag in after["tags"]}
        assert "/livez" in after["paths"]


def test_an_owner_that_has_gone_has_no_routes_in_the_document() -> None:
    table = RouteTable()
    owner = Owner("p", Gate.WAITING)
    table.add(owner, "/here", lambda request: "here")
    assert "/here" in document(table)["paths"]
    owner.gate = Gate.GONE
    assert document(table)["paths"] == {}


@pytest.mark.parametrize(
    ("template", "path", "schema", "good", "bad"),
    [
        ("/<x>", "/{x}", {"type": "string", "pattern": "^[^/]{1,}$"}, "a b", "a/b"),
        ("/a/<int:x>/", "/a/{x}/", {"type": "integer", "minimum": 0}, 7, -1),
        (
            "/<int(signed=True, max=5):x>",
            "/{x}",
            {"type": "integer", "maximum": 5},
            -7,
            6,
        ),
        (
            "/<int(fixed_digits=3):x>",
            "/{x}",
            {
                "type": "string",
                "pattern": r"^\d+$",
                "minLength": 3,
                "maxLength": 3,
                "description": "A number",
            },
            "007",
            "07",
        ),
        (
            "/<float(min=1, max=2):x>",
            "/{x}",
            {"type": "string", "pattern": r"^\d+\.\d+$", "description": "A number from 1 to 2"},
            "1.5",
            "1",
        ),
        ("/<uuid:x>", "/{x}", {"type": "string", "format": "uuid"}, str(__import__("uuid").UUID(int=7)), "7"),
        ('/<any("b.r", a):x>.png', "/{x}.png", {"type": "string", "enum": ["a", "b.r"]}, "a", "c"),
        ("/f/<path:x>", "/f/{x}", {"type": "string", "pattern": "^[^/].*?$"}, "a/b", "/a"),
        ("/<string(maxlength=2):x>", "/{x}", {"type": "string", "pattern": "^[^/]{1,2}$"}, "ab", "abc"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("/") else "",
)  # fmt: skip
def test_a_path_allows_what_the_route_table_matches(
    template: str, path: str, schema: dict[str, Any], good: Any, bad: Any
) -> None:
    made, (parameter,) = path_of(template)
    assert made == path
    assert parameter == {"name": "x", "in": "path", "required": True, "schema": schema}
    table = RouteTable()
    table.add(Owner("p", Gate.OPEN), template, lambda request, x: "")
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    for value, expected in ((good, True), (bad, False)):
        assert validator.is_valid(value) is expected
        assert (table.match(path.replace("{x}", str(value))) is not None) is expected


def test_braces_in_a_path_are_no_variables() -> None:
    assert path_of("/a{b}/<c>")[0] == "/a%7Bb%7D/{c}"


def test_routes_that_differ_in_the_kind_of_a_variable_share_a_path() -> None:
    table = RouteTable()
    owner = Owner("p", Gate.OPEN)

    def by_number(request: Any, number: int) -> None:
        """By number."""

    def by_name(request: Any, name: str) -> None:
        """By name."""

    table.add(owner, "/lamps/<int:number>", by_number)
    table.add(owner, "/lamps/<name>", by_name, {"get", "put"})
    paths = document(table)["paths"]
    assert list(paths) == ["/lamps/{number}"]
    both, put = paths["/lamps/{number}"]["get"], paths["/lamps/{number}"]["put"]
    assert both["x-lva-routes"] == ["/lamps/<int:number>", "/lamps/<name>"]
    assert [item["type"] for item in both["parameters"][0]["schema"]["anyOf"]] == [
        "integer",
        "string",
    ]
    assert put["x-lva-routes"] == ["/lamps/<name>"]
    assert put["parameters"][0]["name"] == "number"


def test_docstrings_describe_a_plugins_routes() -> None:
    table = RouteTable()

    class Lamp:
        def __call__(self, request: Any) -> None:
            """Not looked at."""

    def get(request: Any) -> None:
        """Tell whether
        it is lit.

        At length.
        """

    owner = Owner("p", Gate.OPEN)
    table.add(owner, "/a", get)
    table.add(owner, "/b", lambda request: None)
    paths = document(table)["paths"]
    assert paths["/a"]["get"]["summary"] == "Tell whether it is lit"
    assert paths["/a"]["get"]["description"] == "At length."
    assert not {"summary", "description"} & set(paths["/b"]["get"])


async def test_a_handler_class_is_described_by_its_methods_or_by_itself(tmp_path: Path) -> None:
    async with running_host(tmp_path, {"p": ROUTES}) as host:
        item = document(host.host.routes)["paths"]["/lamps/{lamp}"]
    assert item["get"]["summary"] == "Tell whether a lamp is lit"
    assert item["get"]["description"] == "Lamps are counted from the door."
    assert item["put"]["summary"] == "What the class says of itself"


def test_operations_have_ids_of_their_own() -> None:
    table = RouteTable()
    owner = Owner("p", Gate.OPEN)
    for path in ("/a-b", "/a/b", "/a.b", "/a/b/2"):
        table.add(owner, path, lambda request: None)
    ids = [item["get"]["operationId"] for item in document(table)["paths"].values()]
    assert len(set(ids)) == 4
    assert ids[0] == "get_a_b"


# It is true


@contextmanager
def started(tmp_path: Path) -> Iterator[ServiceProcess]:
    """Run the service with routes of every kind."""
    write_plugin(tmp_path / "plugins", "p", ROUTES)
    crash = """
    class Crash(BaseEventPlugin):
        eventName = "monitoring_event"
        async def handleEvent(self, points, logger):
            raise OSError("not today")
    """
    write_plugin(tmp_path / "plugins", "crash", crash)
    names = ["p", "history", "crash", "background_plugin_example", "prometheus"]
    with ServiceProcess(tmp_path, names) as process:
        process.wait_until_ready()
        yield process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with routes of every kind."""
    with started(tmp_path_factory.mktemp("api")) as process:
        yield process


@pytest.mark.process
def test_the_document_is_one(service: ServiceProcess) -> None:
    answer = service.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    jsonschema_rs.validator_for(OPENAPI_31).validate(answer.json())


@pytest.mark.process
@pytest.mark.parametrize(
    ("path", "verb"),
    [(item.path, "GET") for item in RESOURCES if item.verb == "GET" and item.path not in STREAMS],
)
def test_an_answer_is_as_described(service: ServiceProcess, path: str, verb: str) -> None:
    found = service.get("/openapi.json").json()
    service.wait_until(lambda: service.plugin("crash")["last_error"])
    answer = service.request(verb, path.replace("<name>", "crash"))
    described = operations(found)[path, verb]["responses"][str(answer.status_code)]["content"]
    media_type = answer.headers["content-type"]
    assert media_type in described
    if media_type == "application/json":
        check(found, described[media_type]["schema"]["$ref"].rpartition("/")[2], answer.json())


@pytest.mark.process
def test_a_browser_gets_the_console_as_described(service: ServiceProcess) -> None:
    described = operations(service.get("/openapi.json").json())["/", "GET"]
    answer = service.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.headers["content-type"] in described["responses"]["200"]["content"]
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.process
def test_without_the_token_a_plugin_is_described_with_less(tmp_path: Path) -> None:
    env = {f"{ENV_PREFIX}ADMIN_TOKEN": "a-token-for-tests-only"}
    with ServiceProcess(tmp_path, ["history"], env=env) as process:
        process.wait_until_ready()
        found = process.get("/openapi.json").json()
        for headers in ({}, {"Authorization": "Bearer a-token-for-tests-only"}):
            answer = process.get("/plugins/history", headers=headers)
            check(found, "PluginPage", answer.json())
            assert (answer.json()["file"] is None) is not bool(headers)
            assert ("settings" in answer.json()) is bool(headers)
        for path in ("/tap", "/plugins/history/log", "/plugins/history/tasks"):
            answer = process.get(path)
            assert (path, answer.status_code) == (path, 401)
            check(found, "Problem", answer.json())
        assert process.request("POST", "/plugins/history/stop").status_code == 401


@pytest.mark.process
def test_a_line_of_the_tap_is_as_described(service: ServiceProcess) -> None:
    found = service.get("/openapi.json").json()
    (media_type,) = operations(found)["/tap", "GET"]["responses"]["200"]["content"]
    with service.stream("/tap?rate=1") as answer:
        assert answer.headers["content-type"] == media_type
        for _ in range(5):
            service.get("/nowhere")
        lines = answer.iter_lines()
        for kind in ("TappedPoint", "LeftOut"):
            check(found, kind, json.loads(next(lines)))


@pytest.mark.process
@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/plugins/nobody", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/plugins/p", 405),
        ("BREW", "/docs", 405),
        ("PUT", "/teapot", 405),
    ],
)
def test_a_refusal_is_a_problem_as_described(
    service: ServiceProcess, verb: str, path: str, status: int
) -> None:
    found = service.get("/openapi.json").json()
    answer = service.request(verb, path)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    check(found, "Problem", answer.json())
    assert answer.json()["status"] == status


@pytest.mark.process
def test_not_ready_is_as_described(tmp_path: Path) -> None:
    source = """
    class P(BaseBackgroundPlugin):
        async def initialize(self):
            raise OSError("not today")
    """
    write_plugin(tmp_path / "plugins", "p", source)
    with ServiceProcess(tmp_path, ["p"]) as process:
        process.wait_until(lambda: process.plugin("p")["state"] == "backoff")
        answer = process.get("/readyz")
        assert answer.status_code == 503
        check(process.get("/openapi.json").json(), "NotReady", answer.json())


#: Something answers 418 to everybody; and a plugin that was stopped on the way is not available.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 418, 429, 503]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""


@pytest.mark.soak
@pytest.mark.process
@pytest.mark.timeout(100)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    arguments = ["--seed", "1", "--phases", "coverage,fuzzing", "--max-examples", "8"]
    arguments += ["--no-color", "--warnings", "off"]
    arguments += [word for path in STREAMS for word in ("--exclude-path", path)]
    # A service of its own: it may well stop a plugin.
    with started(tmp_path) as service:
        paths = service.get("/openapi.json").json()["paths"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                f"{service.url}/openapi.json",
                *arguments,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # It leaves the document itself out.
        left_out = {*STREAMS, "/openapi.json"}
        tested = sum(len(item) for path, item in paths.items() if path not in left_out)
        assert f"Tested: {tested}\n" in done.stdout, done.stdout
        worse = {"ERROR", "CRITICAL"}
        assert not [record for record in service.records if record["level"] in worse]


# The page


def rendered(table: RouteTable) -> str:
    """Return the page of a route table."""
    return docs_page(document(table), "http://127.0.0.1:5240/").response.data.decode()  # type: ignore[union-attr]


def test_the_page_escapes_what_plugins_say() -> None:
    def handler(request: Any) -> None:
        """<script>alert(1)</script> "quoted"

        <img src=x onerror=alert(1)>
        """

    table = RouteTable()
    table.add(Owner("p", Gate.OPEN), "/<any('a&b', 'c\"'):x>", handler)
    html = rendered(table)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &#34;quoted&#34;" in html
    assert "<script" not in html
    assert "<img" not in html
    assert "<code>a&amp;b</code>, <code>c&#34;</code>" in html


@pytest.mark.process
def test_the_page_shows_every_operation_and_needs_nothing_from_elsewhere(
    service: ServiceProcess,
) -> None:
    answer = service.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert len(answer.content) < 100_000
    found = service.get("/openapi.json").json()
    for item in found["paths"].values():
        for operation in item.values():
            assert f'id="{operation["operationId"]}"' in answer.text
    for name in found["components"]["schemas"]:
        assert f'id="schema-{name}"' in answer.text
    assert f"curl &#39;{service.url}/livez&#39;" in answer.text
    outside = answer.text.replace(service.url, "")
    assert "http://" not in outside
    assert "https://" not in outside


@pytest.mark.soak
@pytest.mark.process
def test_the_page_works_in_a_browser_for_everybody(service: ServiceProcess) -> None:
    with chromium() as browser, watched_page(browser, service.url) as watched:
        page = watched.page
        page.goto("/docs#get_plugins_name")
        shown = page.locator("#get_plugins_name")
        expect(shown).to_be_visible()  # what the address leads to is open
        expect(page.locator("#get_livez")).to_be_hidden()
        page.get_by_role("navigation").get_by_role("link", name="GET /livez").press("Enter")
        expect(page.locator("#get_livez")).to_be_visible()
        for summary in page.locator("summary").all():
            if not summary.evaluate("element => element.parentElement.open"):
                summary.click()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert violations(page) == []
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_schemas_are_derived_in_any_number_of_threads_at_once():
    """Kind: requests for the document at the same time; Python 3.11 fails when two threads parse source.

    A thread is interrupted in the midst of that by what runs at a garbage collection, as the watch's does.
    """

    def interrupt(*_: object) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(interrupt)
    gc.set_threshold(100)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: schemas_of.__wrapped__(NotReady), range(8)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(interrupt)
    assert all(schemas == found[0] for schemas in found)


def test_the_schemas_are_derived_once_for_all_requests():
    """Kind: a request that anybody may send and that costs the service much, each time."""
    found = [document([])["components"]["schemas"] for _ in range(2)]
    assert found[0] is found[1]
