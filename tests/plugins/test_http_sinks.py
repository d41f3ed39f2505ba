"""Sinks over HTTP: what is not the points' fault keeps them, with one request an attempt.

It is for `tests/host/delivery` to prove that the host sends them again, after the pause that was asked for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from lva import MonitoringPoint, PartialDeliveryError, RetryLaterError
from lva.client.status import read_status
from lva.client.target import Target
from lva.host.life.states import State
from tests.plugins.metric_servers import Answer, StandIn, standing_in
from tests.plugins.sinks import call, ledger_of, running_sink, settled, why_not
from tests.support import RunningHost, ServiceProcess, free_port, numbered, until
from tests.web.resources.test_openapi import check

#: Of each sink its configuration, but for the receiver's URL.
SINKS: dict[str, dict[str, Any]] = {
    "influx": {"bucket": "b"},
    "otlp": {},
    "webhook": {},
    "request_monitoring_plugin_example": {},
}
#: The webhook asks nothing when it initializes.
ASK_FIRST = [name for name in SINKS if name != "webhook"]
TLS: Answer = (
    400,
    {"Content-Type": "text/plain"},
    b"Client sent an HTTP request to an HTTPS server.\n",
)
HTML = {"Content-Type": "text/html"}
PAGE: Answer = (400, HTML, b"<html><h1>400 Bad request</h1></html>")
#: What somebody says who is not the receiver, or is too busy; success, too.
ELSEWHERE: list[Answer] = [
    TLS,
    PAGE,
    (200, HTML, b"<!DOCTYPE html><h1>It works!</h1>"),
    (500, HTML, b"<html><h1>500 Oops</h1></html>"),
    (302, {"Location": "/login"}, b""),
    *(
        (status, {}, b"no such thing")
        for status in (
            0, 301, 401, 402, 403, 404, 405, 406, 407, 408, 410, 411, 415, 421, 425, 426, 429, 431, 451, 497,
            502, 503, 504,
        )
    ),
]  # fmt: skip
GOOD: Answer = (200, {}, b"")
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def receiver() -> Iterator[StandIn]:
    with standing_in() as server:
        server.answer = lambda _: GOOD
        yield server


@pytest.fixture(params=SINKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sink(
    tmp_path: Path, name: str, url: str, wait: bool = True, **config: Any
) -> AbstractAsyncContextManager[RunningHost]:
    """Run a sink; of its points' attempts far fewer are allowed than there will be."""
    table = {"max_attempts": 2, "circuit_failures": 10_000}
    return running_sink(tmp_path, name, {"url": url, **SINKS[name], **config}, wait, table)


async def kept(host: RunningHost, points: list[MonitoringPoint]) -> Any:
    """Hand the sink points; return its error, by which all are sent again and no attempt counts."""
    with pytest.raises((RetryLaterError, PartialDeliveryError)) as caught:
        await call(host, points)
    error = caught.value
    if isinstance(error, PartialDeliveryError):
        assert (error.failed, error.rejected) == (points, [])
        assert error.after is not None
    return error


@pytest.mark.slow("each wrong receiver is tried in real time")
async def test_points_are_kept_until_the_receiver_is_the_right_one(tmp_path, receiver, name):
    async with sink(tmp_path, name, receiver.url) as host:
        receiver.requests.clear()
        for number, answer in enumerate(ELSEWHERE, 1):
            receiver.answer = lambda _, answer=answer: answer
            said = str(await kept(host, numbered(20)))
            assert str(answer[0] or "") in said
            assert "(check" in said or answer[0] not in {401, 403, 404, 405}
            assert len(receiver.requests) == number
        host.publish(numbered(20))
        account = ledger_of(host)
        await until(lambda: account.retries > 5)
        receiver.answer = lambda _: GOOD
        await until(lambda: account.delivered == 20)
        assert (account.rejected, account.lost) == (0, 0)


@pytest.mark.parametrize("answer", ELSEWHERE[:5], ids=["TLS", "page", "success", "failure", "away"])
@pytest.mark.parametrize("name", ASK_FIRST)
async def test_a_receiver_that_is_another_one_is_known_before_the_first_point(
    tmp_path, receiver, name, answer
):
    receiver.answer = lambda _: answer
    async with sink(tmp_path, name, receiver.url, wait=False) as host:
        assert str(answer[0]) in await why_not(host)
        receiver.answer = lambda _: GOOD
        await host.wait_for(name, State.RUNNING, within=20)


async def test_points_wait_for_a_receiver_that_comes_later(tmp_path, name):
    port = free_port()
    async with sink(tmp_path, name, f"http://127.0.0.1:{port}", wait=False) as host:
        host.publish(numbered(5))
        account = ledger_of(host)
        await until(lambda: account.retries > 2 or host.states(name).count("backoff") > 2)
        with standing_in(port) as receiver:
            receiver.answer = lambda _: GOOD
            await until(lambda: account.delivered == 5)
        assert (account.rejected, account.lost) == (0, 0)


async def test_a_receiver_that_does_not_answer_in_time_is_asked_again(tmp_path, receiver, name):
    over = threading.Event()

    def answer(_: Any) -> Answer:
        over.wait(20)
        return GOOD

    async with sink(tmp_path, name, receiver.url, timeout=0.2) as host:
        receiver.answer = answer
        with trio.fail_after(5):
            said = str(await kept(host, numbered(2)))
        over.set()
        assert "within 0.2 s" in said or "ReadTimeout" in said
        await call(host, numbered(2))


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("86400", 300), ("soon", None)])
async def test_a_pause_that_is_asked_for_is_passed_on_within_bounds(
    tmp_path, receiver, name, value, seconds
):
    async with sink(tmp_path, name, receiver.url) as host:
        receiver.answer = lambda _: (503, {"Retry-After": value}, b"")
        error = await kept(host, numbered(2))
    assert (error.after or None) == seconds


async def test_there_is_one_connection_and_no_proxy_of_the_environment(
    tmp_path, receiver, name, monkeypatch
):
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    async with sink(tmp_path, name, receiver.url) as host:
        for _ in range(5):
            await call(host, numbered(1))
    assert (len(receiver.requests), receiver.connections) == (5 + (name in ASK_FIRST), 1)


@pytest.mark.parametrize("name", ["influx", "otlp", "webhook"])
async def test_a_certificate_is_checked_and_is_for_certain_hosts(tmp_path, name, monkeypatch):
    async def said(url: str, **config: Any) -> str:
        async with sink(tmp_path, name, url, wait=False, **config) as host:
            if name in ASK_FIRST:
                return await why_not(host)
            await host.wait_for(name, State.RUNNING, within=20)
            return str(await kept(host, numbered(1)))

    with standing_in(certificate=CERTIFICATE) as server:
        server.answer = lambda _: GOOD
        assert "CERTIFICATE_VERIFY_FAILED" in await said(server.url)
        trusting = {"ca_file": str(CERTIFICATE)} if name == "webhook" else {}
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        other_name = server.url.replace("localhost", "127.1")
        assert "certificate is not valid for '127.1'" in await said(other_name, **trusting)
        assert server.requests == []
        async with sink(tmp_path, name, server.url, **trusting) as host:
            await call(host, numbered(3))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("influx", "text/plain; charset=utf-8"), ("otlp", "application/x-protobuf")],
)
async def test_requests_are_compressed(tmp_path, receiver, name, kind, compress):
    async with sink(tmp_path, name, f"{receiver.url}/below/", gzip=compress) as host:
        await settled(host, numbered(100))
    request = receiver.requests[-1]
    assert request.path.startswith("/below/")
    assert request.headers.get("Content-Encoding") == ("gzip" if compress else None)
    assert request.headers["Content-Type"] == kind
    assert request.body.count(b"numbers") >= 100
    assert (len(request.raw) < len(request.body) / 4) == compress


TOKEN = "a-token-that-nobody-guesses-0123456789"


def ready(process: ServiceProcess, **headers: str) -> Any:
    """Return what `/readyz` says, which is 200 all the time."""
    response = process.get("/readyz", headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.process
def test_a_receiver_that_is_not_reached_is_named_on_readyz_which_stays_200(
    tmp_path: Path, receiver: StandIn
) -> None:
    """Kind: a plugin that runs and delivers nothing; `http://` to a TLS port among the reasons for it."""
    receiver.answer = lambda _: GOOD
    host = "retry_max = 0.001\nretry_initial = 0.001\ncircuit_failures = 2\ncircuit_pause = 600"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with standing_in(certificate=CERTIFICATE) as other:
        at_tls = other.url.replace("https", "http")
        config = {"influx": {"url": receiver.url, "bucket": "b"}, "webhook": {"url": at_tls}}
        toml = "".join(
            f"[plugins.{name}]\n{host}\n[plugins.{name}.config]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            for name, values in config.items()
        )
        env = {"LUNA_VIDEO_AGENT_ADMIN_TOKEN": TOKEN}
        with ServiceProcess(tmp_path, ["influx", "webhook"], toml, env) as process:
            process.wait_until_ready()
            receiver.answer = lambda _: TLS
            # Each request of these is a point.
            process.wait_until(lambda: len(ready(process)["open_circuits"]) == 2)
            found = ready(process, **bearer)
            check(process.get("/openapi.json").json(), "Ready", found)
            assert all(item["reason"] is None for item in ready(process)["open_circuits"])
            assert found["plugins"] == ["influx", "webhook"]
            influx, webhook = found["open_circuits"]
            assert (influx["plugin"], influx["class"]) == ("influx", "Influx")
            assert (webhook["plugin"], webhook["class"]) == ("webhook", "Webhook")
            assert "HTTPS server" in influx["reason"]
            assert "handleEvent" in webhook["reason"]
            for item in (influx, webhook):
                assert 0 < item["next_probe"] <= 600
                assert 0 <= time.time() - datetime.fromisoformat(item["since"]).timestamp() < 60
            receiver.answer = lambda _: GOOD
            process.request("POST", "/plugins/influx/restart", headers=bearer)
            process.wait_until(
                lambda: [item["plugin"] for item in ready(process)["open_circuits"]] == ["webhook"]
            )
            account = process.plugin("influx")["ledger"]
            assert (account["rejected"], account["dropped"]) == (0, {})
            assert read_status(Target(process.url))["open_circuits"][0]["plugin"] == "webhook"
