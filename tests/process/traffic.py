"""Requests made all the while from a thread, each with an id that its point can be told by."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import httpx

from tests.support import ServiceProcess


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    path: str
    status: int
    seconds: float


class Traffic:
    """GET requests to some paths in turn, over one connection, until the `with` block ends.

    Args:
        service: Whom to ask.
        paths: What to ask for.
        timeout: Limit on each request, in seconds.

    Attributes:
        answers: What was answered, by request id.
        errors: What was not answered.
    """

    def __init__(self, service: ServiceProcess, paths: Sequence[str], timeout: float = 5.0) -> None:
        self.answers: dict[str, Answer] = {}
        self.errors: list[str] = []
        self._service = service
        self._paths = paths
        self._timeout = timeout
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(self._timeout + 5)
        assert not self._thread.is_alive()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        goal = len(self.answers) + count
        self._service.wait_until(lambda: len(self.answers) >= goal)

    def _ask(self) -> None:
        try:
            url = self._service.url
        except AssertionError:
            return  # it ended before it listened
        with httpx.Client(
            base_url=url, trust_env=False, verify=False, timeout=self._timeout
        ) as client:
            for path in itertools.cycle(self._paths):
                if self._over.wait(0.004):
                    return
                request_id = f"{int(time.time())},{uuid.uuid4()}"
                began = time.monotonic()
                try:
                    response = client.get(path, headers={"Luna-Request-Id": request_id})
                except httpx.HTTPError as error:
                    self.errors.append(f"GET {path}: {error!r}")
                    continue
                seconds = time.monotonic() - began
                self.answers[request_id] = Answer(path, response.status_code, seconds)
