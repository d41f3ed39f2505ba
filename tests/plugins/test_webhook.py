"""The webhook against a real HTTP server in this process; sockets need the real clock."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

import lva
from lva import (
    MonitoringPoint,
    PartialDeliveryError,
    PermanentDeliveryError,
    RetryLaterError,
)
from lva.errors import ConfigurationError
from lva.host.loading.load import load_plugins
from lva.plugins import webhook as module
from tests.event_samples import CHANGE, ITEMS, POINT, SEEN, documents
from tests.plugins.metric_servers import Request, StandIn, standing_in
from tests.plugins.sinks import call, last_error, running_sink, settled, why_not
from tests.support import (
    RunningHost,
    ServiceProcess,
    host_settings,
    numbered,
    until,
)

CERTIFICATE = Path(__file__).parent / "localhost.pem"
SNIPPET = Path(lva.__file__).parent.parent / "docs" / "snippets" / "verify_webhook.py"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Answer:
    """What the receiver says, once; 0 closes the connection. `after` goes on writing, or takes its time."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: Callable[[BinaryIO], object] | None = None


def numbers(request: Request) -> list[int]:
    """Return the numbers of the points in a request."""
    return [point["fields"]["n"] for point in json.loads(request.body)["points"]]


class Receiver:
    """A receiver, and what it was sent.

    Attributes:
        answers: What it answers next, one after the other; 204 when there is nothing more.
        limit: It answers 413 to larger bodies.
        over: Set at the end, for answers that wait.
    """

    def __init__(self, server: StandIn) -> None:
        self.requests = server.requests
        self.answers: list[Answer | Callable[[Request], Answer]] = []
        self.limit = 1 << 30
        self.url = f"{server.url}/hook"
        self.over = threading.Event()
        server.answer = self._answer

    def _answer(self, request: Request) -> Any:
        if len(request.body) > self.limit:
            return 413, {}, b""
        answer = self.answers.pop(0) if self.answers else Answer()
        if callable(answer):
            answer = answer(request)
        body, after = answer.body, answer.after
        whole = (lambda file: (file.write(body), after(file))) if after else body
        return answer.status, answer.headers, whole

    @property
    def accepted(self) -> list[int]:
        """The numbers of all points that were not too large to be taken, in order."""
        sent = [request for request in self.requests if len(request.body) <= self.limit]
        return [number for request in sent for number in numbers(request)]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve a receiver on the loopback interface."""
    with standing_in() as server:
        receiver = Receiver(server)
        try:
            yield receiver
        finally:
            receiver.over.set()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as it:
        yield it


def webhook(
    tmp_path: Path, url: str, table: Any = (), wait: bool = True, **config: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run the plugin, with one attempt for a batch."""
    table = {"max_attempts": 1, **dict(table)}
    return running_sink(tmp_path, "webhook", {"url": url, **config}, wait, table)


# What is sent


async def test_a_batch_is_one_document(tmp_path, receiver):
    point = MonitoringPoint("requests", 1795370668.5, {"route": "GET:/ж"}, {"n": 1, "f": 0.1})
    async with webhook(tmp_path, receiver.url) as host:
        ledger = await settled(host, [point, *numbered(1)])
        assert (await host.stop()).exit_code == 0
    assert ledger.delivered == 2
    (request,) = receiver.requests
    assert request.target == "/hook"
    assert json.loads(request.body) == {
        "points": [
            {
                "series": "requests",
                "time": 1795370668.5,
                "tags": {"route": "GET:/ж"},
                "fields": {"n": 1, "f": 0.1},
            },
            {"series": "numbers", "time": 1.0, "tags": {}, "fields": {"n": 0}},
        ]
    }
    assert "GET:/ж".encode() in request.body
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["webhook-id"] == hashlib.sha256(request.body).hexdigest()
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 10
    assert "webhook-signature" not in request.headers


def test_points_gather_for_a_second(tmp_path):
    tables = {"webhook": {"config": {"url": "http://a/"}}}
    (loaded,) = load_plugins(host_settings(tmp_path, ["webhook"], tables))
    assert loaded.settings.flush_interval == 1.0


async def test_headers_are_added_and_cookies_are_not_kept(tmp_path, receiver):
    receiver.answers = [Answer(headers={"Set-Cookie": "session=1; Path=/"})]
    headers = {"Authorization": "Bearer sesame", "X-Site": "north"}
    async with webhook(tmp_path, receiver.url, headers=headers) as host:
        await call(host, numbered(1))
        await call(host, numbered(1, 1))
    for request in receiver.requests:
        assert request.headers["authorization"] == "Bearer sesame"
        assert request.headers["x-site"] == "north"
        assert "cookie" not in request.headers
    assert len(receiver.requests) == 2


# Signatures


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Do what the documentation tells receivers to do."""
    spec = importlib.util.spec_from_file_location("verify_webhook", SNIPPET)
    assert spec is not None
    assert spec.loader is not None
    snippet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(snippet)
    return bool(snippet.is_genuine(secret, headers, body))


async def test_the_documented_lines_verify_a_delivery(tmp_path, receiver):
    async with webhook(tmp_path, receiver.url, secret=SECRET) as host:
        await call(host, numbered(3))
    (request,) = receiver.requests
    headers, body = request.headers, request.body
    assert is_genuine(SECRET, headers, body)
    assert not is_genuine(SECRET, headers, body + b" ")
    assert not is_genuine("whsec_" + "A" * 32, headers, body)
    assert not is_genuine(SECRET, {**headers, "webhook-id": "0" * 64}, body)
    sent_at = int(headers["webhook-timestamp"])
    assert not is_genuine(SECRET, {**headers, "webhook-timestamp": str(sent_at + 1)}, body)


def test_an_old_delivery_is_not_genuine_however_well_it_is_signed(monkeypatch):
    headers = module.signature(SecretStr(SECRET), b"{}")
    assert is_genuine(SECRET, headers, b"{}")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)
    assert not is_genuine(SECRET, headers, b"{}")


def test_the_signature_is_the_one_that_the_specification_s_own_library_makes(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1614265330.9)
    assert module.signature(SecretStr(SECRET), b'{"points":[]}') == {
        "webhook-id": "ebaa7b33eb9e11c6693b0835eca01e254b1398f5b093a5c2316f05fa1cca223b",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,vKEeORp8CEJxHbUBX3LhyXsmAp1uTLlpHwqihfk2dL4=",
    }


async def test_a_batch_keeps_its_id_and_another_has_another(tmp_path, receiver):
    receiver.answers = [Answer(500), Answer(503), Answer(429)]
    async with webhook(tmp_path, receiver.url, secret=SECRET) as host:
        ledger = await settled(host, numbered(3))
        assert (ledger.delivered, ledger.retries) == (3, 3)
    async with webhook(tmp_path, receiver.url) as host:
        await settled(host, numbered(3, 1))
    *same, other = receiver.requests
    assert len(same) == 4
    assert len({request.body for request in same}) == 1
    assert len({request.headers["webhook-id"] for request in same}) == 1
    assert other.headers["webhook-id"] != same[0].headers["webhook-id"]
    assert all(is_genuine(SECRET, request.headers, request.body) for request in same)


# What the receiver may answer


async def test_any_success_is_a_delivery(tmp_path, receiver):
    statuses = [200, 201, 202, 204]
    receiver.answers = [Answer(status) for status in statuses]
    async with webhook(tmp_path, receiver.url) as host:
        for _ in statuses:
            await call(host, numbered(2))
    assert len(receiver.requests) == len(statuses)


async def test_what_is_refused_for_good_is_rejected_with_the_reason(tmp_path, receiver):
    statuses = [400, 409, 422]
    receiver.answers = [Answer(status, body=b"no\n  such\x00 thing") for status in statuses]
    async with webhook(tmp_path, receiver.url, {"batch_size": 1}) as host:
        for _ in statuses[1:]:
            with pytest.raises(PermanentDeliveryError, match=r"responded with \d+ no such thing$"):
                await call(host, numbered(1))
        ledger = await settled(host, numbered(1))
        assert "responded with 422 no such thing" in last_error(host)
    assert (ledger.rejected, ledger.retries) == (1, 0)
    assert len(receiver.requests) == len(statuses)


# Large batches


async def test_a_batch_that_is_too_large_is_halved_until_it_fits_and_the_size_is_kept(
    tmp_path, receiver
):
    receiver.limit = 1000
    async with webhook(tmp_path, receiver.url) as host:
        await call(host, numbered(100))
        assert receiver.accepted == list(range(100))
        refused = [request for request in receiver.requests if len(request.body) > 1000]
        assert len(refused[1].body) <= len(refused[0].body) / 2
        before = len(receiver.requests)
        await call(host, numbered(100, 100))
    assert receiver.accepted == list(range(200))
    assert all(len(request.body) <= 1000 for request in receiver.requests[before:])


async def test_who_takes_nothing_of_any_size_makes_no_later_request_smaller(tmp_path, receiver):
    """Kind: what somebody else in the receiver's place says, and what is made of it for good."""
    async with webhook(tmp_path, receiver.url, {"max_attempts": 1}) as host:
        receiver.limit = 0
        with pytest.raises(RetryLaterError, match="responded with 413 .*check url"):
            await call(host, numbered(100))
        assert len(receiver.requests) < 10
        receiver.limit = 1 << 30
        await call(host, numbered(100))
    assert numbers(receiver.requests[-1]) == [*range(100)]


async def test_a_point_that_is_too_large_alone_is_rejected_alone(tmp_path, receiver):
    receiver.limit = 1000
    large = MonitoringPoint("large", 1.0, {}, {"text": "x" * 1000})
    async with webhook(tmp_path, receiver.url) as host:
        ledger = await settled(host, [*numbered(30), large, *numbered(30, 30)])
    assert receiver.accepted == list(range(60))
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (60, 1, 0)


async def test_max_bytes_keeps_batches_from_being_refused(tmp_path, receiver):
    receiver.limit = 1000
    async with webhook(tmp_path, receiver.url, max_bytes=1000) as host:
        await call(host, numbered(100))
    assert receiver.accepted == list(range(100))
    assert all(len(request.body) <= 1000 for request in receiver.requests)
    assert len(receiver.requests) < 10


async def test_what_was_accepted_of_a_batch_is_not_sent_again(tmp_path, receiver):
    receiver.answers = [Answer(), Answer(400), Answer(), Answer(503), Answer(), Answer(0)]
    async with webhook(tmp_path, receiver.url, {"max_attempts": 1000}, max_bytes=1) as host:
        ledger = await settled(host, numbered(6))
    assert [numbers(request) for request in receiver.requests] == [
        [0],
        [1],
        [2],
        [3],
        [3],
        [4],
        [4],
        [5],
    ]
    assert (ledger.delivered, ledger.rejected, ledger.retries) == (5, 1, 2)


@pytest.mark.slow("talks to a stand-in server, in real time")
async def test_pieces_of_a_batch_share_one_limit_of_time(tmp_path, receiver):
    def wait(_request: Request) -> Answer:
        receiver.over.wait(20)
        return Answer()

    receiver.answers = [Answer(), wait]
    async with webhook(tmp_path, receiver.url, timeout=0.3, max_bytes=1) as host:
        points = numbered(3)
        with pytest.raises(PartialDeliveryError, match="2 to be sent again") as caught:
            await call(host, points)
        assert (caught.value.failed, caught.value.rejected) == (points[1:], [])
        assert caught.value.after == 0.0, "no attempt of the batch is used up"


async def test_a_pause_in_the_middle_of_a_batch_is_passed_on(tmp_path, receiver):
    receiver.answers = [Answer(), Answer(429, {"Retry-After": "50"})]
    async with webhook(tmp_path, receiver.url, max_bytes=1) as host:
        points = numbered(4)
        with pytest.raises(PartialDeliveryError) as caught:
            await call(host, points)
    assert (caught.value.failed, caught.value.after) == (points[1:], 50)


@pytest.mark.slow("talks to a stand-in server, in real time")
@given(st.lists(st.integers(1, 60), min_size=1), st.integers(1, 200))
def test_a_piece_is_as_large_as_may_be(sizes, most):
    items = [(numbered(1)[0], b"x" * size) for size in sizes]
    pieces = []
    rest = items
    while rest:
        piece = module.first_piece(rest, most)
        rest = rest[len(piece) :]
        pieces.append(piece)
        body = module.HEAD + b",".join(text for _, text in piece) + module.TAIL
        assert len(body) <= most or len(piece) == 1
        assert not rest or len(body) + 1 + len(rest[0][1]) > most
    assert [item for piece in pieces for item in piece] == items


# Redirects


async def test_a_redirect_is_an_error_that_says_where_to(tmp_path, receiver):
    receiver.answers = [Answer(307, {"Location": "https://new.example:8443/hook?key=sesame"})]
    async with webhook(tmp_path, receiver.url) as host:
        with pytest.raises(RetryLaterError) as caught:
            await call(host, numbered(1))
    assert "responded with 307" in str(caught.value)
    assert "redirect to https://new.example:8443, not followed; change url" in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_that_keeps_the_body_is_followed_if_configured(tmp_path, receiver, status):
    receiver.answers = [Answer(status, {"Location": "/elsewhere"})]
    async with webhook(tmp_path, receiver.url, follow_redirects=True, secret=SECRET) as host:
        await call(host, numbered(2))
    first, second = receiver.requests
    assert (second.target, second.body) == ("/elsewhere", first.body)
    assert is_genuine(SECRET, second.headers, second.body)


async def test_a_redirect_that_would_lose_the_body_is_not_followed(tmp_path, receiver):
    statuses = [301, 302, 303]
    receiver.answers = [Answer(status, {"Location": "/elsewhere"}) for status in statuses]
    async with webhook(tmp_path, receiver.url, follow_redirects=True) as host:
        for _ in statuses:
            with pytest.raises(RetryLaterError, match="not followed"):
                await call(host, numbered(1))
    assert len(receiver.requests) == len(statuses)


async def test_a_redirect_to_another_host_is_not_followed(tmp_path, receiver):
    elsewhere = receiver.url.replace("127.0.0.1", "localhost")
    receiver.answers = [Answer(308, {"Location": elsewhere})]
    async with webhook(tmp_path, receiver.url, follow_redirects=True) as host:
        with pytest.raises(RetryLaterError, match="redirect to http://localhost"):
            await call(host, numbered(1))
    assert len(receiver.requests) == 1


async def test_a_loop_of_redirects_ends(tmp_path, receiver):
    receiver.answers = [Answer(307, {"Location": "/hook"})] * 50
    async with webhook(tmp_path, receiver.url, follow_redirects=True) as host:
        with pytest.raises(RetryLaterError):
            await call(host, numbered(1))
    assert len(receiver.requests) == 1 + module.MOST_REDIRECTS


@pytest.mark.parametrize(
    ("old", "new", "safe"),
    [
        ("https://a/x", "https://a/y", True),
        ("http://a/x", "https://a/x", True),
        ("https://a/x", "http://a/x", False),
        ("http://a/x", "http://b/x", False),
    ],
)
def test_a_redirect_never_leaves_https(old, new, safe):
    reply = httpx.Response(308, request=httpx.Request("POST", old))
    reply.next_request = httpx.Request("POST", new)
    assert module.keeps_safe(reply) is safe


# Answers that are too long


def endless(file: BinaryIO) -> None:
    while True:
        file.write(b"x" * 65_536)


async def test_an_endless_answer_is_read_and_shown_only_in_part(tmp_path, receiver, monkeypatch):
    receiver.answers = [Answer(400, body=b"first words ", after=endless)]
    async with webhook(tmp_path, receiver.url) as host:
        monkeypatch.setattr(host.module("webhook"), "READ_SECONDS", 1000)
        with pytest.raises(
            PermanentDeliveryError, match="responded with 400 first words x"
        ) as caught:
            await call(host, numbered(1))
        assert len(str(caught.value)) < 300


@pytest.mark.slow("talks to a stand-in server, in real time")
@pytest.mark.parametrize("kind", ["endless", "stalled", "cut off", "no gzip", "bomb"])
async def test_a_batch_is_accepted_whatever_follows_the_status(
    tmp_path, receiver, kind, monkeypatch
):
    zipped = {"Content-Encoding": "gzip"}
    receiver.answers = {
        "endless": [Answer(200, after=endless)],
        "stalled": [Answer(200, body=b"th", after=lambda _: receiver.over.wait(20))],
        "cut off": [Answer(200, {"Transfer-Encoding": "chunked"}, b"5\r\nth", lambda _: None)],
        "no gzip": [Answer(200, zipped, b"this is no gzip")],
        "bomb": [Answer(200, zipped, gzip.compress(bytes(1 << 24)))],
    }[kind]
    async with webhook(tmp_path, receiver.url, timeout=5) as host:
        monkeypatch.setattr(host.module("webhook"), "READ_SECONDS", 0.2)
        await call(host, numbered(1))
        await call(host, numbered(1))
    assert len(receiver.requests) == 2


@pytest.mark.slow("talks to a stand-in server, in real time")
async def test_a_deadline_that_passes_while_an_answer_is_read_changes_nothing(
    tmp_path, receiver, monkeypatch
):
    def stall(_: BinaryIO) -> None:
        receiver.over.wait(20)

    receiver.answers = [Answer(200, after=stall)]
    async with webhook(tmp_path, receiver.url, timeout=0.2) as host:
        monkeypatch.setattr(host.module("webhook"), "READ_SECONDS", 0.4)
        await call(host, numbered(1))


# TLS


# Configuration


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "url: field required"),
        ({"url": "ftp://sesame/"}, "a URL is like"),
        ({"url": "sesame"}, "a URL is like"),
        ({"url": "http:///sesame"}, "a URL is like"),
        ({"url": "https://user:sesame@a/"}, "a password belongs into headers"),
        ({"url": "http://a:sesame/"}, "a URL is like"),
        ({"url": "https://a/#sesame"}, "a URL is like"),
        ({"headers": {"Bad Name": "sesame"}}, "is no header's name"),
        ({"headers": {"Webhook-Id": "sesame"}}, "or one that the plugin sets"),
        ({"headers": {"content-length": "sesame"}}, "or one that the plugin sets"),
        ({"headers": {"X": "sesame\r\nY: 1"}}, "printable ASCII"),
        ({"headers": {"X": "sésame"}}, "printable ASCII"),
        ({"headers": {"X": ""}}, "printable ASCII"),
        ({"secret": "sesame"}, "openssl rand"),
        ({"secret": "whsec_c2VzYW1l"}, "openssl rand"),
        ({"secret": "whsec_" + "!" * 40}, "openssl rand"),
        ({"ca_file": "/nowhere/sesame.pem"}, "ca_file: path does not point to a file"),
        ({"timeout": 0}, "timeout"),
        ({"colour": "sesame"}, "colour"),
    ],
)
def test_a_wrong_configuration_is_refused_without_showing_secrets(tmp_path, config, message):
    whole = {"url": "https://a/", **config} if config else {}
    settings = host_settings(tmp_path, ["webhook"], {"webhook": {"config": whole}})
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(settings)
    assert message in str(caught.value)
    assert "sesame" not in str(caught.value).replace("sesame.pem", "")


async def test_a_ca_file_without_certificates_is_named(tmp_path):
    path = tmp_path / "empty.pem"
    path.write_text("nothing")
    async with webhook(tmp_path, "https://a/", wait=False, ca_file=str(path)) as host:
        assert f"ca_file {path} cannot be used" in await why_not(host)


# Secrets


@pytest.mark.process
def test_secrets_are_shown_nowhere(tmp_path):
    """Not even when the receiver repeats them in its answers."""

    def echo(request: Request) -> Answer:
        said = " ".join([request.target, *request.headers.values(), "for /T00001 or sesame-open"])
        return Answer(400 if len(receiver.requests) % 2 else 500, body=f"no: {said}".encode())

    with receiving() as receiver:
        receiver.answers = [echo] * 1000
        url = receiver.url + "/T00001/B00002?key=querykey"
        toml = f"""
            [plugins.webhook]
            flush_interval = 0.05
            retry_initial = 0.01
            retry_max = 0.01
            circuit_failures = 1000

            [plugins.webhook.config]
            url = "{url}"
            secret = "{SECRET}"

            [plugins.webhook.config.headers]
            Authorization = "Bearer sesame-open"
            X-Api-Key = "qwertyuiop"
        """
        arguments = ["--log-level", "DEBUG"]
        with ServiceProcess(tmp_path, ["webhook"], toml, arguments=arguments) as service:
            service.wait_until_ready()
            service.wait_until(lambda: service.get("/livez") and len(receiver.requests) > 5)
            pages = [service.get(path).text for path in ("/plugins", "/plugins/webhook", "/readyz")]
            assert service.stop() in {0, 4}
            shown = service.output + "".join(pages)
        assert receiver.requests[0].headers["authorization"] == "Bearer sesame-open"
    assert "responded with 400 no: " in shown
    assert "responded with 500 no: " in shown
    assert "responded with" in pages[1]
    assert service.receipt_of("webhook")["state"] == "stopped"
    for secret in ("T00001", "B00002", "querykey", "sesame", "qwertyuiop", SECRET[6:]):
        assert secret not in shown, secret


async def test_events_of_streams_are_beside_the_points_and_a_picture_may_be_too_large(tmp_path):
    """Kind: a receiver that takes no picture gets the event all the same, by itself and without it."""
    with receiving() as receiver:
        table = {"events": [*ITEMS], "flush_interval": 0.05}
        async with webhook(tmp_path, receiver.url, table) as host:
            for name, item in ITEMS.items():
                host.host.publisher.publish(name, [item])
            await until(lambda: receiver.requests)
            receiver.limit = 1100
            host.host.publisher.publish("analytics_event", [SEEN])
            part = await host.receipt_of("webhook")
    assert part.points["delivered"] == 4
    whole, *_, last = [json.loads(request.body) for request in receiver.requests]
    assert whole["points"] == documents(POINT)
    assert whole["events"] == documents(CHANGE, SEEN)
    assert last == {"points": [], "events": documents(SEEN.without_picture())}
