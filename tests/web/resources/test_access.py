"""Who may act on plugins and see their details; over real HTTP."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio

from lva.host.life.states import State
from lva.settings import Settings
from lva.web.problems import HttpProblem
from lva.web.resources import access
from lva.web.resources.access import Access
from lva.web.resources.buckets import Buckets
from lva.web.resources.streams import Shutdown
from lva.web.resources.table import RESOURCES, Resources
from tests.support import RunningHost, running_host
from tests.telling import serving

TOKEN = "t0ken-that-is-long-enough"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOOPBACK = "http://127.0.0.1:5240"
EVERYWHERE = "http://0.0.0.0:5240"
PLUGIN = """
    class P(BaseBackgroundPlugin):
        pass
"""
FAILING = """
    class Failing(BaseBackgroundPlugin):
        async def initialize(self):
            raise OSError("the camera at 10.0.0.7 is gone")
"""


@asynccontextmanager
async def service(
    tmp_path: Any,
    address: str | None,
    token: str | None = None,
    sources: dict[str, str] | None = None,
    tables: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[RunningHost, httpx.AsyncClient]]:
    """Serve plugins, the resources and the actions as if listening at an address."""
    sources = {"p": PLUGIN, **(sources or {})}
    async with running_host(tmp_path, sources, tables, wait=False) as host:
        await host.wait_for("p", State.RUNNING)
        allowed = Access(Settings(admin_token=token), address)
        Resources(host.host, allowed, Shutdown())
        async with serving(host) as client:
            yield host, client


async def act(client: httpx.AsyncClient, verb: str = "restart", **headers: str) -> httpx.Response:
    return await client.post(f"/plugins/p/{verb}", headers=headers)


async def test_actions_on_the_loopback_interface_need_no_token(tmp_path):
    async with service(tmp_path, LOOPBACK) as (host, client):
        answer = await act(client, "stop")
        assert (answer.status_code, answer.json()["state"]) == (200, "stopped")
        assert answer.json()["actions"] == ["start", "restart", "reload"]
        ready = (await client.get("/readyz")).json()
        assert ready == {"status": "ready", "plugins": [], "stopped": ["p"], "open_circuits": []}
        assert (await act(client, "stop")).status_code == 409
        answer = await act(client, "start")
        assert (answer.status_code, answer.json()["state"]) == (200, "running")
        answer = await act(client, "restart")
        assert answer.json()["history"][-1]["state"] == "running"
        assert host.life("p").record.lives == 3
        answer = await client.post("/plugins/q/stop")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "unknown_plugin")


@pytest.mark.parametrize("path", [item.path for item in RESOURCES if item.verb == "POST"])
async def test_actions_are_posts_and_listed(tmp_path, path):
    async with service(tmp_path, LOOPBACK) as (_, client):
        answer = await client.get(path.replace("<name>", "p"))
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST, OPTIONS")
        assert path in (await client.get("/")).json()["actions"]


@pytest.mark.parametrize("address", [EVERYWHERE, "http://[::]:1", "http://192.0.2.1:80", None])
async def test_without_a_token_actions_are_off_elsewhere(tmp_path, address):
    async with service(tmp_path, address) as (host, client):
        for headers in ({}, BEARER):
            answer = await act(client, **headers)
            assert answer.status_code == 403
            assert answer.json()["error_code"] == "admin_token_not_set"
            assert "set LUNA_VIDEO_AGENT_ADMIN_TOKEN" in answer.json()["detail"]
            known = "it cannot know where" not in answer.json()["detail"]
            assert known == (address is not None)
        assert host.life("p").record.lives == 1


@pytest.mark.parametrize("address", [LOOPBACK, EVERYWHERE, None, "unix:/lva.sock"])
async def test_with_a_token_it_has_to_be_sent_everywhere(tmp_path, address):
    async with service(tmp_path, address, TOKEN) as (host, client):
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer tökén"},
        ):
            answer = await client.post(
                "/plugins/p/restart",
                headers={key: value.encode("latin-1") for key, value in headers.items()},
            )
            assert answer.status_code == 401, headers
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lva"'
        assert host.life("p").record.lives == 1
        assert (await act(client, **BEARER)).status_code == 200
        assert (await act(client, Authorization=f"bearer  {TOKEN}")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[broken"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_pages_of_other_origins_are_refused(tmp_path, headers, token):
    async with service(tmp_path, LOOPBACK, token) as (host, client):
        answer = await act(client, **headers, **BEARER)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "foreign_origin")
        assert host.life("p").record.lives == 1


async def test_the_service_s_own_pages_may_act(tmp_path):
    async with service(tmp_path, LOOPBACK) as (_, client):
        own = str(client.base_url).rstrip("/")
        answer = await act(client, **{"Origin": own, "Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 200
        named = own.replace("127.0.0.1", "LOCALHOST")
        headers = {"Origin": named.lower(), "Host": named.removeprefix("http://")}
        assert (await act(client, **headers)).status_code == 200


@pytest.mark.parametrize(
    "host_name", ["evil.example", "evil.example:5240", "127.0.0.1.evil.example", "[x", ""]
)
async def test_a_name_that_was_made_to_lead_here_is_refused(tmp_path, host_name):
    async with service(tmp_path, LOOPBACK) as (host, client):
        answer = await act(client, Host=host_name)
        assert answer.status_code in {400, 403}
        if answer.status_code == 403:
            assert answer.json()["error_code"] == "foreign_host"
        assert host.life("p").record.lives == 1
        assert (await client.get("/plugins/p", headers={"Host": host_name})).json().get(
            "reason"
        ) is None


@pytest.mark.parametrize("address", [LOOPBACK, "unix:/lva.sock"])
@pytest.mark.parametrize("header", access._PROXY_HEADERS)
async def test_what_comes_through_a_proxy_is_not_local(tmp_path, header, address):
    async with service(tmp_path, address) as (_, client):
        answer = await act(client, **{header: "203.0.113.9"})
        assert (answer.status_code, answer.json()["error_code"]) == (403, "admin_token_not_set")
    async with service(tmp_path, address, TOKEN) as (_, client):
        assert (await act(client, **{header: "203.0.113.9"}, **BEARER)).status_code == 200


async def test_wrong_tokens_are_limited_and_lock_nobody_out_who_has_the_right_one(
    tmp_path, caplog, monkeypatch
):
    burst, _rate = access.LIMIT
    monkeypatch.setattr(access, "LIMIT", (burst, 0.001))  # none comes back on a slow machine
    wrong = {"Authorization": "Bearer wrong-wrong-wrong-wrong"}
    async with service(tmp_path, EVERYWHERE, TOKEN) as (_, client):
        statuses = [(await act(client, **wrong)).status_code for _ in range(burst + 1)]
        assert statuses == [401] * burst + [429]
        assert (await act(client, **BEARER)).status_code == 200, "it may be behind the same proxy"
        assert (await client.get("/plugins/p", headers=BEARER)).json()["settings"]
        answer = await client.get("/plugins", headers=wrong)
        assert answer.status_code == 429, (
            "the right token in between changes nothing for wrong ones"
        )
        assert int(answer.headers["Retry-After"]) > 0
    assert TOKEN not in caplog.text
    assert "wrong-wrong" not in caplog.text


async def test_wrong_tokens_are_told_of_wherever_they_are_sent(tmp_path, caplog, autojump_clock):
    wrong = {"Authorization": "Bearer wrong-wrong-wrong-wrong"}
    settings = Access(Settings(admin_token=TOKEN), EVERYWHERE)
    request = SimpleNamespace(
        headers=wrong, method="GET", path="/plugins/p/log", scope={"client": ("192.0.2.7", 1)}
    )
    for check in (settings.check_details, settings.sees_details) * 3:
        with pytest.raises(HttpProblem):
            check(request)
    await trio.sleep(11)
    with pytest.raises(HttpProblem):
        settings.check_action(request)
    start = "GET /plugins/p/log from 192.0.2.7 was refused: This is not the admin token."
    end = " (6 wrong tokens since the last such record)"
    assert [record.getMessage() for record in caplog.records] == [start, start + end]


async def test_actions_are_limited(tmp_path):
    async with service(tmp_path, LOOPBACK) as (_, client):
        burst, rate = access.LIMIT
        begun = trio.current_time()
        statuses = [
            (await client.post("/plugins/none/stop")).status_code for _ in range(burst + 20)
        ]
        least = 20 - (trio.current_time() - begun) * rate - 1
        assert statuses[:burst] == [404] * burst
        assert statuses.count(429) >= least


async def test_details_need_the_token_too(tmp_path):
    hidden = ("reason", "last_error", "file")
    tables = {
        "failing": {"config": {"password": "hunter2hunter2", "url": "http://u:pw@x/", "n": [1]}}
    }
    sources = {"failing": FAILING}
    for token, address in ((TOKEN, LOOPBACK), (TOKEN, EVERYWHERE), (None, EVERYWHERE)):
        async with service(tmp_path, address, token, sources, tables) as (host, client):
            await host.wait_for("failing", State.BACKOFF)
            one = (await client.get("/plugins/failing")).json()
            assert one["state"] == "backoff"
            assert [one[key] for key in hidden] == [None] * 3
            assert {step["reason"] for step in one["history"]} == {None}
            listed = (await client.get("/plugins")).json()["plugins"]
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["reasons"]) == (503, {"failing": "backoff"})
            for text in (json.dumps(one), json.dumps(listed), ready.text):
                assert "camera" not in text
                assert "settings" not in text
            tasks = await client.get("/plugins/failing/tasks")
            assert tasks.status_code == (403 if token is None else 401)
            if token is None:
                continue
            assert (await client.get("/plugins/failing/tasks", headers=BEARER)).json()["plugin"]
            one = (await client.get("/plugins/failing", headers=BEARER)).json()
            assert "camera" in one["last_error"]
            assert one["settings"]["restart"] == "on-failure"
            assert one["config"] == {
                "Failing": {"password": "***", "url": "http://***@x/", "n": [1]}
            }
            ready = await client.get("/readyz", headers=BEARER)
            assert "camera" in ready.json()["reasons"]["failing"]
            ready = await client.get("/readyz", headers={"Authorization": "Bearer wrong"})
            assert (ready.status_code, ready.json()["reasons"]) == (503, {"failing": "backoff"})
            wrong = {"Authorization": f"Bearer {TOKEN}x"}
            assert (await client.get("/plugins", headers=wrong)).status_code == 401


async def test_actions_are_audited(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lva.admin")
    async with service(tmp_path, LOOPBACK, TOKEN) as (_, client):
        await act(client, "stop", **BEARER)
        await act(client, "stop", **BEARER)
        await act(client)
    records = [record for record in caplog.records if record.name == "lva.admin"]
    needs = "This needs the admin token, as Authorization: Bearer TOKEN."
    assert [record.getMessage() for record in records] == [
        "stop of plugin 'p' by 127.0.0.1: done",
        "stop of plugin 'p' by 127.0.0.1: refused: plugin 'p' has ended already: it is stopped",
        f"POST /plugins/p/restart from 127.0.0.1 was refused: {needs}",
    ]
    assert (records[0].client, records[0].action, records[0].target) == ("127.0.0.1", "stop", "p")
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_nobody_writes_lines_of_the_log(tmp_path, caplog, token):
    caplog.set_level(logging.INFO, "lva.admin")
    forged = "x%0A12:00:00 INFO lva.admin  stop of plugin 'p' by root%1B[2J" + "y" * 5000
    async with service(tmp_path, LOOPBACK, token) as (_, client):
        await client.post(f"/plugins/{forged}/stop")
    (record,) = [record for record in caplog.records if record.name == "lva.admin"]
    message = record.getMessage()
    assert message.isprintable()
    assert len(message) < 1000


async def test_buckets_fill_again_and_forget_the_oldest(autojump_clock):
    buckets = Buckets(2, 0.5)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 2, 2]
    assert buckets.take("b") == 0
    await trio.sleep(1)
    assert buckets.take("a") == 1
    await trio.sleep(1)
    assert [buckets.take("a"), buckets.take("a")] == [0, 2]
    for number in range(5000):
        buckets.take(str(number))
    assert len(buckets._levels) == 1024
