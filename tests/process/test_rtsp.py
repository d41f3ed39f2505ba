"""A real RTSP server, and streams of the real service on it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.streams import logs, unaccounted
from tests.support import ServiceProcess
from tests.video.rtsp_server import RtspServer

pytestmark = [pytest.mark.process, pytest.mark.slow("starts a server of GStreamer, and workers")]

LOGIN, WRONG = "user%2F1:hunter%3A2@", "user%2F1:hunter3@"


def post(service: ServiceProcess, name: str, source: str) -> str:
    retry = {"delay": 0.1}
    body = {"name": name, "source": source, "eof_retry": retry, "decode_error_retry": retry}
    response = service.request("POST", "/streams", json={**body, "timeout": 2.0})
    assert response.status_code == 201, response.text
    return str(response.json()["stream_id"])


def test_cameras_are_read_refused_lost_and_found_again(tmp_path):
    """The kinds are H.264 beside sound, JPEG, a login, a wrong one, none, no such path, and no video."""
    with ServiceProcess(tmp_path, ["streams"]) as service, RtspServer() as server:
        service.wait_until_ready()
        sources = {
            "h264": server.url("h264"), "jpeg": server.url("jpeg"), "secret": server.url("secret", LOGIN),
            "wrong": server.url("secret", WRONG), "nobody": server.url("secret"),
            "nowhere": server.url("nowhere"), "audio": server.url("audio"),
        }  # fmt: skip
        refused = {
            "wrong": {"auth_failed"}, "nobody": {"auth_failed"}, "nowhere": {"not_found"},
            "audio": {"connection_failed"},
        }  # fmt: skip
        ids = {name: post(service, name, source) for name, source in sources.items()}

        def statuses() -> dict[str, dict[str, Any]]:
            found = service.get("/streams").json()["streams"]
            assert all(unaccounted(status) == 0 for status in found)
            return {status["name"]: status for status in found}

        def good() -> list[dict[str, Any]]:
            return [
                status for name, status in statuses().items() if name in {"h264", "jpeg", "secret"}
            ]

        def all_good() -> bool:
            return all(
                status["status"] == "in_progress" and status["frames"]["analysed"]
                for status in good()
            )

        def codes() -> dict[str, set[str]]:
            found = {name: logs(service, ids[name]) for name in refused}
            return {
                name: {each["code"] for each in found[name] if each["code"]} for name in refused
            }

        service.wait_until(all_good)
        service.wait_until(lambda: all(codes().values()))
        assert codes() == refused
        size = {name: statuses()[name]["video"] for name in ("h264", "jpeg")}
        assert {(video["codec"], video["width"]) for video in size.values()} == {
            ("h264", 160),
            ("mjpeg", 160),
        }
        server.kill()
        service.wait_until(lambda: not any(s["status"] == "in_progress" for s in good()))
        server.start()
        service.wait_until(all_good)
        said = service.output + service.get("/streams").text
        for stream_id in ids.values():
            for part in ("logs", "events", "definition", ""):
                said += service.get(f"/streams/{stream_id}/{part}".rstrip("/")).text
        assert "hunter" not in said
        assert service.stop() == 0
        assert "hunter" not in service.output
