"""`lva streams`, against the real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from lva.client.streams import happenings, line_of
from lva.client.target import FailedError, Target
from lva.settings import ENV_PREFIX
from tests.client import running
from tests.client.running import TOKEN
from tests.support import ServiceProcess

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow("starts the service and real workers"),
    pytest.mark.usefixtures("clean_slate"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    env = {f"{ENV_PREFIX}ADMIN_TOKEN": TOKEN}
    plugins = ["streams", "motion"]
    with ServiceProcess(tmp_path_factory.mktemp("streams"), plugins, env=env) as process:
        yield process.wait_until_ready()


def lva(service: ServiceProcess, *arguments: str, token: str | None = TOKEN, **more: Any) -> Result:
    return running.lva("streams", *arguments, "--address", service.url, token=token, **more)


def test_a_stream_is_added_watched_stopped_resumed_and_removed(service: ServiceProcess) -> None:
    assert lva(service, "list").output == (
        "There are no streams; lva streams add NAME SOURCE adds one.\n"
    )
    added = lva(service, "add", "door", "test:?rate=25", "--analytics", "motion", "--json")
    stream_id = json.loads(added.output)["stream_id"]
    happening = happenings(Target(service.url), "streams", "door")
    assert (next(happening)["kind"], stream_id) == ("stream", stream_id)
    service.wait_until(
        lambda: json.loads(lva(service, "list", "--json").output)["streams"][0]["fps"]
    )
    listed = lva(service, "list").output
    heads, line = listed.splitlines()
    assert heads.split()[:5] == ["STREAM", "ID", "STATE", "FOR", "FPS"]
    assert line.startswith(f"door    {stream_id[:8]}  in_progress")
    assert lva(service, "list", "--status", "done").output.startswith("There are no streams")
    assert lva(service, "stop", "door").output == "door: stop\n"
    said = next(item for item in happening if item.get("status") == "stop")
    assert line_of(said).plain.endswith(" door  stop  stopped by a user")
    again = lva(service, "stop", "door")
    assert (again.exit_code, "the stream is stop" in again.output) == (1, True)
    assert "stopped by a user" in lva(service, "watch", "--count", "1").output
    (line,) = lva(service, "watch", "--count", "1", "--json").output.splitlines()
    assert (json.loads(line)["kind"], json.loads(line)["name"]) == ("stream", "door")
    assert lva(service, "resume", stream_id).output == f"{stream_id}: pending\n"
    assert lva(service, "remove", "door").output == "door: removed\n"
    with pytest.raises(FailedError, match="the stream door was removed"):
        list(happening)
    assert lva(service, "remove", "door").output == "lva: there is no stream 'door'\n"


def test_a_definition_comes_from_a_file_and_its_password_is_not_shown(
    service: ServiceProcess, tmp_path: Path
) -> None:
    path = tmp_path / "yard.json"
    path.write_text('{"source": "rtsp://admin:hidden@127.0.0.1:9/1", "timeout": 1}')
    assert lva(service, "add", "yard", "--definition", str(path)).exit_code == 0
    service.wait_until(lambda: service.get("/streams/yard").json()["status"] == "restart")
    for shown in ("list", "watch"):
        more = ("yard", "--count", "1") if shown == "watch" else ()
        output = lva(service, shown, *more).output
        assert "yard" in output
        assert "hidden" not in output
    assert lva(service, "remove", "yard").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (("add", "x"), None, 2, "give a SOURCE"),
        (("add", "x", "--definition", "-"), "[]", 2, "holds no JSON object"),
        (("add", "x", "--definition", "-"), "{", 2, "--definition <stdin>: Expecting"),
        (("add", "x", "rtps://a"), None, 1, "source: scheme 'rtps' is not known; available: rtsp"),
        (("add", "x", "test:", "--analytics", "moton"), None, 1, "no plugin 'moton'"),
        (("add", "x", "test:", "--definition", "-"), '{"colour": 1}', 1, "colour: "),
        (("stop", "nobody"), None, 1, "there is no stream 'nobody'"),
        (("watch", "nobody"), None, 1, "there is no stream 'nobody'"),
        (("watch", "--plugin", "cams"), None, 1, "the plugin cams is not active at http://"),
        (("list", "--plugin", "cams"), None, 1, "start the service with --active cams"),
        (("stop", "x", "--plugin", "a/../b"), None, 1, "is not active"),
    ],
)
def test_what_cannot_be_done_is_said(
    service: ServiceProcess, arguments: tuple[str, ...], stdin: str | None, code: int, said: str
) -> None:
    result = lva(service, *arguments, stdin=stdin)
    assert result.exit_code == code
    assert said in result.output


def test_who_may_not_act_may_look(service: ServiceProcess) -> None:
    refused = lva(service, "add", "x", "test:", token=None)
    assert refused.exit_code == 1
    assert "LUNA_VIDEO_AGENT_ADMIN_TOKEN" in refused.output
    assert lva(service, "list", token=None).exit_code == 0


def test_without_a_service_the_exit_code_is_3(tmp_path: Path) -> None:
    for command in ("list", "watch", "remove"):
        arguments = ("x",) if command == "remove" else ()
        result = running.lva("streams", command, *arguments, "--address", f"unix:{tmp_path}/none")
        assert (result.exit_code, "no service responds" in result.output) == (3, True)


def test_a_stopped_plugin_is_named(service: ServiceProcess) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert service.request("POST", "/plugins/streams/stop", headers=headers).status_code == 200
    for command in ("list", "watch"):
        result = lva(service, command)
        assert (result.exit_code, "was stopped by an operator" in result.output) == (1, True)
    assert service.request("POST", "/plugins/streams/start", headers=headers).status_code == 200
