"""Handlers on another loop: what they are given, where they run, what becomes of what they return."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from lva.host.life.states import State
from lva.logs import loggers as logs
from tests.log_lines import kept_lines, names_plugin
from tests.support import running_host
from tests.telling import ASYNCIO_STYLE, PATIENCE, Told, listening, serving

#: Adds the routes that `ROUTES` names, and says what is published about them.
PLUGIN = """

class P(BaseBackgroundPlugin):
    async def initialize(self):
        for path, handler, *methods in ROUTES:
            self.addRoute(path, handler, *methods)


class Points(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        for point in points:
            tell(("point", point))
"""


@pytest.fixture
def told() -> Iterator[Told]:
    """Return what plugin code tells, and the log."""
    with listening() as it:
        yield it


@asynccontextmanager
async def routes(
    tmp_path: Any, source: str, **table: Any
) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """Serve what a source defines as ``ROUTES``; yield the host and a client."""
    text = ASYNCIO_STYLE + textwrap.dedent(source) + PLUGIN
    async with (
        running_host(tmp_path, {"p": text}, {"p": table}) as host,
        serving(host) as client,
    ):
        yield host, client


ECHO = """
    def said(request, **variables):
        return {
            "method": request.method,
            "path": request.path,
            "query_string": request.query_string,
            "url": request.url,
            "scheme": request.scheme,
            "args": [request.args.get("q"), request.args.getlist("q"), request.args.get("none")],
            "headers": [request.headers["X-Own"], request.headers.get("x-own"), "X-None" in request.headers],
            "cookies": request.cookies,
            "match_info": request.match_info,
            "variables": variables,
            "content_type": request.content_type,
            "ip": request.ip,
            "id": request.id,
            "body": request.body.decode("latin-1"),
            "text": request.text,
            "json": request.json,
            "form": {key: request.form.getlist(key) for key in request.form},
        }

    async def echo(request, **variables):
        return said(request, **variables)

    def plain(request, **variables):
        return said(request, **variables)

    class Handler(BaseBackgroundHandler):
        async def put(self, request, **variables):
            return said(request, **variables)

        def post(self, request, **variables):
            return said(request, **variables)

    ROUTES = [
        ("/echo/<int:n>/<name>", echo, {"get", "post"}),
        ("/plain/<int:n>/<name>", plain, {"get", "post"}),
        ("/class/<int:n>/<name>", Handler),
    ]
"""


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "echo"), ("POST", "echo"), ("POST", "plain"), ("PUT", "class"), ("POST", "class")],
)
async def test_a_handler_is_given_the_whole_request(tmp_path, told, method, path):
    body = b"" if method == "GET" else b'{"a": [1, "\xc3\xa9"]}'
    async with routes(tmp_path, ECHO) as (_, client):
        answer = await client.request(
            method,
            f"/{path}/7/caf%C3%A9?q=1&q=two%20words&empty=",
            content=body or None,
            headers={
                "X-Own": "yes",
                "Cookie": "a=1; b=two",
                "Content-Type": "application/json",
                "Luna-Request-Id": "1,abc",
            },
        )
    assert answer.status_code == 200, answer.text
    got = answer.json()
    assert httpx.URL(got.pop("url")) == answer.request.url
    assert got == {
        "method": method,
        "path": f"/{path}/7/café",
        "query_string": "q=1&q=two%20words&empty=",
        "scheme": "http",
        "args": ["1", ["1", "two words"], None],
        "headers": ["yes", "yes", False],
        "cookies": {"a": "1", "b": "two"},
        "match_info": {"n": 7, "name": "café"},
        "variables": {"n": 7, "name": "café"},
        "content_type": "application/json",
        "ip": "127.0.0.1",
        "id": "1,abc",
        "body": body.decode("latin-1"),
        "text": body.decode(),
        "json": json.loads(body) if body else None,
        "form": {},
    }


FORMS = """
    def form(request):
        return {
            "form": {key: request.form.getlist(key) for key in request.form},
            "first": request.form.get("a"),
            "files": {
                key: [[file.name, file.type, len(file.body), file.body[:5].decode()] for file in
                      request.files.getlist(key)]
                for key in request.files
            },
            "size": len(request.body),
        }

    ROUTES = [("/form", form, {"post"})]
"""


async def test_a_form_s_fields_and_files_are_there(tmp_path, told):
    async with routes(tmp_path, FORMS) as (_, client):
        answer = await client.post("/form", data={"a": ["1", "2"], "b": "é"})
        assert answer.json()["form"] == {"a": ["1", "2"], "b": ["é"]}
        assert answer.json()["first"] == "1"
        assert answer.json()["files"] == {}
        large = b"large" * 400_000  # too large for the memory that such files first get
        answer = await client.post(
            "/form",
            data={"a": "3"},
            files=[
                ("one", ("a.txt", b"small", "text/plain")),
                ("two", ("b.bin", large, "application/x-own")),
                ("two", ("c.bin", b"")),
            ],
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["form"] == {"a": ["3"]}
        assert answer.json()["files"] == {
            "one": [["a.txt", "text/plain", 5, "small"]],
            "two": [
                ["b.bin", "application/x-own", len(large), "large"],
                ["c.bin", "application/octet-stream", 0, ""],
            ],
        }
        assert answer.json()["size"] > len(large)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"--x\r\nnonsense", b"--x\r\n\r\n--x--\r\n"])
@pytest.mark.parametrize("boundary", ["", "; boundary=x"])
async def test_a_broken_form_is_not_the_plugin_s_fault(tmp_path, told, boundary, content):
    async with routes(tmp_path, FORMS) as (_, client):
        headers = {"Content-Type": f"multipart/form-data{boundary}"}
        answer = await client.post("/form", content=content, headers=headers)
        assert answer.status_code in {200, 400}, answer.text
        assert not told.complaints("p")
        assert not [
            record for record in told.records if "bug in the service" in record.getMessage()
        ]


JSON = """
    def used(request):
        return {"was": request.json}

    async def careful(request):
        try:
            return {"was": request.json}
        except ValueError:
            return "no JSON"

    async def unused(request):
        return "fine"

    ROUTES = [("/used", used, {"post"}), ("/careful", careful, {"post"}), ("/unused", unused, {"post"})]
"""


async def test_malformed_json_is_400_for_who_asks_for_it(tmp_path, told):
    async with routes(tmp_path, JSON) as (_, client):
        for content in (b"{", b"\xff", b"nul"):
            answer = await client.post("/used", content=content)
            assert answer.status_code == 400
            assert "is not JSON" in answer.json()["detail"]
            assert (await client.post("/unused", content=content)).text == "fine"
        assert (await client.post("/used", content=b" 3 ")).json() == {"was": 3}
        assert (await client.post("/used")).json() == {"was": None}
        assert not told.complaints("p")


ANSWERS = """
    from werkzeug.exceptions import Conflict, NotFound

    def returning(value):
        async def handler(request):
            return value
        return handler

    def raising(error):
        async def handler(request):
            raise error
        return handler

    def raising_plainly(request):
        raise KeyError("in a plain function")

    async def child(request):
        async with asyncio.TaskGroup() as group:
            group.create_task(raising(ValueError("in a child"))(request))

    async def gives_up(request):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    class Constructed(BaseBackgroundHandler):
        def __init__(self):
            raise ValueError("constructor")

        async def get(self, request):
            return "never"

    ROUTES = [
        ("/text", returning("text")),
        ("/bytes", returning(b"bytes")),
        ("/dict", returning({"a": 1})),
        ("/tuple", returning(("made", 201, {"X-Own": "yes"}))),
        ("/plugin", returning(pluginHTTPResponse(statusCode=202, body={"a": 1}, headers={"X-Own": "yes"}))),
        ("/none", returning(pluginHTTPResponse(statusCode=204))),
        ("/nothing", returning(None)),
        ("/object", returning(object())),
        ("/error", raising(ValueError("on purpose"))),
        ("/plain", raising_plainly),
        ("/child", child),
        ("/exit", raising(SystemExit("on purpose"))),
        ("/interrupt", raising(KeyboardInterrupt())),
        ("/stop", raising(StopIteration())),
        ("/stop_async", raising(StopAsyncIteration())),
        ("/generator_exit", raising(GeneratorExit())),
        ("/cancelled", raising(asyncio.CancelledError())),
        ("/gives_up", gives_up),
        ("/constructed", Constructed),
        ("/conflict", raising(Conflict("there is one"))),
        ("/not_found", raising(NotFound())),
    ]
"""


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("text", 200, "text"),
        ("bytes", 200, "bytes"),
        ("dict", 200, '{"a":1}'),
        ("tuple", 201, "made"),
        ("plugin", 202, '{"a": 1}'),
        ("none", 204, ""),
    ],
)
async def test_what_a_handler_returns_is_the_answer(tmp_path, told, path, status, text):
    async with routes(tmp_path, ANSWERS) as (_, client):
        answer = await client.get(f"/{path}")
    assert (answer.status_code, answer.text.strip()) == (status, text)
    if path in {"tuple", "plugin"}:
        assert answer.headers["X-Own"] == "yes"


@pytest.mark.parametrize(
    "path",
    ["nothing", "object", "error", "plain", "child", "exit", "interrupt", "stop", "stop_async",
     "generator_exit", "cancelled", "gives_up", "constructed"],
)  # fmt: skip
async def test_what_a_handler_raises_is_500_and_logged_once(tmp_path, told, path):
    async with routes(tmp_path, ANSWERS) as (host, client):
        answer = await client.get(f"/{path}")
        assert answer.status_code == 500
        assert "Plugin 'p' failed" in answer.json()["detail"]
        assert (await client.get("/text")).text == "text"
        assert host.states("p")[-1] == "running"
        assert host.life("p").record.restarts == 0
        (complaint,) = told.complaints("p")
        assert f"the handler of GET /{path}" in complaint
        (record,) = [record for record in told.records if record.getMessage() == complaint]
        assert record.exc_info is not None
        assert (await host.receipt_of("p")).problems == []


@pytest.mark.parametrize(("path", "status"), [("conflict", 409), ("not_found", 404)])
async def test_an_http_error_is_the_answer(tmp_path, told, path, status):
    async with routes(tmp_path, ANSWERS) as (_, client):
        answer = await client.get(f"/{path}")
        assert answer.status_code == status
        assert not told.complaints("p")


CONTEXT = """
    import logging
    from lva.events.points import add_point_fields, add_point_tags

    library = logging.getLogger("some.library")

    class Handler(BaseBackgroundHandler):
        async def get(self, request):
            library.info("handler")
            self.app.ctx.logger.info("own")
            add_point_tags(kind="a")
            add_point_fields(count=3)
            await asyncio.create_task(self.child())
            await asyncio.to_thread(add_point_fields, from_thread=1)
            return "fine"

        async def child(self):
            library.info("child")
            add_point_fields(from_child=1)

    def plain(request):
        library.info("plain")
        add_point_tags(kind="b")
        return "fine"

    async def bad(request):
        try:
            add_point_tags(route="mine")
        except ValueError as error:
            return str(error)

    ROUTES = [("/async", Handler), ("/plain", plain), ("/bad", bad)]
"""


async def test_the_request_s_context_is_there_on_the_other_loop(tmp_path, told):
    told.addFilter(names_plugin)
    async with routes(tmp_path, CONTEXT) as (_, client):
        for path in ("async", "plain"):
            headers = {"Luna-Request-Id": f"1,{path}"}
            assert (await client.get(f"/{path}", headers=headers)).status_code == 200
        assert "'route' is set by the service" in (await client.get("/bad")).text
        await told.until(lambda: len([item for item in told.items if item[0] == "point"]) == 3)
    points = {item[1].tags["route"]: item[1] for item in told.items}
    handled = points["GET:/async"]
    assert handled.tags["kind"] == "a"
    assert {name: handled.fields[name] for name in ("count", "from_child", "from_thread")} == {
        "count": 3, "from_child": 1, "from_thread": 1,
    }  # fmt: skip
    assert points["GET:/plain"].tags["kind"] == "b"
    assert "kind" not in points["GET:/bad"].tags
    said = {
        record.getMessage(): (getattr(record, "plugin", None), getattr(record, "request_id", None))
        for record in told.records
        if record.name in {"some.library", "lva.plugin.p"}
    }
    assert said["handler"] == said["child"] == said["own"] == ("p", "1,async")
    assert said["plain"] == ("p", "1,plain")


WAITING = """
    async def waits(request):
        tell("there")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            tell("cancelled")
            raise
        finally:
            tell("cleaned up")

    async def quick(request):
        return "fine"

    ROUTES = [("/waits", waits), ("/quick", quick)]
"""


async def test_a_client_that_leaves_cancels_the_handler(tmp_path, told):
    async with routes(tmp_path, WAITING) as (host, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/waits")
            await told.wait_for("there")
            assert (await client.get("/quick")).text == "fine"
            nursery.cancel_scope.cancel()
        await told.wait_for("cancelled", "cleaned up")
        point = await told.until(
            lambda: next((p for _, p in points(told) if p.tags["route"] == "GET:/waits"), None)
        )
        assert point.tags["status_code"] == 499
        assert (await client.get("/quick")).text == "fine"
        assert host.states("p")[-1] == "running"
        assert not told.complaints("p")


def points(told: Told) -> list[Any]:
    """Return the points that were published."""
    return [item for item in told.items if isinstance(item, tuple) and item[0] == "point"]


async def test_a_stop_cancels_the_handlers_which_is_503(tmp_path, told):
    async with routes(tmp_path, WAITING) as (host, client):
        answers = []

        async def ask() -> None:
            answers.append(await client.get("/waits"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await told.wait_for("there")
            part = await host.receipt_of("p")
        assert answers[0].status_code == 503
        assert "'p'" in answers[0].json()["detail"]
        assert part.state == "stopped"
        assert list(part.problems) == []
    assert told.items[:3] == ["there", "cancelled", "cleaned up"]


CRASHING = """
    go = None

    async def waits(request):
        tell("there")
        await asyncio.sleep(600)

    async def crash(request):
        asyncio.create_task(fails())
        return "it will"

    async def fails():
        raise ValueError("on purpose")

    ROUTES = [("/waits", waits), ("/crash", crash)]
"""


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_crash_cancels_the_handlers_and_the_routes_come_back(tmp_path, told):
    async with routes(tmp_path, CRASHING, backoff_initial=0.05) as (host, client):
        answers = []

        async def ask() -> None:
            answers.append(await client.get("/waits"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await told.wait_for("there")
            assert (await client.get("/crash")).text == "it will"
            await host.wait_for("p", State.BACKOFF, PATIENCE)
        assert answers[0].status_code == 503
        assert int(answers[0].headers["Retry-After"]) >= 1
        await host.wait_for("p", State.RUNNING, PATIENCE)
        assert (await client.get("/crash")).text == "it will"


STREAMING = """
    more = threading.Event()

    async def ticks(request):
        async def pieces():
            loop = asyncio.get_running_loop()
            try:
                yield "first;"
                await asyncio.to_thread(more.wait, 30)
                assert asyncio.get_running_loop() is loop
                yield b"second;"
                await asyncio.sleep(0)
                yield "last"
            finally:
                tell("finished")
        return pieces()

    async def generator(request):
        yield b"a"
        await asyncio.sleep(0)
        yield b"b"

    async def endless(request):
        async def pieces():
            try:
                tell("there")
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                tell("cancelled")
                raise
            finally:
                await asyncio.sleep(0.01)
                tell("finished")
        return pieces()

    async def breaks(request):
        async def pieces():
            yield b"a"
            raise ValueError("on purpose")
        return pieces()

    async def with_status(request):
        async def pieces():
            yield b"a"
            await asyncio.sleep(0)
            yield b"b"
        return pieces(), 201, {"X-Own": "yes"}

    ROUTES = [
        ("/ticks", ticks), ("/generator", generator), ("/endless", endless), ("/breaks", breaks),
        ("/with_status", with_status),
    ]
"""


async def test_a_body_is_streamed_piece_by_piece(tmp_path, told):
    async with routes(tmp_path, STREAMING) as (host, client):
        received = []
        with trio.fail_after(PATIENCE):
            async with client.stream("GET", "/ticks") as answer:
                assert answer.status_code == 200
                async for text in answer.aiter_text():
                    received.append(text)
                    host.module("p").more.set()
        assert received[0] == "first;", "before there was more"
        assert "".join(received) == "first;second;last"
        await told.wait_for("finished")


async def test_an_async_generator_function_is_a_handler(tmp_path, told):
    async with routes(tmp_path, STREAMING) as (_, client):
        assert (await client.get("/generator")).text == "ab"


async def test_a_stream_may_come_with_a_status_and_headers(tmp_path, told):
    async with routes(tmp_path, STREAMING) as (_, client):
        answer = await client.get("/with_status")
        assert (answer.status_code, answer.headers["X-Own"], answer.text) == (201, "yes", "ab")
        assert not told.complaints("p")


async def test_a_client_that_leaves_ends_the_stream(tmp_path, told):
    async with routes(tmp_path, STREAMING) as (_, client):
        async with client.stream("GET", "/endless") as answer:
            assert answer.status_code == 200
            await told.wait_for("there")
        await told.wait_for("finished")
        assert not told.complaints("p")


async def test_a_stop_ends_every_stream_with_its_clean_up(tmp_path, told):
    """Some of them are just sending then, and can be cancelled only when that is done."""
    async with routes(tmp_path, STREAMING) as (host, client), trio.open_nursery() as nursery:

        async def read() -> None:
            with contextlib.suppress(httpx.RemoteProtocolError):
                await client.get("/endless")

        for _ in range(20):
            nursery.start_soon(read)
        await told.until(lambda: told.items.count("there") == 20)
        part = await host.receipt_of("p")
        assert told.items.count("finished") == 20
        assert (part.state, list(part.problems)) == ("stopped", [])
        assert not told.complaints("p")


UNREAD = """
    async def unread(request):
        async def pieces():
            try:
                while True:
                    tell("there")
                    yield b"x" * 8_000_000
            finally:
                tell("finished")
        return pieces()

    ROUTES = [("/unread", unread)]
"""


@pytest.mark.slow("the loops of asyncio keep real time")
@pytest.mark.timeout(20)
async def test_a_plugin_can_end_before_a_response_that_nobody_reads(tmp_path, told):
    """Its generator cannot be asked for anything then: the loop that it was made on has ended."""
    async with (
        routes(tmp_path, UNREAD) as (host, client),
        client.stream("GET", "/unread") as answer,
    ):
        assert answer.status_code == 200
        await told.wait_for("there")
        await trio.sleep(0.2)  # until the socket's buffers are full
        part = await host.receipt_of("p")
        assert (part.state, list(part.problems)) == ("stopped", [])
        await told.wait_for("finished")


async def test_a_stream_that_breaks_is_cut_and_logged(tmp_path, told):
    async with routes(tmp_path, STREAMING) as (host, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/breaks")
        await told.logged("raised ValueError: on purpose")
        assert len(told.complaints("p")) == 1
        assert host.states("p")[-1] == "running"


TRACED = """
    import logging

    def note(what):
        tell(("ran", what, threading.current_thread().name))

    class Text:
        def __init__(self, what):
            self.what = what

        def __str__(self):
            note(self.what)
            return self.what

    class NoisyError(Exception):
        def __str__(self):
            note("the text of an error")
            return "noisy"

    class Items(dict):
        def items(self):
            note("the items of a body")
            return super().items()

    class Word(str):
        def lower(self):
            note("a header in small letters")
            return super().lower()

        def encode(self, *args):
            note("a text as bytes")
            return super().encode(*args)

        title = __str__ = lower

    async def headers(request):
        return pluginHTTPResponse(body=Word("text"), headers={Word("X-A"): Word("1")})

    async def headers_of_a_tuple(request):
        return Word("text"), 200, {Word("X-A"): Word("1")}

    async def raises(request):
        raise NoisyError

    async def raises_a_group(request):
        raise ExceptionGroup("several", [NoisyError(), NoisyError()])

    async def raises_with_a_cause(request):
        raise ValueError("outside") from NoisyError()

    async def stream(request):
        async def pieces():
            yield "a"
            raise NoisyError
        return pieces()

    async def logs(request):
        logging.getLogger("some.library").info("%s", Text("an argument of a record"))
        return "logged"

    async def plugin_response(request):
        return pluginHTTPResponse(body=Items(a=1))

    async def plain(request):
        return Items(b=2)

    async def with_status(request):
        return Items(c=3), 201

    ROUTES = [(f"/{handler.__name__}", handler) for handler in (
        raises, raises_a_group, raises_with_a_cause, stream, logs, plugin_response, plain, with_status,
        headers, headers_of_a_tuple,
    )]
"""


async def test_code_of_its_objects_runs_in_the_plugin_s_own_thread(tmp_path, told):
    """The kind: whatever the service has to do with an object runs the code of its class."""
    with kept_lines() as lines:
        logs.set_up("INFO", "json", lines)
        async with routes(tmp_path, TRACED) as (_, client):
            assert (await client.get("/raises")).status_code == 500
            assert (await client.get("/raises_a_group")).status_code == 500
            assert (await client.get("/raises_with_a_cause")).status_code == 500
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/stream")
            assert (await client.get("/logs")).text == "logged"
            assert (await client.get("/plugin_response")).json() == {"a": 1}
            assert (await client.get("/plain")).json() == {"b": 2}
            answer = await client.get("/with_status")
            assert (answer.status_code, answer.json()) == (201, {"c": 3})
            for path in ("/headers", "/headers_of_a_tuple"):
                answer = await client.get(path)
                assert (answer.text, answer.headers["x-a"]) == ("text", "1")
    ran = [item for item in told.items if item[0] == "ran"]
    assert {what for _, what, _ in ran} == {
        "the text of an error", "an argument of a record", "the items of a body",
        "a header in small letters", "a text as bytes",
    }  # fmt: skip
    assert {thread for *_, thread in ran} == {"p (asyncio loop)"}
    failures = [record for record in lines.records if "exception" in record]
    assert len(failures) == 4
    assert all("NoisyError: noisy" in record["exception"] for record in failures)
