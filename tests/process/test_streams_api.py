"""The routes of streams against their own description, with requests that follow one another."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.redis_server import RedisServer
from tests.support import ServiceProcess

pytestmark = [pytest.mark.process, pytest.mark.slow("starts the service and real workers")]

#: A definition may be of the right form and yet ask for what is not there: 400. What is full is 409.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409, 412, 503]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""
#: Most generated sources are none. With one that is, streams are made, and what follows is done to them.
HOOKS = """
import schemathesis

@schemathesis.hook
def map_case(context, case):
    body = case.body
    if case.operation.method.upper() in {"POST", "PUT"} and isinstance(body, dict) and "source" in body:
        if case.meta is None or case.meta.generation.mode.is_positive:
            body |= {"source": "test:?size=16x16&rate=10", "analytics": [{"name": "motion"}]}
            for name in ("roi", "droi", "time_zone", "schedule", "rate", "memory_limit"):
                body.pop(name, None)
            for each in body.get("callbacks", []):
                each |= {"url": "http://127.0.0.1:1", "headers": {}, "params": {}}
                each.get("conditions", {}).pop("where", None)
    return case
"""
TOML = "[plugins.streams.config]\nmax_streams = 8\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    path = tmp_path_factory.mktemp("api")
    write_hooks(path)
    with ServiceProcess(path, ["streams", "motion", "callbacks"], TOML) as service:
        yield service.wait_until_ready()


def write_hooks(path: Path) -> None:
    """Write what schemathesis is told of these routes."""
    (path / "schemathesis.toml").write_text(CONFIG)
    (path / "hooks.py").write_text(textwrap.dedent(HOOKS))


def test_the_document_says_what_streams_take_and_give(service):
    found = service.get("/openapi.json").json()["paths"]
    post = found["/streams"]["post"]
    body = post["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["name", "source"]
    assert body["properties"]["rate"]["anyOf"][0]["properties"]["unit"]["enum"] == [
        "fps", "frame", "key",
    ]  # fmt: skip
    assert post["security"]
    links = {link["operationId"] for link in post["responses"]["201"]["links"].values()}
    assert {"get_streams_stream_id", "delete_streams_stream_id", "patch_streams_stream_id"} <= links
    assert "security" not in found["/streams"]["get"]


@pytest.mark.soak
@pytest.mark.timeout(100)
def test_schemathesis_finds_nothing_at_streams(service):
    made = asked(service, "^/(streams|analytics|callbacks)", 8)
    assert made, "nothing was done to a stream that is there"


@pytest.mark.soak
@pytest.mark.timeout(100)
def test_schemathesis_finds_nothing_at_a_fleet(tmp_path):
    with RedisServer(tmp_path, "--appendfsync", "no") as server:
        fleet = f'[plugins.streams.config.fleet]\nurl = "{server.url}"\naddress = "http://a"\nlease = 2\n'
        write_hooks(tmp_path)
        with ServiceProcess(tmp_path, ["streams", "motion"], TOML + fleet) as service:
            service.wait_until_ready()
            asked(service, "^/(fleet|streams)", 1)


def asked(service: ServiceProcess, paths: str, examples: int) -> list[dict[str, Any]]:
    """Let schemathesis find nothing at some paths; return the records of streams in progress."""
    arguments = ["--seed", "1", "--phases", "fuzzing,stateful", "--max-examples", str(examples)]
    arguments += ["--no-color", "--warnings", "off", "--include-path-regex", paths]
    arguments += ["--exclude-path", "/streams/live"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{service.url}/openapi.json",
            *arguments,
        ],
        cwd=service._tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(service._tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [record for record in service.records if record["level"] in {"ERROR", "CRITICAL"}]
    return [record for record in service.records if "in_progress: frames" in record["message"]]
