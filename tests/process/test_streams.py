"""Streams of the real service: what a user posts, sees and stops, and that no worker outlives the service."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psutil
import pytest

from tests.plugins.test_webhook import receiving
from tests.process.streams import gone, logs, unaccounted, until
from tests.support import ServiceProcess

pytestmark = [pytest.mark.process, pytest.mark.slow("starts the service and real workers")]

DOOR = {
    "name": "door",
    "source": "test:?rate=25",
    "analytics": [{"name": "motion", "parameters": {}}],
}
PLUGINS = ["streams", "motion", "history", "callbacks"]
#: Three days from now: a stream with it is paused.
NEVER = {
    "begin": "10:00",
    "end": "11:00",
    "days": [(datetime.now().astimezone() + timedelta(days=3)).strftime("%a").lower()],
}
TOKEN = "a-token-that-is-long"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    toml = """
        [plugins.motion.config]
        end_seconds = 1.0

        [plugins.history]
        events = ["monitoring_event", "stream_event", "analytics_event"]
    """
    with ServiceProcess(tmp_path_factory.mktemp("streams"), PLUGINS, toml) as service:
        yield service.wait_until_ready()


def post(service: ServiceProcess, **changes: Any) -> Any:
    return service.request("POST", "/streams", json={**DOOR, **changes})


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG's picture, from its frame header."""
    place = jpeg.index(b"\xff\xc0")
    return int.from_bytes(jpeg[place + 7 : place + 9]), int.from_bytes(jpeg[place + 5 : place + 7])


def test_a_stream_from_its_post_to_its_end(service):
    response = post(service)
    stream_id = response.json()["stream_id"]
    assert response.status_code == 201
    assert response.headers["Location"] == f"/streams/{stream_id}"
    status = until(service, stream_id, lambda status: status["events"] >= 1)
    assert (status["name"], status["status"], status["version"]) == ("door", "in_progress", 1)
    assert status["video"]["width"] == 640
    assert unaccounted(status) == 0
    events = service.get(f"/streams/{stream_id}/events").json()["events"]
    assert events[-1]["event_type"] == "motion_start"
    assert (events[-1]["analytics"], events[-1]["stream_id"]) == ("motion", stream_id)
    assert 0 < events[-1]["data"]["area"] <= 1
    image = events[-1]["image"]
    picture = service.get(image["url"])
    assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/jpeg")
    assert (len(picture.content), "base64" in image) == (image["size"], False)
    assert service.get(f"/streams/{stream_id}/events/9999.jpg").status_code == 404
    points = service.get("/history/points?series=analytics").json()["points"]
    assert points[0]["tags"]["event_type"] == "motion_start"
    kept = service.get(f"/history/points?series=analytics_event&tag=stream_id:{stream_id}").json()
    assert kept["points"][-1]["fields"]["data"] == events[-1]["data"]
    started = service.get("/history/points?series=stream_processing_start").json()["points"]
    assert started[-1]["tags"]["stream_id"] == stream_id
    picture = service.get(f"/streams/{stream_id}/preview.jpg")
    assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/jpeg")
    assert picture.content.startswith(b"\xff\xd8")
    small = service.get(f"/streams/{stream_id}/preview.jpg?size=64&quality=5")
    assert jpeg_size(small.content) == (64, 36)
    assert float(small.headers["X-Frame-Time"]) > float(picture.headers["X-Frame-Time"])
    for query in ("size=63", "size=1921", "size=x", "quality=0", "quality=96"):
        assert service.get(f"/streams/{stream_id}/preview.jpg?{query}").status_code == 400

    pid = status["worker"]["pid"]
    stopped = service.request("PATCH", f"/streams/{stream_id}", json={"action": "stop"})
    assert stopped.json()["status"] == "stop"
    assert not psutil.pid_exists(pid)
    again = service.request("PATCH", f"/streams/{stream_id}", json={"action": "stop"})
    assert again.status_code == 409
    changed = service.request(
        "PUT", f"/streams/{stream_id}", json={**DOOR, "name": "gate", "source": "test:black"}
    )
    assert changed.json()["version"] == 2
    assert service.get(f"/streams/{stream_id}").json()["status"] == "stop"
    service.request("PATCH", f"/streams/{stream_id}", json={"action": "resume"})
    until(service, stream_id, lambda status: status["status"] == "in_progress")
    entries = logs(service, stream_id)
    assert [entry["status"] for entry in entries] == [
        "in_progress", "pending", "stop", "in_progress", "pending",
    ]  # fmt: skip
    changes = f"/history/points?series=stream_event&tag=stream_id:{stream_id}"
    told = [point["tags"]["status"] for point in service.get(changes).json()["points"]]
    assert told == [entry["status"] for entry in entries]
    assert service.request("DELETE", f"/streams/{stream_id}").status_code == 204
    assert service.get(f"/streams/{stream_id}").status_code == 404


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "/etc/passwd"}, "scheme 'file' is not allowed here"),
        (
            {"analytics": [{"name": "moton"}]},
            "analytics[0].name: no plugin 'moton'; available: motion",
        ),
        (
            {"analytics": [{"name": "motion", "parameters": {"treshold": 1}}]},
            "analytics[0].parameters.treshold: unknown key",
        ),
        ({"rate": {"unit": "fps", "value": 0}}, "rate.value: "),
    ],
)
def test_what_is_wrong_is_a_400_with_the_key(service, changes, said):
    response = post(service, **changes)
    assert response.status_code == 400
    problem = response.json()
    assert said in problem["detail"]
    assert problem["error_code"] == "wrong_definition"
    (wrong,) = problem["errors"]
    assert wrong["detail"] in said or said in f"{wrong['key']}: {wrong['detail']}"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"{" * 100_000, 400), (b'{"name": "' + b"x" * 2**20 + b'"}', 413),
     (b'{"action": "stop", "action": "resume"}', 400)],
    ids=["empty", "list", "deep", "large", "twice"],
)  # fmt: skip
def test_a_body_that_is_none_is_refused(service, body, status):
    """The kind is whatever a client may send: nothing of it is an error of the service."""
    for verb, path in (("POST", "/streams"), ("PATCH", "/streams/nobody")):
        answer = service.request(verb, path, content=body)
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_all_that_is_wrong_is_told_at_once_with_pointers(service):
    uses = [{"name": "moton"}, {"name": "motion", "parameters": {"threshold": 1000, "x": 1}}]
    problem = post(service, analytics=uses).json()
    assert [wrong["pointer"] for wrong in problem["errors"]] == [
        "#/analytics/0/name", "#/analytics/1/parameters/x",
    ]  # fmt: skip
    assert problem["errors"][1]["key"] == "analytics[1].parameters.x"


def test_a_change_follows_the_version_that_it_was_made_from(service):
    """The kind is two clients that change one stream: the second one is told."""
    made = post(service, source="rtsp://admin:hunter2@127.0.0.1:1/x", schedule=[NEVER])
    path = made.headers["Location"]
    assert made.headers["ETag"] == service.get(path).headers["ETag"] == '"1"'
    definition = service.get(f"{path}/definition").json()
    assert definition["source"] == "rtsp://***@127.0.0.1:1/x"
    changed = {**definition, "name": "gate"}
    put = partial(service.request, "PUT", path)
    assert put(json=changed, headers={"If-Match": '"7", W/"1"'}).status_code == 412
    assert put(json=changed, headers={"If-Match": f'"{"1" * 5000}"'}).status_code == 412
    done = put(json=changed, headers={"If-Match": '"7", "1"'})
    assert (done.status_code, done.headers["ETag"]) == (200, '"2"')
    late = put(json={**changed, "version": 1})
    assert (late.status_code, late.json()["error_code"]) == (409, "version_conflict")
    assert late.json()["version"] == 2
    assert put(json={**changed, "version": 2}, headers={"If-Match": "*"}).json()["version"] == 3
    elsewhere = put(json={**changed, "source": "rtsp://***@127.0.0.2:1/x"})
    assert (elsewhere.status_code, elsewhere.json()["errors"][0]["key"]) == (400, "source")
    assert service.get(path).json()["status"] == "paused"
    named = service.get("/streams?name=gate&analytics=motion&status=paused").json()
    assert [stream["stream_id"] for stream in named["streams"]] == [path.rpartition("/")[2]]
    assert service.get("/streams?name=gate&analytics=mot").json()["total"] == 0
    assert service.request("DELETE", path).status_code == 204


def test_a_stream_without_a_picture_says_whether_to_ask_again(service):
    for changes, status in (
        ({"source": "rtsp://127.0.0.1:1/x"}, 503),
        ({"schedule": [NEVER]}, 404),
    ):
        path = post(service, **changes).headers["Location"]
        stream_id = path.rpartition("/")[2]
        until(service, stream_id, lambda found: found["status"] in {"restart", "paused"})
        answer = service.get(f"{path}/preview.jpg", timeout=10)
        assert (answer.status_code, "Retry-After" in answer.headers) == (status, status == 503)
        assert service.request("DELETE", path).status_code == 204
    assert service.get(f"{path}/preview.jpg").json()["error_code"] == "unknown_stream"


def test_many_streams_may_be_made_in_a_row(service):
    """The kind is a script that is let in and makes all its streams: the limit of actions is not for it."""
    made = [post(service, schedule=[NEVER]).headers["Location"] for _ in range(25)]
    assert [service.request("DELETE", path).status_code for path in made] == [204] * 25


def test_what_a_state_does_not_allow_is_a_409_that_names_it(service):
    path = post(service, source="test:?seconds=1&live=0&rate=2").headers["Location"]
    patch = partial(service.request, "PATCH", path)
    assert patch(json={"action": "stop", "now": 1}).status_code == 400
    service.wait_until(lambda: service.get(path).json()["status"] == "done")
    refused = patch(json={"action": "stop"})
    assert (refused.status_code, refused.json()["stream_status"]) == (409, "done")
    assert patch(json={"action": "resume"}).status_code == 200
    refused = patch(json={"action": "resume"})
    assert (refused.status_code, refused.json()["error_code"]) == (409, "stream_not_stopped")
    assert service.request("DELETE", path).status_code == 204
    assert patch(json={"action": "stop"}).json()["error_code"] == "unknown_stream"


HIDING = """
import importlib.machinery
finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = lambda name, *rest: None if name in {"av", "numpy"} else find(name, *rest)
"""


def test_a_killed_worker_costs_no_other_stream_a_frame_of_its_own(service):
    """The kind is what workers share, such as the process they are forked from: one dies, others go on."""
    paths = [post(service, name=name).headers["Location"] for name in ("one", "two", "three")]
    ids = [path.rpartition("/")[2] for path in paths]
    for stream_id in ids:
        until(service, stream_id, lambda status: status["frames"]["analysed"])
    before = [service.get(path).json() for path in paths]
    victim, *others = before
    os.kill(victim["worker"]["pid"], signal.SIGKILL)
    found = until(
        service,
        ids[0],
        lambda status: status["input"]["reconnects"] and status["status"] == "in_progress",
    )
    assert found["input"]["reconnects"] == {"worker_crashed": 1}
    assert unaccounted(found) == 0
    for old, stream_id in zip(others, ids[1:], strict=True):
        new = until(service, stream_id, decoded_beyond(old["frames"]["decoded"]))
        assert new["worker"]["pid"] == old["worker"]["pid"]
        assert (new["input"]["reconnects"], new["input"]["time_jumps"]) == ({}, 0)
        assert new["frames"]["dropped"]["stop"] == new["frames"]["failed"] == 0
        assert unaccounted(new) == 0
    for path in paths:
        service.request("DELETE", path)


@pytest.mark.soak
def test_sixteen_live_streams_drop_frames_by_policy_alone(service):
    """The kind is load: each frame of each stream has a fate, and none is lost to anything but analytics."""
    made = [post(service, name=str(n), source="test:?rate=10") for n in range(16)]
    ids = [response.json()["stream_id"] for response in made]
    for stream_id in ids:
        status = until(service, stream_id, decoded_beyond(40))
        assert unaccounted(status) == 0
        assert status["status"] == "in_progress"
        assert status["input"] == {
            "packets": status["input"]["packets"], "bytes": status["input"]["bytes"],
            "decode_errors": 0, "time_jumps": 0, "size_changes": 0, "reconnects": {},
        }  # fmt: skip
        frames = status["frames"]
        assert (frames["failed"], frames["dropped"]["stop"]) == (0, 0)
        assert not any(frames["skipped"].values())
        assert frames["analysed"] > 0
    for stream_id in ids:
        assert service.request("DELETE", f"/streams/{stream_id}").status_code == 204


def decoded_beyond(count: int) -> Any:
    return lambda status: status["frames"]["decoded"] > count


def test_without_its_extra_it_says_in_one_line_what_to_install(tmp_path):
    """The kind is a package that is not there: everything else runs, and nothing is tried again."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    env = {"PYTHONPATH": str(tmp_path)}
    with ServiceProcess(tmp_path, ["streams", "history", "motion"], env=env) as service:
        service.wait_until(lambda: service.plugin("streams")["state"] == "failed")
        service.wait_until(lambda: service.plugin("history")["state"] == "running")
        (error,) = [record for record in service.records if record["level"] == "ERROR"]
        assert "pip install '/path/to/lva[video]'" in error["message"]
        assert "exception" not in error
        assert service.plugin("streams")["restarts"] == 0


def test_callbacks_of_a_stream_are_sent_and_nobody_is_told_their_secrets(service):
    """Kind: an address and its key are known to the receiver and to the file of streams alone."""
    key = "sesame-open-up"
    with receiving() as receiver:
        callback = {
            "type": "http",
            "url": f"{receiver.url}/{key}",
            "headers": {"X-Key": key},
            "conditions": {"event_types": ["motion_start", "stream_stop"]},
        }
        stream_id = post(service, name="called", callbacks=[callback]).json()["stream_id"]
        service.wait_until(lambda: receiver.requests)
        service.request("PATCH", f"/streams/{stream_id}", json={"action": "stop"})
        service.wait_until(
            lambda: json.loads(receiver.requests[-1].body)["event_type"] == "stream_stop"
        )
        first = json.loads(receiver.requests[0].body)
        assert (first["stream"], first["event_type"]) == ("called", "motion_start")
        assert first["image"]["base64"].startswith("/9j/")
        assert receiver.requests[0].headers["x-key"] == key
        (found,) = service.get("/callbacks").json()["callbacks"]
        assert (found["stream_id"], found["sent"]) == (stream_id, len(receiver.requests))
        shown = [f"/streams/{stream_id}{path}" for path in ("", "/definition", "/logs", "/events")]
        shown += ["/callbacks", "/plugins/callbacks", "/plugins/streams", "/streams"]
        texts = [service.get(path).text for path in shown]
        service.request("PATCH", f"/streams/{stream_id}", json={"action": "resume"})
        assert service.request("DELETE", f"/streams/{stream_id}").status_code == 204
        service.wait_until(lambda: b"removed by a user" in receiver.requests[-1].body)
    assert key not in service.output + "".join(texts)
    bad = post(service, callbacks=[callback | {"conditions": {"where": [{"path": "a"}]}}])
    assert bad.status_code == 400
    assert "callbacks[0].conditions.where[0]: " in bad.json()["detail"]


def test_lists_and_analytics_are_told(service):
    assert service.get("/streams?limit=0").status_code == 400
    assert service.get(f"/streams?offset={'0' * 5000}").status_code == 400
    assert service.get(f"/streams?limit={'0' * 19}19999").status_code == 400
    for path in ("", "/nobody/events", "/nobody/preview.jpg", "/live"):
        unknown = service.get(f"/streams{path}?statsu=done")
        assert (unknown.status_code, unknown.json()["error_code"]) == (400, "unknown_parameter")
    assert service.get("/streams?status=done").json() == {"streams": [], "total": 0}
    (motion,) = service.get("/analytics").json()["analytics"]
    assert motion["name"] == "motion"
    assert motion["schema"]["properties"]["threshold"]["maximum"] == 255
    assert service.plugin("motion")["kind"] == "analytics"
    assert "/streams/{stream_id}" in service.get("/openapi.json", timeout=30).json()["paths"]


def test_streams_survive_a_restart_and_workers_do_not(tmp_path):
    """The kind is every way in which the service ends: by SIGTERM and by kill -9, its workers end too."""
    with receiving() as receiver:
        survive(tmp_path, receiver)
    assert {request.headers["x-key"] for request in receiver.requests} == {TOKEN}


def survive(tmp_path, receiver):
    callback = {"type": "http", "url": receiver.url, "headers": {"X-Key": TOKEN}}
    callback["conditions"] = {"where": [{"path": "status", "equals": "in_progress"}]}
    with ServiceProcess(tmp_path, PLUGINS) as service:
        service.wait_until_ready()
        stream_id = post(service, callbacks=[callback]).json()["stream_id"]
        other = post(service, name="off").json()["stream_id"]
        service.request("PATCH", f"/streams/{other}", json={"action": "stop"})
        pid = until(service, stream_id, lambda status: status["frames"]["decoded"])["worker"]["pid"]
        service.wait_until(lambda: receiver.requests)
        service.signal(signal.SIGKILL)
        service.wait()
        assert gone(pid, 1.0)
        receiver.requests.clear()
    with ServiceProcess(tmp_path, PLUGINS) as service:
        service.wait_until_ready()
        status = until(service, stream_id, lambda status: status["status"] == "in_progress")
        assert service.get(f"/streams/{other}").json()["status"] == "stop"
        service.wait_until(lambda: receiver.requests)
        assert logs(service, stream_id)[-1]["reason"] == "the service was restarted"
        receiver.requests.clear()  # neither plugin has anything of the other that a reload could lose
        for plugin in ("callbacks", "streams"):
            assert service.request("POST", f"/plugins/{plugin}/reload").status_code == 200
        service.wait_until(lambda: receiver.requests)
        status = until(service, stream_id, lambda status: status["worker"])
        assert service.stop() == 0
        assert not psutil.pid_exists(status["worker"]["pid"])
        assert service.receipt_of("streams")["leaked_processes"] == []


def readiness(service: ServiceProcess) -> Any:
    return service.get("/readyz").json().get("reasons", {}).get("streams")


def test_a_file_that_cannot_be_used_stops_nothing_and_loses_nothing(tmp_path):
    """The kind is a file of a newer version, then a broken one: it is told, and made good once it can be."""
    path = tmp_path / "state" / "streams.sqlite3"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with ServiceProcess(tmp_path, PLUGINS) as service:
        service.wait_until(lambda: readiness(service))
        assert "another version of LVA (99)" in readiness(service)
        assert post(service).status_code == service.get("/streams").status_code == 503
        path.unlink()
        service.wait_until_ready()
        stream_id = post(service).json()["stream_id"]
        until(service, stream_id, lambda status: status["frames"]["decoded"])
        whole = path.read_bytes()
        path.write_bytes(b"no database " * 200)
        refused = post(service, name="other")
        assert (refused.status_code, refused.json()["error_code"]) == (503, "not_kept")
        assert "streams cannot be kept" in readiness(service)
        before = service.get(f"/streams/{stream_id}").json()["frames"]["decoded"]
        until(service, stream_id, lambda status: status["frames"]["decoded"] > before)
        stopped = service.request("PATCH", f"/streams/{stream_id}", json={"action": "stop"})
        assert stopped.status_code == 503
        assert "what was asked for is done" in stopped.json()["detail"]
        assert service.get(f"/streams/{stream_id}").json()["status"] == "stop"
        path.write_bytes(whole)
        service.wait_until_ready()
        assert service.stop() == 0
        assert not [record for record in service.records if "exception" in record]
    with ServiceProcess(tmp_path, PLUGINS) as service:
        service.wait_until_ready()
        (stream,) = service.get("/streams").json()["streams"]
        assert (stream["stream_id"], stream["status"]) == (stream_id, "stop")


def test_who_may_not_act_may_look(tmp_path):
    token = {"LUNA_VIDEO_AGENT_ADMIN_TOKEN": TOKEN}
    with ServiceProcess(tmp_path, PLUGINS[:3], env=token) as service:
        service.wait_until_ready()
        assert post(service).status_code == 401
        assert service.get("/streams").json()["total"] == 0
        allowed = service.request(
            "POST", "/streams", json=DOOR, headers={"Authorization": f"Bearer {TOKEN}"}
        )
        assert allowed.status_code == 201
        callbacks = [{"type": "http", "url": "http://127.0.0.1:1"}]
        unsent = service.request(
            "POST",
            "/streams",
            json={**DOOR, "callbacks": callbacks},
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        assert "activate the plugin callbacks" in unsent.json()["detail"]
        refused = service.request("DELETE", f"/streams/{allowed.json()['stream_id']}")
        assert refused.status_code == 401
        assert service.stop() == 0
