"""The routes of plugins in the real service: what handlers are given, what becomes of what they return."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

ROUTES = """
import functools
from quart import Response, abort, jsonify
from werkzeug.exceptions import BadRequest, Conflict, NotFound, RequestEntityTooLarge

class Verbs(BaseBackgroundHandler):
    made = 0
    def __init__(self):
        type(self).made += 1
        self.number = type(self).made
    async def get(self, request, **variables):
        return self.response({"verb": "get", "number": self.number, **variables})
    async def post(self, request, **variables):
        return self.response({"verb": "post", "json": await request.get_json()}, statusCode=201)
    async def put(self, request, **variables):
        return self.response(b"put", headers={"X-Own": "yes"})
    async def patch(self, request, **variables):
        return self.response("patch", headers={"Content-Type": "text/x-own"})
    async def delete(self, request, **variables):
        return self.response(statusCode=204)
    def helper(self):
        raise AssertionError("no verb")

class OnlyPost(BaseBackgroundHandler):
    async def post(self, request):
        return "posted"

class OwnHead(BaseBackgroundHandler):
    async def get(self, request):
        return "get"
    async def head(self, request):
        return self.response("", headers={"X-Head": "own"})
    async def options(self, request):
        return self.response("options", headers={"X-Options": "own"})

class Synchronous(BaseBackgroundHandler):
    def get(self, request):
        return {"thread": threading.current_thread().name}

async def names(request, **variables):
    return {name: [type(value).__name__, str(value)] for name, value in variables.items()}

def where(request):
    return {"thread": threading.current_thread().name}

async def where_async(request):
    return {"thread": threading.current_thread().name}

class Callable_:
    async def __call__(self, request):
        return "called"

async def with_argument(argument, request):
    return argument

async def details(request, n):
    return {
        "method": request.method,
        "path": request.path,
        "query": request.args.getlist("q"),
        "header": request.headers.get("X-Own"),
        "content": request.content_type,
        "variables": request.view_args,
    }

async def body(request):
    return (await request.get_data())[::-1]

async def json_body(request):
    return {"was": await request.get_json()}

async def form(request):
    fields, files = await request.form, await request.files
    return {"fields": dict(fields), "files": {key: file.read().decode() for key, file in files.items()}}

async def stream_in(request):
    sizes = [len(chunk) async for chunk in request.body]
    return {"total": sum(sizes)}

def returning(make):
    async def handler(request):
        return make()
    return handler

async def ticks():
    for n in range(3):
        yield f"{n};".encode()

def raising(error):
    async def handler(request):
        raise error
    return handler

def raising_sync(request):
    raise KeyError("in a thread")

async def aborting(request, status):
    abort(status)

async def aborting_with_text(request):
    abort(422, "The camera is upside down.")

async def with_a_problem(request):
    raise RequestProblem(409, "The lamp is on.", "lamp_on", {"Retry-After": "7"}, lamp=3)

async def aborting_with_response(request):
    abort(Response("own", 409))

async def group(request):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)

async def child():
    raise ValueError("in a child")

async def child_aborts(request):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aborting, None, 404)

async def cancels_itself(request):
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.sleep(1)
    return "went on"

class Routes(BaseBackgroundPlugin):
    async def initialize(self):
        add = self.addRoute
        add("/verbs", Verbs)
        add("/verbs/<int:n>", Verbs)
        add("/verbs/some", Verbs, methods={"get", "PUT"})
        add("/only/post", OnlyPost)
        add("/own/head", OwnHead)
        add("/sync/class", Synchronous)
        add("/names/<word>/<int:number>/<float:share>/<path:rest>", names)
        add("/names/<uuid:id>", names)
        add("/names/<any(red,green):colour>", names)
        add("/where", where)
        add("/where/async", where_async)
        add("/lambda", lambda request: "lambda")
        add("/callable", Callable_())
        add("/partial", functools.partial(with_argument, "bound"))
        add("/details/<int:n>", details, methods=["get", "post", "delete"])
        add("/body", body, methods={"post", "put"})
        add("/json", json_body, methods={"POST"})
        add("/form", form, methods={"post"})
        add("/stream/in", stream_in, methods={"post"})
        for name, make in {
            "contract": lambda: pluginHTTPResponse(202, "text", {"X-Own": "yes"}),
            "nothing": lambda: pluginHTTPResponse(),
            "bytes": lambda: pluginHTTPResponse(body=b"bytes"),
            "list": lambda: pluginHTTPResponse(body=[1, None]),
            "tuple": lambda: ("text", 203, {"X-Own": "yes"}),
            "dict": lambda: {"a": 1},
            "json-list": lambda: [1, 2],
            "str": lambda: "text",
            "raw-bytes": lambda: b"raw",
            "response": lambda: Response("own", 206, {"X-Own": "yes"}),
            "jsonify": lambda: jsonify(a=1),
            "generator": ticks,
            "none": lambda: None,
            "number": lambda: 42,
            "object": lambda: object(),
            "not-json": lambda: pluginHTTPResponse(body={"a": object()}),
            "not-json-dict": lambda: {"a": object()},
            "bad-header": lambda: pluginHTTPResponse(headers={"X-Own": "a\\r\\nX-Other: b"}),
            "bad-status": lambda: pluginHTTPResponse(statusCode=99),
            "bad-tuple": lambda: (1, 2, 3, 4),
            "surrogate": lambda: pluginHTTPResponse(body="\\ud800"),
        }.items():
            add(f"/returns/{name}", returning(make))
        for name, error in {
            "runtime": RuntimeError("secret inside"),
            "base": BaseException("base"),
            "exit": SystemExit(3),
            "keyboard": KeyboardInterrupt(),
            "conflict": Conflict("Taken."),
            "missing": NotFound(),
            "too-large": RequestEntityTooLarge(),
        }.items():
            add(f"/raises/{name}", raising(error))
        add("/raises/sync", raising_sync)
        add("/raises/group", group)
        add("/aborts/<int:status>", aborting)
        add("/aborts/text", aborting_with_text)
        add("/aborts/response", aborting_with_response)
        add("/aborts/problem", with_a_problem)
        add("/aborts/child", child_aborts)
        add("/cancels", cancels_itself)
"""

OTHERS = {
    "takes_own": "self.addRoute('/livez', lambda request: 'mine')",
    "takes_other": """self.addRoute("/free", lambda request: "x")
        self.addRoute("/where", lambda request: "mine")""",
}
OTHER = """
class Other(BaseBackgroundPlugin):
    async def initialize(self):
        {}
"""

LIFE = """
from pathlib import Path

class Life(BaseBackgroundPlugin):
    attempts = 0

    async def initialize(self):
        type(self).attempts += 1
        self.crash = trio.Event()
        self.addRoute("/life", self.get)
        self.addRoute("/life/crash", self.end, methods={"post"})
        self.addRoute("/life/slow", self.slow)
        if self.attempts == 1:
            self.addRoute("/life/first", self.get)
        while not Path("go").exists():
            await trio.sleep(0.01)
        Path("go").unlink()

    async def start(self):
        await self.crash.wait()
        raise RuntimeError("told to crash")

    async def get(self, request):
        return {"attempt": self.attempts}

    async def slow(self, request):
        Path("slow").touch()
        await trio.sleep(60)

    async def end(self, request):
        self.crash.set()
        return "crashing"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    path = tmp_path_factory.mktemp("routes")
    write_plugin(path / "plugins", "routes", ROUTES)
    for name, code in OTHERS.items():
        write_plugin(path / "plugins", name, OTHER.format(code))
    toml = "".join(f"[plugins.{name}]\nrestart = 'never'\n" for name in OTHERS)
    with ServiceProcess(path, ["routes", *OTHERS], toml) as running:
        running.wait_until(lambda: running.plugin("routes")["state"] == "running")
        yield running
        assert running.plugin("routes")["state"] == "running", running.output
        assert running.plugin("routes")["restarts"] == 0
        assert running.stop() == 0, running.output
        assert "bug in the" not in running.output


def problem(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the reply is a problem document; return it."""
    assert reply.status_code == status
    assert reply.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = reply.json()
    assert (document["status"], document["error_code"]) == (status, code)
    assert document["request_id"] == reply.headers["Luna-Request-Id"]
    return document


# Verbs


def test_handler_class_serves_its_verbs(service: ServiceProcess) -> None:
    first, second = service.get("/verbs").json(), service.get("/verbs").json()
    assert first["verb"] == "get"
    assert second["number"] > first["number"], "each request gets an instance of its own"
    reply = service.request("POST", "/verbs", json={"a": [1]})
    assert (reply.status_code, reply.json()) == (201, {"verb": "post", "json": {"a": [1]}})
    reply = service.request("PUT", "/verbs")
    assert (reply.content, reply.headers["X-Own"]) == (b"put", "yes")
    assert reply.headers["Content-Type"] == "application/octet-stream"
    reply = service.request("PATCH", "/verbs")
    assert (reply.text, reply.headers["Content-Type"]) == ("patch", "text/x-own")
    reply = service.request("DELETE", "/verbs")
    assert (reply.status_code, reply.content) == (204, b"")
    assert service.get("/verbs/7").json()["n"] == 7


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/verbs/some", "DELETE", "GET, PUT, OPTIONS, HEAD"),
        ("/only/post", "HEAD", "POST, OPTIONS"),
        ("/verbs", "BREW", "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD"),
    ],
)
def test_other_verbs_are_refused(
    path: str, method: str, allowed: str, service: ServiceProcess
) -> None:
    reply = service.request(method, path)
    assert reply.status_code == 405
    assert reply.headers["Allow"] == allowed
    if method != "HEAD":
        assert allowed in problem(reply, 405, "method_not_allowed")["detail"]
    reply = service.request("OPTIONS", path)
    assert (reply.status_code, reply.content, reply.headers["Allow"]) == (204, b"", allowed)


def test_own_head_and_options_come_first(service: ServiceProcess) -> None:
    assert service.request("HEAD", "/own/head").headers["X-Head"] == "own"
    reply = service.request("OPTIONS", "/own/head")
    assert (reply.text, reply.headers["X-Options"]) == ("options", "own")


# Functions


def test_plain_functions_run_in_a_thread(service: ServiceProcess) -> None:
    assert service.get("/where").json() == {"thread": "handler from routes."}
    assert service.get("/where/async").json() == {"thread": "MainThread"}
    assert service.get("/sync/class").json() == {"thread": "handler from routes."}


def test_whatever_can_be_called_is_a_handler(service: ServiceProcess) -> None:
    assert service.get("/lambda").text == "lambda"
    assert service.get("/callable").text == "called"
    assert service.get("/partial").text == "bound"


def test_converters(service: ServiceProcess) -> None:
    assert service.get("/names/k%C3%A4se/7/0.5/a/b/c").json() == {
        "word": ["str", "käse"],
        "number": ["int", "7"],
        "share": ["float", "0.5"],
        "rest": ["str", "a/b/c"],
    }
    number = "12345678-1234-5678-1234-567812345678"
    assert service.get(f"/names/{number}").json() == {"id": ["UUID", number]}
    assert service.get("/names/green").json() == {"colour": ["str", "green"]}
    for path in ("/names/blue", "/names/x/y/0.5/a", "/verbs/x", "/verbs/-1", "/names/x/7/1/a"):
        problem(service.get(path), 404, "not_found")


# Requests


def test_what_a_handler_sees_of_the_request(service: ServiceProcess) -> None:
    reply = service.request(
        "DELETE", "/details/5?q=1&q=%C3%A4", headers={"X-Own": "yes", "Content-Type": "text/own"}
    )
    assert reply.json() == {
        "method": "DELETE",
        "path": "/details/5",
        "query": ["1", "ä"],
        "header": "yes",
        "content": "text/own",
        "variables": {"n": 5},
    }


def test_bodies(service: ServiceProcess) -> None:
    assert service.request("POST", "/body", content=b"abc\0").content == b"\0cba"
    assert service.request("PUT", "/body", content=b"").content == b""
    assert service.request("POST", "/json", json=[1, {"a": None}]).json() == {
        "was": [1, {"a": None}]
    }
    reply = service.request("POST", "/form", data={"a": "1"}, files={"f": ("name.txt", b"inside")})
    assert reply.json() == {"fields": {"a": "1"}, "files": {"f": "inside"}}
    assert service.request("POST", "/form", data={"a": "ä"}).json() == {
        "fields": {"a": "ä"},
        "files": {},
    }
    reply = service.request("POST", "/stream/in", content=(b"x" * 1000 for _ in range(500)))
    assert reply.json() == {"total": 500_000}


# What a handler returns


@pytest.mark.parametrize(
    ("name", "status", "content_type", "body"),
    [
        ("contract", 202, "text/plain; charset=utf-8", b"text"),
        ("nothing", 200, None, b""),
        ("bytes", 200, "application/octet-stream", b"bytes"),
        ("list", 200, "application/json", b"[1, null]"),
        ("tuple", 203, "text/html; charset=utf-8", b"text"),
        ("dict", 200, "application/json", {"a": 1}),
        ("json-list", 200, "application/json", [1, 2]),
        ("str", 200, "text/html; charset=utf-8", b"text"),
        ("raw-bytes", 200, "text/html; charset=utf-8", b"raw"),
        ("response", 206, "text/html; charset=utf-8", b"own"),
        ("jsonify", 200, "application/json", {"a": 1}),
        ("generator", 200, "text/html; charset=utf-8", b"0;1;2;"),
    ],
)
def test_return_value(
    name: str, status: int, content_type: str | None, body: Any, service: ServiceProcess
) -> None:
    reply = service.get(f"/returns/{name}")
    assert reply.status_code == status
    assert reply.headers.get("Content-Type") == content_type
    assert (reply.content if isinstance(body, bytes) else reply.json()) == body
    assert len(reply.headers["Luna-Request-Id"]) > 30
    if name in {"contract", "tuple", "response"}:
        assert reply.headers["X-Own"] == "yes"


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"/returns/{name}"
            for name in (
                "none", "number", "object", "not-json", "not-json-dict", "bad-header", "bad-status",
                "bad-tuple", "surrogate",
            )
        ),
        "/raises/runtime",
        "/raises/base",
        "/raises/exit",
        "/raises/keyboard",
        "/raises/sync",
        "/raises/group",
    ],
)  # fmt: skip
def test_500_of_that_request_only(path: str, service: ServiceProcess) -> None:
    before = len(service.records)
    reply = service.get(path)
    document = problem(reply, 500, "internal_server_error")
    assert "routes" in document["detail"]
    assert "secret inside" not in reply.text
    assert "X-Other" not in reply.headers
    assert service.get("/lambda").text == "lambda"
    assert service.plugin("routes")["state"] == "running"

    def errors() -> list[dict[str, Any]]:  # a record may come just after the response
        records = [it for it in service.records[before:] if it.get("plugin") == "routes"]
        return [record for record in records if record["level"] == "ERROR"]

    service.wait_until(errors)
    logged = errors()
    assert [(record["plugin"], record["phase"]) for record in logged] == [("routes", "handler")]
    assert logged[0]["message"].startswith(f"the handler of GET {path} raised ")
    assert "Traceback" in logged[0]["exception"]


@pytest.mark.parametrize(
    ("path", "status", "code", "detail"),
    [
        ("/aborts/404", 404, "not_found", ""),
        ("/aborts/403", 403, "forbidden", ""),
        ("/aborts/418", 418, "im_a_teapot", ""),
        ("/aborts/503", 503, "service_unavailable", ""),
        ("/aborts/text", 422, None, "The camera is upside down."),
        ("/aborts/child", 404, "not_found", ""),
        ("/raises/conflict", 409, "conflict", "Taken."),
        ("/raises/missing", 404, "not_found", ""),
        ("/raises/too-large", 413, None, ""),
    ],
)
def test_http_errors_become_problem_documents(
    path: str, status: int, code: str | None, detail: str, service: ServiceProcess
) -> None:
    before = len(service.records)
    reply = service.get(path)
    document = problem(reply, status, code or reply.json()["error_code"])
    assert detail in document["detail"]
    logged = [record for record in service.records[before:] if record.get("plugin") == "routes"]
    assert [record for record in logged if record["level"] == "ERROR"] == []


def test_abort_with_a_response(service: ServiceProcess) -> None:
    assert service.get("/aborts/response").status_code == 409


def test_a_handler_may_raise_a_whole_problem_document(service: ServiceProcess) -> None:
    """The kind is what a program wants to know of an error: its own code, headers and members."""
    answer = service.get("/aborts/problem")
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "7")
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["detail"], problem["error_code"], problem["lamp"]) == (
        "The lamp is on.", "lamp_on", 3,
    )  # fmt: skip


def test_a_handler_may_cancel_its_own_scopes(service: ServiceProcess) -> None:
    assert service.get("/cancels").text == "went on"


# Conflicts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("takes_own", ["'/livez'", "belongs to the service"]),
        ("takes_other", ["the path '/where' belongs to plugin 'routes'; choose another"]),
    ],
)
def test_a_conflict_fails_that_plugin_alone(
    name: str, said: list[str], service: ServiceProcess
) -> None:
    status = service.plugin(name)
    assert status["state"] == "failed"
    reasons = service.get("/readyz").json()["reasons"]
    assert reasons.keys() == OTHERS.keys()
    for text in said:
        assert text in reasons[name]
        assert text in json.dumps(status)
    assert service.get("/livez").json() == {"status": "alive"}
    assert service.get("/where").json() == {"thread": "handler from routes."}
    problem(service.get("/free"), 404, "not_found")  # what the failed one had added is gone


# Routes in a plugin's life


def test_routes_follow_the_plugins_life(tmp_path: Path) -> None:
    toml = "[plugins.life]\nmax_restarts = 1\nbackoff_initial = 0.01\n"
    go = tmp_path / "go"
    with ServiceProcess(tmp_path, {"life": LIFE}, toml) as service, ThreadPoolExecutor(1) as client:
        unavailable = "plugin_unavailable"
        service.wait_until(lambda: service.get("/life").status_code == 503)
        reply = service.get("/life")
        assert "'life'" in problem(reply, 503, unavailable)["detail"]
        assert int(reply.headers["Retry-After"]) >= 1
        problem(service.get("/life/first"), 503, unavailable)
        assert service.request("OPTIONS", "/life").status_code in {204, 503}
        problem(service.request("POST", "/life"), 405, "method_not_allowed")

        go.touch()
        service.wait_until(lambda: service.get("/life").status_code == 200)
        assert service.get("/life").json() == {"attempt": 1}
        assert service.get("/life/first").status_code == 200

        with service.stream("/version"):
            assert service.request("POST", "/life/crash").status_code == 200
        service.wait_until(lambda: service.plugin("life")["restarts"] == 1)
        service.wait_until(lambda: service.get("/life").status_code == 503)
        assert int(service.get("/life").headers["Retry-After"]) >= 1

        go.touch()
        service.wait_until(lambda: service.get("/life").status_code == 200)
        assert service.get("/life").json() == {"attempt": 2}
        problem(service.get("/life/first"), 404, "not_found")  # not added again

        served = client.submit(service.get, "/life/slow", timeout=20)
        service.wait_until((tmp_path / "slow").exists)
        assert service.request("POST", "/life/crash").status_code == 200
        service.wait_until(lambda: service.plugin("life")["state"] == "failed")
        problem(served.result(), 503, unavailable)
        problem(service.get("/life"), 404, "not_found")
        assert service.plugin("life")["routes"] == []
        assert service.get("/livez").status_code == 200
        assert service.stop() == 0, service.output


def test_a_crash_ends_the_requests_being_served_and_those_in_back_off_are_told_to_come_later(
    tmp_path: Path,
) -> None:
    (tmp_path / "go").touch()
    toml = "[plugins.life]\nbackoff_initial = 10000\nbackoff_max = 10000\n"
    with ServiceProcess(tmp_path, {"life": LIFE}, toml) as service, ThreadPoolExecutor(1) as client:
        service.wait_until_ready()
        served = client.submit(service.get, "/life/slow", timeout=20)
        service.wait_until((tmp_path / "slow").exists)
        assert service.request("POST", "/life/crash").status_code == 200
        problem(served.result(), 503, "plugin_unavailable")
        service.wait_until(lambda: service.plugin("life")["state"] == "backoff")
        reply = service.get("/life")
        problem(reply, 503, "plugin_unavailable")
        assert 1 <= int(reply.headers["Retry-After"]) <= 10_000
        assert service.stop() == 0, service.output


def test_a_handler_that_breaks_trios_nesting_breaks_its_own_request_only(tmp_path: Path) -> None:
    source = """
        class Misnester(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/misnest", self.misnest)

            async def misnest(self, request):
                await trio.open_nursery().__aenter__()
                trio.CancelScope().__enter__()
                return "x"
    """
    with ServiceProcess(tmp_path, {"misnester": source}) as service:
        service.wait_until_ready()
        for _ in range(5):
            service.get("/misnest")
            assert service.get("/livez").status_code == 200
        assert service.get("/readyz").status_code == 200
        assert "stack corrupted" in service.output
        assert service.stop() == 0
    assert service.receipt["reason"] == "received SIGTERM"


def test_a_catch_all_does_not_reach_what_is_the_services(tmp_path: Path) -> None:
    source = """
        class All(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/<path:rest>", lambda request, rest: rest)
    """
    with ServiceProcess(tmp_path, {"all": source}) as service:
        service.wait_until_ready()
        assert service.get("/any/thing").text == "any/thing"
        assert service.get("/plugins/all/below").status_code == 404
        assert service.get("/livez").json() == {"status": "alive"}
