"""Sources that misbehave, as streams of the real service: state, code, account of frames, and recovery."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import psutil
import pytest

from lva.video.codes import SLOW
from tests.process.streams import logs, unaccounted
from tests.support import ServiceProcess
from tests.video.faulty_source import FaultySource, faulty_source

pytestmark = pytest.mark.process

RTSP: Final = {
    "silent": {"timeout"},
    "half": {"timeout"},
    "drips": {"timeout"},
    "babbles": {"timeout"},
    "garbage": {"timeout", "connection_failed"},
    "closes": {"connection_failed"},
    "unauthorized": {"auth_failed"},
    "missing": {"not_found"},
    "audio": {"no_video"},
    "stalls": {"timeout", "stalled"},
    "ends": {"end_of_stream"},
    "empty": {"stalled", "invalid_data"},
}
#: By way and fault: the codes that the stream may give as what went wrong.
FAILS: Final = {
    **{("rtsp", fault): codes for fault, codes in RTSP.items()},
    **{("ts", fault): codes for fault, codes in RTSP.items()},
    ("mjpeg", "stalls"): {
        "timeout",
        "stalled",
    },  # what comes before a picture is the same as with ts
    ("ts", "ends"): {"connection_failed"},  # of a response without a length, the end is an error
    ("mjpeg", "ends"): {"connection_failed"},
}
#: What the stream goes on with, and the counter that tells.
GOES_ON: Final = {
    **{
        (way, fault): "time_jumps" for way in ("ts", "rtsp") for fault in ("jumps", "back", "again")
    },
    **{(way, "sizes"): "size_changes" for way in ("ts", "rtsp", "mjpeg")},
    **{(way, fault): "packets" for way in ("ts", "rtsp") for fault in ("keyless", "late")},
}
#: One of each kind, for the plain run.
SOME: Final = [
    ("rtsp", "silent"), ("rtsp", "unauthorized"), ("rtsp", "stalls"), ("rtsp", "back"), ("ts", "empty"),
    ("ts", "audio"), ("ts", "sizes"), ("mjpeg", "ends"),
]  # fmt: skip

Case = tuple[str, str]


class Scene:
    """One service with a stream for each case."""

    def __init__(
        self, service: ServiceProcess, source: FaultySource, cases: Iterable[Case]
    ) -> None:
        self.service, self.source = service, source
        self.ids = {case: self._post(*case) for case in cases}
        self.waiting = set(self.ids)
        self.counts: dict[Case, int] = {}

    def url(self, case: Case) -> str:
        way, fault = case
        return (
            self.source.url(fault, "rtsp") if way == "rtsp" else self.source.url(f"{way}/{fault}")
        )

    def _post(self, way: str, fault: str) -> str:
        retry = {"delay": 0.1}
        body = {
            "name": f"{way} {fault}", "source": self.url((way, fault)), "timeout": 1.0,
            "eof_retry": retry, "decode_error_retry": retry,
        }  # fmt: skip
        return str(self._act("POST", "/streams", body)["stream_id"])

    def _act(self, method: str, path: str, body: Any) -> Any:
        """Send an action; again, while there are too many."""
        while (response := self.service.request(method, path, json=body)).status_code == 429:
            time.sleep(0.1)
        assert response.is_success, response.text
        return response.json()

    def statuses(self) -> dict[Case, dict[str, Any]]:
        found = self.service.get("/streams?limit=100").json()["streams"]
        by_id = {status["stream_id"]: status for status in found}
        for status in found:
            assert unaccounted(status) == 0, status
        return {case: by_id[stream_id] for case, stream_id in self.ids.items()}

    def codes(self, case: Case) -> set[str]:
        """Return the codes of what went wrong with a stream."""
        return {each["code"] for each in logs(self.service, self.ids[case]) if each["code"]}

    def heal_what_is_noticed(self) -> bool:
        """Heal the sources whose fault has been noticed; return whether all have."""
        statuses = self.statuses()
        for case in [*self.waiting]:
            if case in FAILS:
                codes = self.codes(case)
                noticed = bool(codes & FAILS[case])
                assert codes <= FAILS[case], case
            else:
                noticed = _goes_on(statuses[case], GOES_ON[case])
                assert not self.codes(case), case
            if noticed:
                self.waiting.discard(case)
                self.counts[case] = statuses[case]["frames"]["decoded"]
                self.source.heal(self.url(case))
                if self.codes(case) & SLOW:
                    self.resume(case)
        return not self.waiting

    def healed(self) -> bool:
        """Return whether every stream has frames again."""
        return all(
            status["status"] == "in_progress"
            and status["frames"]["decoded"] > self.counts[case] + 5
            for case, status in self.statuses().items()
        )

    def resume(self, case: Case) -> None:
        """Stop a stream and resume it, rather than wait for a long back-off."""
        for action in ("stop", "resume"):
            self._act("PATCH", f"/streams/{self.ids[case]}", {"action": action})


def _goes_on(status: dict[str, Any], counter: str) -> bool:
    return status["input"][counter] > 0 and status["frames"]["analysed"] > 30


@pytest.mark.slow("several workers are started, and wait for sources that say nothing")
@pytest.mark.parametrize(
    "cases", [SOME, pytest.param([*FAILS, *GOES_ON], marks=pytest.mark.soak)], ids=["some", "all"]
)
def test_each_fault_is_noticed_with_its_codes_alone_counted_and_overcome(tmp_path, cases):
    with ServiceProcess(tmp_path, ["streams"]) as service, faulty_source() as source:
        scene = Scene(service.wait_until_ready(), source, cases)
        service.wait_until(scene.heal_what_is_noticed)
        service.wait_until(scene.healed)
        assert service.stop() == 0
        assert service.receipt_of("streams")["leaked_processes"] == []


@pytest.mark.soak
def test_a_camera_that_is_slower_than_the_limit_is_not_ended_for_ever(tmp_path):
    """The kind is one picture in a while: the limit of a stall, of opening too, gets larger."""
    with ServiceProcess(tmp_path, ["streams"]) as service, faulty_source() as source:
        scene = Scene(service.wait_until_ready(), source, [("ts", "slow")])
        (case,) = scene.ids
        service.wait_until(lambda: scene.statuses()[case]["frames"]["analysed"] > 4)
        assert scene.statuses()[case]["status"] == "in_progress"
        assert scene.codes(case) <= {"timeout"}


@pytest.mark.soak
def test_cameras_that_cannot_be_reached_use_no_processor(tmp_path):
    """The kind is a retry without a pause, and a worker that spins while it waits."""
    with ServiceProcess(tmp_path, ["streams"]) as service, faulty_source() as source:
        service.wait_until_ready()
        cases = [
            ("rtsp", "closes"),
            ("rtsp", "missing"),
            ("rtsp", "silent"),
            ("ts", "silent"),
            ("ts", "missing"),
        ]
        scene = Scene(service, source, cases)
        service.wait_until(lambda: all(map(scene.codes, cases)))
        service_process = psutil.Process(service.process.pid)
        watched = [service_process, *service_process.children(recursive=True)]
        before = {each.pid: sum(each.cpu_times()[:2]) for each in watched}
        time.sleep(5)
        used = sum(sum(each.cpu_times()[:2]) - before[each.pid] for each in watched)
        assert used < 0.5, f"{used} s in 5 s"
