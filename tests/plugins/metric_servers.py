"""Real metric servers for tests, which can be killed, stalled and started again on the same port.

And a stand-in for those that answer what no real server can be brought to.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.plugins.programs import Program, program
from tests.support import HttpHandler, free_port, serving_http


class Server(Program):
    """A program on a free port of the loopback interface, with its data in a directory of its own.

    Where the program is missing the test is skipped, on CI it fails.

    Args:
        directory: For its files; must exist.
        start: Whether it runs from the beginning.

    Attributes:
        url: Where it listens, the same after each start.
        client: Asks it things.
    """

    program: str
    #: What it answers with success once it is there.
    sign_of_life = "/ping"

    def __init__(self, directory: Path, start: bool = True) -> None:
        path = program(self.program)
        self.address = f"127.0.0.1:{free_port()}"
        self.url: str = f"http://{self.address}"
        self.client = httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=20)
        command = [path, *self._arguments(directory)]
        super().__init__(command, directory / f"{self.program}.log", start)

    def _arguments(self, directory: Path) -> list[str]:
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        self.client.close()
        super().__exit__(*error)

    def _answers(self) -> bool:
        try:
            return self.client.get(self.sign_of_life, timeout=2).is_success
        except httpx.TransportError:
            return False


class VictoriaMetrics(Server):
    """`victoria-metrics`, which takes points of any age."""

    program = "victoria-metrics"

    def _arguments(self, directory: Path) -> list[str]:
        return [
            f"-storageDataPath={directory / 'victoria'}", f"-httpListenAddr={self.address}",
            "-retentionPeriod=100y", "-memory.allowedPercent=5",
        ]  # fmt: skip

    def samples(self) -> list[tuple[dict[str, str], int, float]]:
        """Return everything stored: labels with `__name__`, milliseconds, value."""
        self.client.get("/internal/force_flush").raise_for_status()
        text = self.client.get("/api/v1/export", params={"match[]": '{__name__!=""}'}).text
        found = []
        for line in text.split("\n"):  # not splitlines: labels may hold other breaks
            if line:
                series = json.loads(line)
                for at, value in zip(series["timestamps"], series["values"], strict=True):
                    found.append((series["metric"], at, value))
        return found


class PrometheusServer(Server):
    """`prometheus`, which scrapes one service, named by `target`."""

    program = "prometheus"
    sign_of_life = "/-/ready"

    def __init__(self, directory: Path, target: str) -> None:
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [{"job_name": "lva", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        super().__init__(directory)

    def _arguments(self, directory: Path) -> list[str]:
        return [
            f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={self.address}", "--log.level=warn",
        ]  # fmt: skip

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer of its API."""
        return self.client.get(f"/api/v1/{path}", params=query).raise_for_status().json()["data"]

    def query(self, query: str) -> dict[str, float]:
        """Return what a query finds: each value by the labels, as JSON."""
        return {
            json.dumps(item["metric"], sort_keys=True): float(item["value"][1])
            for item in self.ask("query", query=query)["result"]
        }

    def wait_for(self, query: str) -> dict[str, float]:
        """Wait until a query finds something."""
        deadline = time.monotonic() + self.patience
        while not (found := self.query(query)):
            assert time.monotonic() < deadline, f"{query} finds nothing:\n{self._log.read_text()}"
            time.sleep(0.05)
        return found


class OtlpReceiver(Server):
    """Datadog's `ddapm-test-agent`, which decodes what it is sent and gives it back, until it is killed."""

    program = "ddapm-test-agent"
    sign_of_life = "/test/session/requests"

    def _arguments(self, directory: Path) -> list[str]:
        return [
            "--host", "127.0.0.1", "--otlp-http-port", self.address.partition(":")[2],
            "--port", str(free_port()), "--otlp-grpc-port", str(free_port()),
            "--snapshot-dir", str(directory), "--vcr-cassettes-directory", str(directory),
        ]  # fmt: skip

    def forget(self) -> None:
        """Forget all requests."""
        self.client.get("/test/session/clear").raise_for_status()

    def scopes(self, signal: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the attributes of the resource and the rest of each request with points, in order.

        Args:
            signal: ``logs`` or ``metrics``.
        """
        answer = self.client.get(f"/test/session/{signal}").raise_for_status().json()
        found = []
        for request in reversed(answer):
            (holder,) = request[f"resource_{signal}"]
            (scope,) = holder[f"scope_{signal}"]
            if scope.keys() > {"scope"}:
                found.append((attributes_of(holder["resource"]), scope))
        return found


def attributes_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of what an `OtlpReceiver` has decoded."""
    # 64 bits do not fit into a number of JSON.
    kinds = {"int_value": int, "string_value": str, "bool_value": bool, "double_value": float}
    found = {}
    for pair in item.get("attributes", ()):
        ((kind, value),) = pair["value"].items()
        found[pair["key"]] = kinds[kind](value)
    assert len(found) == len(item.get("attributes", ()))
    return found


class InfluxDB(Server):
    """`influxd` of the 1.x line. What it has acknowledged outlives a kill.

    Args:
        directory: For its files; must exist.
        start: Whether it runs from the beginning.
        auth: Whether it asks for a user and a password; `create_admin` makes the first one.
    """

    program = "influxd"

    def __init__(self, directory: Path, start: bool = True, auth: bool = False) -> None:
        self._auth = auth
        super().__init__(directory, start)

    def _arguments(self, directory: Path) -> list[str]:
        data = directory / "influx"
        config = directory / "influx.conf"
        config.write_text(
            f"""
            reporting-disabled = true
            bind-address = "127.0.0.1:{free_port()}"
            [meta]
            dir = "{data}/meta"
            [data]
            dir = "{data}/data"
            wal-dir = "{data}/wal"
            query-log-enabled = false
            [monitor]
            store-enabled = false
            [http]
            bind-address = "{self.address}"
            auth-enabled = {json.dumps(self._auth)}
            log-enabled = false
            max-body-size = 100000
            [ifql]
            enabled = false
            """
        )
        return ["-config", str(config)]

    def query(self, statement: str, db: str = "lva", **user: str) -> list[dict[str, Any]]:
        """Run a statement of its query language; return the series of its answer."""
        parameters = {"q": statement, "db": db, "epoch": "ns"}
        answer = self.client.post("/query", params=user, data=parameters).raise_for_status().json()
        assert "error" not in answer["results"][0], answer
        found: list[dict[str, Any]] = answer["results"][0].get("series", [])
        return found

    def create(self, db: str = "lva") -> None:
        """Create a database."""
        self.query(f'CREATE DATABASE "{db}"')

    def points(
        self, series: str, db: str = "lva"
    ) -> list[tuple[int, dict[str, str], dict[str, Any]]]:
        """Return a series' points: nanoseconds, tags, fields."""
        quoted = '"' + series.replace("\\", "\\\\").replace('"', '\\"') + '"'
        found = []
        for part in self.query(f"SELECT * FROM {quoted} GROUP BY *", db):
            tags = {key: value for key, value in part.get("tags", {}).items() if value}
            for at, *values in part["values"]:
                names = part["columns"][1:]
                fields = {
                    key: value
                    for key, value in zip(names, values, strict=True)
                    if value is not None
                }
                found.append((at, tags, fields))
        return sorted(found, key=lambda point: point[0])


@dataclass
class Request:
    """A request as it came over the wire; `target` is path and query as they were sent."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    raw: bytes
    target: str

    @property
    def body(self) -> bytes:
        """What the body holds, unpacked if it is compressed."""
        if self.headers.get("Content-Encoding") == "gzip":
            return gzip.decompress(self.raw)
        return self.raw


#: A status, headers and a body, or what writes one for as long as it likes.
Answer = tuple[int, Mapping[str, str], bytes | Callable[[BinaryIO], object]]


@dataclass
class StandIn:
    """A server that does as it is told.

    Attributes:
        answer: Called with each request; returns the answer. One with status 0 closes the connection.
        requests: What came, in order.
        connections: How many connections there were.
    """

    url: str = ""
    answer: Callable[[Request], Answer] = lambda _: (204, {}, b"")
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def say(self, *statuses: int, text: bytes = b"") -> None:
        """Answer with these statuses, one after the other; 0 closes the connection."""
        left = [*statuses]
        self.answer = lambda _: (left.pop(0), {}, text)


@contextmanager
def standing_in(port: int = 0, certificate: Path | None = None) -> Iterator[StandIn]:
    """Serve a stand-in on the loopback interface.

    Args:
        port: A free one if left out.
        certificate: With one, over TLS.
    """
    it = StandIn()

    class Handler(HttpHandler):
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            it.connections += 1

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query))
            request = Request(url.path, query, self.headers, raw, self.path)
            it.requests.append(request)
            status, headers, body = it.answer(request)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if callable(body):
                self.send_header("Connection", "close")
            elif status != 204:
                self.send_header("Content-Length", str(len(body)))
            with suppress(OSError):  # the plugin may have gone away
                self.end_headers()
                body(self.wfile) if callable(body) else self.wfile.write(body)

    with serving_http(Handler, port, certificate) as server:
        if certificate is not None:
            server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a failed handshake
        place = "http://127.0.0.1" if certificate is None else "https://localhost"
        it.url = f"{place}:{server.server_address[1]}"
        yield it
