"""Replies that say nothing of the points: sinks over HTTP keep them, with one request an attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lva.client.status import read_status
from lva.client.target import Target
from tests.plugins.metric_servers import Answer, StandIn, standing_in
from tests.support import RunningHost, ServiceProcess, numbered, running_host, until
from tests.web.test_openapi import check

#: Of each sink its configuration for a receiver's URL, and the good answer.
SINKS = {
    "influx": lambda url: {"url": url, "bucket": "b"},
    "otlp": lambda url: {"url": url},
    "webhook": lambda url: {"url": url},
    "request_monitoring_plugin_example": lambda url: {"url": url},
}
TLS: Answer = (
    400,
    {"Content-Type": "text/plain"},
    b"Client sent an HTTP request to an HTTPS server.\n",
)
PAGE: Answer = (400, {"Content-Type": "text/html"}, b"<html><h1>400 Bad request</h1></html>")
PAGE_OF_SUCCESS: Answer = (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><h1>It works!</h1>")
PAGE_OF_FAILURE: Answer = (500, {"Content-Type": "text/html"}, b"<html><h1>500 Oops</h1></html>")
REDIRECT: Answer = (302, {"Location": "/login"}, b"")
GOOD: Answer = (200, {}, b"")


@pytest.fixture
def receiver() -> Iterator[StandIn]:
    with standing_in() as server:
        yield server


def table(name: str, url: str) -> dict[str, Any]:
    fast = {
        "retry_initial": 0.001,
        "retry_max": 0.001,
        "backoff_initial": 0.01,
        "backoff_max": 0.01,
    }
    # Far fewer attempts than there will be: none of them may count.
    limits = {"max_attempts": 2, "circuit_failures": 10_000, "flush_interval": 0.0}
    return {name: {"config": SINKS[name](url), **fast, **limits}}


def ledger(host: RunningHost, name: str) -> Any:
    (delivery,) = host.life(name).deliveries.values()
    return delivery.ledger


@pytest.mark.slow("talks to a stand-in server, in real time")
@pytest.mark.parametrize(
    "answer",
    [TLS, PAGE, PAGE_OF_SUCCESS, PAGE_OF_FAILURE, REDIRECT],
    ids=["tls", "page", "page of success", "page of failure", "redirect"],
)
@pytest.mark.parametrize("name", SINKS)
async def test_points_are_kept_until_the_receiver_is_the_right_one(
    tmp_path: Any, receiver: StandIn, name: str, answer: Answer
) -> None:
    """Kind: whatever somebody says who is not the receiver, from the start and later; success, too."""
    status = str(answer[0])
    receiver.answer = lambda _: answer
    async with running_host(tmp_path, {name: None}, table(name, receiver.url), wait=False) as host:
        if name != "webhook":  # which asks nothing when it initializes
            await until(lambda: status in host.host.not_ready().get(name, ""))
        receiver.answer = lambda _: GOOD
        await host.wait_until_running(20)
        receiver.requests.clear()
        receiver.answer = lambda _: answer
        host.publish(numbered(20))
        account = ledger(host, name)
        await until(lambda: account.retries > 5)
        attempts = account.retries
        assert attempts <= len(receiver.requests) <= attempts + 2
        (delivery,) = host.life(name).deliveries.values()
        assert status in delivery.last_error
        receiver.answer = lambda _: GOOD
        await until(lambda: account.delivered == 20)
        assert (account.rejected, account.lost) == (0, 0)


TOKEN = "a-token-that-nobody-guesses-0123456789"
CERTIFICATE = Path(__file__).with_name("localhost.pem")


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
        config = {"influx": SINKS["influx"](receiver.url), "webhook": SINKS["webhook"](at_tls)}
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
