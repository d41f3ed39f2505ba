"""The plugins that ship keep the contracts, each with the world that it talks to."""

from __future__ import annotations

import importlib
import inspect
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import pytest

import lva
from lva import BaseEventPlugin, MonitoringPoint
from lva.testing import (
    Behaviour,
    HttpWorld,
    Report,
    ServerWorld,
    World,
    WorldResponse,
    check_analytics,
    check_event_contract,
    check_plugin,
    numbered_points,
)
from lva.testing.delivery_check import COUNT
from lva.testing.world import mark, numbers_in
from lva.video.callbacks import Callback
from tests.plugins.redis_server import RedisServer

SHIPPED = sorted(path.stem for path in (Path(lva.__file__).parent / "plugins").glob("[!_]*"))


class Case(NamedTuple):
    """What a plugin is checked with.

    Attributes:
        config: Its configuration, or what makes it for the world.
        world: Makes the world.
        points: What is sent, if not the usual points.
        server: The fixture of the server that the world stands before; it is handed to `world`.
        event: Whether it is an event plugin.
        analytics: Whether it is an analytics plugin.
    """

    config: Any = None
    world: Callable[..., World] | None = None
    points: Sequence[MonitoringPoint] | None = None
    server: str | None = None
    event: bool = True
    analytics: bool = False


class Watched(World):
    """Takes nothing itself: what has arrived is where the plugin shows it."""

    behaviours = (Behaviour.SUCCEED,)
    path = ""

    async def look(self, client: httpx.AsyncClient) -> None:
        self.arrived = numbers_in((await client.get(self.path)).text)


#: Those of the stream whose events `callbacks` is checked with; its receiver is one of them.
CALLBACKS: list[Callback] = []
CALLED_BACK = [
    replace(event, callbacks=CALLBACKS)
    for event in numbered_points(COUNT, ["stream_event", "analytics_event"])
]


class CalledBack(HttpWorld):
    """A receiver that the events' stream names. `handleEvent` only hands events to its queue."""

    behaviours = (Behaviour.SUCCEED,)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        CALLBACKS[:] = [Callback.model_validate({"type": "http", "url": self.url})]
        return self

    async def __aexit__(self, *details: object) -> None:
        CALLBACKS.clear()
        await super().__aexit__(*details)


class Scraped(Watched):
    path = "/metrics"


class Kept(Watched):
    path = "/history/points?limit=1000"


class Written(World):
    """A file."""

    behaviours = (Behaviour.SUCCEED,)

    async def __aenter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name, "points.jsonl")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.arrived = numbers_in(self.path.read_bytes())
        self._directory.cleanup()


class RabbitWorld(ServerWorld):
    def wants_answer(self, data: bytes) -> bool:
        return not data.startswith(b"\x08")  # a heartbeat


def before_redis(server: RedisServer) -> World:
    return ServerWorld(
        ("127.0.0.1", server.port),
        clear=lambda: server.client.delete("points"),
        received=lambda: repr(server.client.xrange("points")),
        patience=20,  # there is nothing that it does not answer
    )


def before_rabbitmq(server: Any) -> World:
    def take() -> bytes:
        return b"".join(message.body for message in server.take("contract"))

    return RabbitWorld(("127.0.0.1", server.port), clear=take, received=take, patience=20)


def responding(response: WorldResponse) -> Callable[[], World]:
    return lambda: HttpWorld(lambda _request: response)


#: Prometheus shows a point by its route.
ROUTES = [
    MonitoringPoint(
        "requests", point.time, {**point.tags, "route": f"GET:/{mark(n)}"}, point.fields
    )
    for n, point in enumerate(numbered_points())
]
SECRET = "hunter2-hunter2"
#: Starts RabbitMQ; examples; sends each event by itself; look for faces and people in every frame.
LONG = {
    "rabbitmq", "batching_example", "request_monitoring_plugin_example", "callbacks", "faces", "people",
}  # fmt: skip
#: Their lives have thirty and more steps to be stopped at, most of them in their client libraries.
LONG_LIVES = LONG | {"influx", "redis_stream"}
CASES = {
    "background_plugin_example": Case(event=False),
    "batching_example": Case(lambda world: {"url": world.url}, responding(WorldResponse())),
    "callbacks": Case(None, CalledBack, CALLED_BACK),
    "codes": Case(event=False, analytics=True),
    "faces": Case(event=False, analytics=True),
    "file": Case(lambda world: {"path": str(world.path)}, Written),
    "history": Case(None, Kept),
    "influx": Case(
        lambda world: {"url": world.url, "bucket": "b", "org": "o", "token": SECRET},
        responding(WorldResponse(204)),
    ),
    "motion": Case(event=False, analytics=True),
    "otlp": Case(
        lambda world: {"url": world.url, "headers": {"Authorization": SECRET}},
        responding(WorldResponse(body=b"", headers={"Content-Type": "application/x-protobuf"})),
    ),
    "people": Case(event=False, analytics=True),
    "picture_health": Case(event=False, analytics=True),
    "prometheus": Case(None, Scraped, ROUTES),
    "rabbitmq": Case(
        lambda world: {
            "url": f"amqp://{world.address}/",
            "routing_key": "contract",
            "message_points": 5,
        },
        before_rabbitmq,
        server="rabbitmq_node",
    ),
    "redis_stream": Case(
        lambda world: {"url": f"redis://{world.address}/0", "stream": "points"},
        before_redis,
        server="redis",
    ),
    "request_monitoring_plugin_example": Case(
        lambda world: {"url": world.url}, responding(WorldResponse())
    ),
    "resource_monitor": Case(event=False),
    "streams": Case(event=False),
    "webhook": Case(lambda world: {"url": f"{world.url}/{SECRET}"}, responding(WorldResponse())),
}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if "CI" not in os.environ:
        pytest.importorskip(
            "aio_pika", reason="aio-pika is not installed: pip install 'lva[rabbitmq]'"
        )
    from tests.plugins.rabbitmq_server import RabbitMQServer

    with RabbitMQServer(tmp_path_factory.mktemp("rabbitmq")) as server:
        server.declare("contract")
        yield server


def checked(check: Callable[..., Report], name: str, request: pytest.FixtureRequest) -> Report:
    """Check a plugin as its case has it."""
    case = CASES[name]
    world = case.world
    options: dict[str, Any] = {}
    if world is not None and case.server is not None:
        server = request.getfixturevalue(case.server)
        options["world"] = lambda: world(server)
    elif world is not None:
        options["world"] = world
    if check is check_event_contract and case.points is not None:
        options["points"] = case.points
    return check(name, config=case.config, **options)


def test_every_shipped_plugin_has_its_case_and_event_plugins_a_world():
    """What ships is looked for, so that nobody can forget a new one in here."""
    assert [*CASES] == SHIPPED
    for name, case in CASES.items():
        if name == "rabbitmq" and "CI" not in os.environ and not find_spec("aio_pika"):
            continue
        module = importlib.import_module(f"lva.plugins.{name}")
        classes = [item for item in vars(module).values() if inspect.isclass(item)]
        own = [item for item in classes if item.__module__ == module.__name__]
        event = any(issubclass(item, BaseEventPlugin) for item in own)
        assert case.event == event, name
        assert not event or case.world is not None, name


def cases(names: Iterable[str], long: Collection[str] = LONG) -> list[Any]:
    """Return the parameters of a test of these plugins; what takes long is in the soak tier."""
    soak = pytest.mark.soak
    return [pytest.param(name, marks=[soak] if name in long else []) for name in names]


@pytest.mark.slow("the whole contract is checked")
@pytest.mark.timeout(180)  # for the start of RabbitMQ, on a busy machine
@pytest.mark.parametrize(
    "name", cases((name for name in SHIPPED if not CASES[name].analytics), LONG_LIVES)
)
def test_it_lives_well(name: str, request: pytest.FixtureRequest):
    checked(check_plugin, name, request)


@pytest.mark.slow("real worker processes")
@pytest.mark.parametrize("name", cases(name for name in SHIPPED if CASES[name].analytics))
def test_it_looks_at_frames(name: str):
    report = check_analytics(name)
    assert len(report.steps) == 9, str(report)


@pytest.mark.slow("the whole contract is checked")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", cases(name for name in SHIPPED if CASES[name].event))
def test_it_accounts_for_points(name: str, request: pytest.FixtureRequest):
    report = checked(check_event_contract, name, request)
    names = " ".join(step.name for step in report.steps)
    played = "the outside world"
    assert f"{played} succeeds" in names
    for behaviour in Behaviour:
        watched = CASES[name].world in (Scraped, Kept, Written, CalledBack)
        assert (f"{played} {behaviour.value}" in names) == (
            not watched or behaviour is Behaviour.SUCCEED
        ), names
    # Everything was tried but, on another thread, a checkpoint that did not come again.
    assert all("is cancelled at checkpoint" in step.name for step in report.skipped), str(report)
