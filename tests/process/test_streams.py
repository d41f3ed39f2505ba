"""Streams of the real service: what a user posts, sees and stops, and that no worker outlives the service."""

from __future__ import annotations

import signal
import time
from typing import Any

import psutil
import pytest

from tests.support import ServiceProcess
from tests.video.test_board import balance

pytestmark = [pytest.mark.process, pytest.mark.slow("starts the service and real workers")]

DOOR = {
    "name": "door",
    "source": "test:?rate=25",
    "analytics": [{"name": "motion", "parameters": {}}],
}
PLUGINS = ["streams", "motion", "history"]
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


def until(service: ServiceProcess, stream_id: str, condition: Any) -> dict[str, Any]:
    """Wait until the status of a stream is as wanted."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found.append(service.get(f"/streams/{stream_id}").json())
        return bool(condition(found[-1]))

    service.wait_until(look)
    return found[-1]


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Return whether a process ends; a zombie, which its parent has to reap, has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


class Ledger:
    """The account of frames as the service tells it."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._frames = status["frames"]

    def frames(self) -> Any:
        return self._frames


def test_a_stream_from_its_post_to_its_end(service):
    response = post(service)
    stream_id = response.json()["stream_id"]
    assert response.status_code == 201
    assert response.headers["Location"] == f"/streams/{stream_id}"
    status = until(service, stream_id, lambda status: status["events"] >= 1)
    assert (status["name"], status["status"], status["version"]) == ("door", "in_progress", 1)
    assert status["video"]["width"] == 640
    assert balance(Ledger(status)) == 0
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
    logs = service.get(f"/streams/{stream_id}/logs").json()["logs"]
    assert [entry["status"] for entry in logs] == [
        "in_progress", "pending", "stop", "in_progress", "pending",
    ]  # fmt: skip
    changes = f"/history/points?series=stream_event&tag=stream_id:{stream_id}"
    told = [point["tags"]["status"] for point in service.get(changes).json()["points"]]
    assert told == [entry["status"] for entry in logs]
    assert service.request("DELETE", f"/streams/{stream_id}").status_code == 204
    assert service.get(f"/streams/{stream_id}").status_code == 404


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "/etc/passwd"}, "scheme 'file' is not allowed here"),
        ({"source": "lavfi:movie=/etc/passwd"}, "scheme 'lavfi' is not known"),
        (
            {"analytics": [{"name": "moton"}]},
            "analytics.0.name: no plugin 'moton'; available: motion",
        ),
        (
            {"analytics": [{"name": "motion", "parameters": {"treshold": 1}}]},
            "analytics.0.parameters.treshold: unknown key",
        ),
        (
            {"analytics": [{"name": "motion", "parameters": {"threshold": 1000}}]},
            "analytics.0.parameters.threshold: ",
        ),
        ({"colour": "red"}, "colour: "),
        ({"schedule": [{"begin": "10:00Z", "end": "11:00"}]}, "leave the time zone out"),
        ({"rate": {"unit": "fps", "value": 0}}, "rate.value: "),
    ],
)
def test_what_is_wrong_is_a_400_with_the_key(service, changes, said):
    response = post(service, **changes)
    assert response.status_code == 400
    assert said in response.json()["detail"]


def test_lists_and_analytics_are_told(service):
    assert service.get("/streams?limit=0").status_code == 400
    assert service.get(f"/streams?offset={'0' * 5000}").status_code == 400
    assert service.get(f"/streams?limit={'0' * 19}19999").status_code == 400
    assert service.get("/streams?status=done").json() == {"streams": [], "total": 0}
    (motion,) = service.get("/analytics").json()["analytics"]
    assert motion["name"] == "motion"
    assert motion["schema"]["properties"]["threshold"]["maximum"] == 255
    assert service.plugin("motion")["kind"] == "analytics"
    assert "/streams/{stream_id}" in service.get("/openapi.json", timeout=30).json()["paths"]


def test_streams_survive_a_restart_and_workers_do_not(tmp_path):
    """The kind is every way in which the service ends: by SIGTERM and by kill -9, its workers end too."""
    with ServiceProcess(tmp_path, PLUGINS) as service:
        service.wait_until_ready()
        stream_id = post(service).json()["stream_id"]
        other = post(service, name="off").json()["stream_id"]
        service.request("PATCH", f"/streams/{other}", json={"action": "stop"})
        pid = until(service, stream_id, lambda status: status["frames"]["decoded"])["worker"]["pid"]
        service.signal(signal.SIGKILL)
        service.wait()
        assert gone(pid, 1.0)
    with ServiceProcess(tmp_path, PLUGINS) as service:
        service.wait_until_ready()
        status = until(service, stream_id, lambda status: status["status"] == "in_progress")
        assert service.get(f"/streams/{other}").json()["status"] == "stop"
        logs = service.get(f"/streams/{stream_id}/logs").json()["logs"]
        assert logs[-1]["reason"] == "the service was restarted"
        assert service.stop() == 0
        assert not psutil.pid_exists(status["worker"]["pid"])
        assert service.receipt_of("streams")["leaked_processes"] == []


def test_who_may_not_act_may_look(tmp_path):
    token = {"LUNA_VIDEO_AGENT_ADMIN_TOKEN": TOKEN}
    with ServiceProcess(tmp_path, PLUGINS, env=token) as service:
        service.wait_until_ready()
        assert post(service).status_code == 401
        assert service.get("/streams").json()["total"] == 0
        allowed = service.request(
            "POST", "/streams", json=DOOR, headers={"Authorization": f"Bearer {TOKEN}"}
        )
        assert allowed.status_code == 201
        refused = service.request("DELETE", f"/streams/{allowed.json()['stream_id']}")
        assert refused.status_code == 401
        assert service.stop() == 0
