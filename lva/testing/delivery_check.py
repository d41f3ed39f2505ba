"""The contract of event plugins: what becomes of points when the outside world is not well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any, Final, overload

import trio

from lva.contract import PartialDeliveryError
from lva.errors import counted
from lva.events.points import MonitoringPoint
from lva.events.streams import (
    ANALYTICS_EVENT_NAME,
    STREAM_EVENT_NAME,
    StreamAnalyticsEvent,
    StreamEvent,
)
from lva.events.types import name_of
from lva.host.life.states import ENDED, State
from lva.testing.places import Place
from lva.testing.probe import HANDLE, InjectedError, Plan, worth_stopping_at
from lva.testing.report import Breach, Report
from lva.testing.runs import Runs
from lva.testing.trial import Trial, crash_problem
from lva.testing.work import WORK, leave_to_work
from lva.testing.world import Behaviour, World, mark

#: The stream of the kit's events, and when it all began, in Unix seconds.
STREAM_ID: Final = "00000000-0000-4000-8000-000000000001"
_BEGIN: Final = 1_700_000_000.0
#: How many points are sent, and in how many chunks.
COUNT: Final = 24
_CHUNK: Final = 5
#: How long, in virtual seconds, it is between chunks that are to come one by one.
_PAUSE: Final = 1.0
#: How long, in virtual seconds, points may take when all is well, and when it is not.
_WELL: Final = 120.0
_ILL: Final = 2000.0
#: How long an outside world that never takes anything is borne.
_BORNE: Final = 120.0
#: How long, in virtual seconds, it takes until the books are looked at again: at first, and at most.
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 2.0
#: What the kit does to `handleEvent()` itself where no world does it, and what such a run is called.
_DISTURBED: Final = {
    Behaviour.SUCCEED: "handleEvent() is called",
    Behaviour.SOMETIMES: "handleEvent() is made to fail now and then",
    Behaviour.FAIL: "handleEvent() is made to fail for ever",
    Behaviour.PARTLY: "handleEvent() is made to fail partly",
    Behaviour.HANG: "handleEvent() is made to hang",
}
_NO_WORLD: Final = "there is no world in which they could be seen; give one"
_CLAIM_HINT: Final = (
    "let handleEvent() raise when points did not arrive: returning says that they did"
)


@overload
def numbered_points(count: int = COUNT) -> list[MonitoringPoint]: ...
@overload
def numbered_points(count: int, events: Sequence[str]) -> list[Any]: ...
def numbered_points(count: int = COUNT, events: Sequence[str] = ("monitoring_event",)) -> list[Any]:
    """Return points like those of requests, which can be told apart wherever they arrive.

    Args:
        count: How many.
        events: Of which event types, in turn: of others than ``monitoring_event`` it returns events.
    """
    return [_NUMBERED[events[number % len(events)]](number) for number in range(count)]


def _request(number: int) -> MonitoringPoint:
    return MonitoringPoint(
        "requests",
        _BEGIN + number,
        {
            "service": "luna-video-agent",
            "route": "GET:/cameras",
            "status_code": 200,
            "point": mark(number),
        },
        {"request_id": f"1700000000,{mark(number)}", "execution_time": 0.01, "n": number},
    )


def _change(number: int) -> StreamEvent:
    return StreamEvent(
        STREAM_ID,
        "door",
        "in_progress",
        f"{mark(number)} of the kit",
        "pending",
        time=_BEGIN + number,
    )


def _seen(number: int) -> StreamAnalyticsEvent:
    data = {"point": mark(number), "n": number}
    picture = b"\xff\xd8 no real picture \xff\xd9"
    return StreamAnalyticsEvent(
        STREAM_ID, "door", "motion", "motion_start", number + 1, _BEGIN + number, data, picture,
        number=number + 1,
    )  # fmt: skip


_NUMBERED: Final[dict[str, Callable[[int], Any]]] = {
    "monitoring_event": _request,
    STREAM_EVENT_NAME: _change,
    ANALYTICS_EVENT_NAME: _seen,
}


def marked(points: Iterable[Any]) -> list[Any]:
    """Return somebody's points, or events, with something by which they can be told apart."""
    return [_marked(point, mark(number)) for number, point in enumerate(points)]


def _marked(point: Any, text: str) -> Any:
    if isinstance(point, StreamEvent):
        return replace(point, reason=f"{text} {point.reason}")
    if isinstance(point, StreamAnalyticsEvent):
        return replace(point, data={**point.data, "lva_point": text})
    tags = {**point.tags, "lva_point": text}
    return MonitoringPoint(point.series, point.time, tags, point.fields)


def publish(run: Trial, points: Iterable[Any]) -> None:
    """Publish points and events, each as its own event type, in order."""
    for name, some in groupby(points, key=name_of):
        run.host.publisher.publish(name, [*some])


class DeliveryCheck:
    """Checks one event plugin's deliveries.

    Args:
        runs: Runs the plugin.
        points: What is sent; if there are none, some of each event type that it gets.
        ordered: Whether points have to arrive in order.
    """

    def __init__(self, runs: Runs, points: Sequence[Any], ordered: bool) -> None:
        self._runs = runs
        self._points = points
        self._ordered = ordered
        self._has_world = runs.has_world
        self._played = frozenset({Behaviour.SUCCEED} if self._has_world else ())

    def run(self) -> Report:
        """Check everything; return what was found."""
        with self._runs:
            well = self._named(Behaviour.SUCCEED)
            first = self._send(well, Behaviour.SUCCEED)
            if first is not None and not self._runs.report.failures:
                if first.world is not None:
                    self._played = frozenset(first.world.behaviours) | {Behaviour.SUCCEED}
                self._long(first)
                for behaviour in list(Behaviour)[1:]:
                    self._send(self._named(behaviour), behaviour)
                hangs = self._named(Behaviour.HANG)
                self._send(f"stop while {hangs}", Behaviour.HANG, self._stop_amid)
                self._arriving()
                for count in worth_stopping_at(first.probe, HANDLE):
                    self._send(
                        f"handleEvent() is cancelled at checkpoint {count}",
                        Behaviour.SUCCEED,
                        cancel=count,
                    )
        return self._runs.report

    def _named(self, behaviour: Behaviour) -> str:
        """Say what such a run is: only what a world plays is its doing."""
        if behaviour in self._played:
            return f"the outside world {behaviour.value}"
        return _DISTURBED[behaviour]

    def _long(self, first: Trial) -> None:
        """Let it work for minutes with the points that it got; what it makes of them is its own matter."""
        if first.world is not None and first.world.own_clock:
            return

        async def act(run: Trial) -> list[Breach]:
            publish(run, self._points)
            return await leave_to_work(run)

        self._runs.try_once(f"{WORK:g} s of its work", "G6", act)

    def _arriving(self) -> None:
        """Try what shows only where points arrive."""
        few, again = "points come a few at a time", "a batch that has arrived comes again"
        if self._has_world:
            self._send(few, Behaviour.SUCCEED, pause=_PAUSE)
            self._send(again, Behaviour.SUCCEED, again=True)
        else:
            for name in ("whether points arrive", few, again):
                self._runs.skip(name, "G5", _NO_WORLD)

    def _send(
        self,
        name: str,
        behaviour: Behaviour,
        act: Callable[[Trial, _Sending], Any] | None = None,
        cancel: int | None = None,
        again: bool = False,
        pause: float = 0.0,
    ) -> Trial | None:
        """Send all points in a run of its own, and compare the books."""
        inside = None if behaviour in self._played else behaviour
        sending = _Sending(behaviour, inside, again)
        plan = Plan(around=sending.handle, cancel=None if cancel is None else (HANDLE, cancel))

        async def whole(run: Trial) -> list[Breach]:
            sending.world = run.world
            if run.world is not None and inside is None:
                run.world.behaviour = behaviour
            problem = await _until_it_runs(run)
            if problem is not None:
                return [problem]
            if not run.life.deliveries:
                text = "there is no event plugin in it, so it gets no points; leave this check out"
                return [Breach("load", text)]
            sending.use(self._points_for(run))
            await sending.publish(run, pause)
            gets = [name for item in run.life.deliveries.values() for name in item.intake.events]
            if not sending.published_of(gets):
                return [Breach("load", f"none of the points is of what it gets: {', '.join(gets)}")]
            return list(await (act or self._until_settled)(run, sending))

        return self._runs.try_once(
            name,
            "G5",
            whole,
            plan,
            lambda run: self._books(run, sending, behaviour, cancel is not None),
        )

    def _points_for(self, run: Trial) -> Sequence[Any]:
        """Return what is sent, once it is known what the plugin gets."""
        if not self._points:
            intakes = [delivery.intake for delivery in run.life.deliveries.values()]
            events = list(dict.fromkeys(name for intake in intakes for name in intake.events))
            self._points = numbered_points(COUNT, events)
        return self._points

    async def _until_settled(self, run: Trial, sending: _Sending) -> list[Breach]:
        """Wait until every point has found its end, or for as long as an ill world is borne."""
        behaviour = sending.intended
        endless = behaviour in {Behaviour.FAIL, Behaviour.HANG}
        limit = _BORNE if endless else _WELL if behaviour is Behaviour.SUCCEED else _ILL
        pause = _FIRST_LOOK
        with trio.move_on_after(limit):
            while run.life.state.value not in ENDED and _unsettled(run):
                await trio.sleep(pause)
                pause = min(2 * pause, _LAST_LOOK)
                if problem := _unbalanced(run):
                    return [problem]
        if not endless and _unsettled(run) and run.life.state.value not in ENDED:
            sent = counted(len(self._points), "point")
            text = f"after {limit:g} s not delivered: {_unsettled(run)} of {sent}"
            return [Breach("G5", f"{text}; {_last_error(run)}", sending.place)]
        return []

    async def _stop_amid(self, run: Trial, _sending: _Sending) -> list[Breach]:
        await trio.sleep(1.0)
        run.host.stop.request("while the outside world hangs")
        await run.host.stopped.wait()
        return []

    # The books

    def _books(
        self, run: Trial, sending: _Sending, behaviour: Behaviour, cancelled: bool
    ) -> Iterable[Breach]:
        yield from sending.problems
        yield from sending.changed()
        well = behaviour is Behaviour.SUCCEED
        for cls, delivery in run.life.deliveries.items():
            ledger = delivery.ledger
            name = f"{cls.__name__}.handleEvent()"
            count = sending.published_of(delivery.intake.events)
            if (came := ledger.accepted + ledger.refused + ledger.filtered) < count:
                published = counted(count, "point")
                text = f"{published} published, but only {came} came to {cls.__name__}"
                yield Breach("G5", text)
            if well and ledger.delivered < ledger.accepted and not run.problems:
                lost = ledger.accepted - ledger.delivered
                why = "rejected" if ledger.rejected else "dropped"
                accepted = counted(ledger.accepted, "point")
                text = f"{name}: {lost} of {accepted} {why} although all is well"
                yield Breach("G5", f"{text}; {_last_error(run)}", sending.place)
            elif ledger.rejected and behaviour in {Behaviour.SOMETIMES, Behaviour.FAIL}:
                yield Breach(
                    "G5",
                    f"{name}: {counted(ledger.rejected, 'point')} rejected for ever for a failure that"
                    " passes",
                    sending.place,
                    "raise PermanentDeliveryError only when the points themselves are wrong; otherwise"
                    " raise RetryLaterError, or let the error through",
                )
            elif behaviour is Behaviour.SOMETIMES and ledger.lost and not run.problems:
                yield Breach(
                    "G5",
                    f"{name}: {counted(ledger.lost, 'point')} dropped although the outside world failed only"
                    f" now and then; {_last_error(run)}",
                    sending.place,
                )
        if run.world is not None:
            yield from self._arrivals(run, sending, run.world)
        if self._ordered or _one_at_a_time(run):
            yield from sending.disorder()

    def _arrivals(self, run: Trial, sending: _Sending, world: World) -> Iterable[Breach]:
        arrived = list(dict.fromkeys(world.arrived))
        for cls, delivery in run.life.deliveries.items():
            ledger = delivery.ledger
            # Points that are not ours have no marks: of requests to the plugin, or its own.
            count = sending.published_of(delivery.intake.events)
            others = max(0, ledger.accepted + ledger.refused + ledger.filtered - count)
            claimed = ledger.delivered - others
            if claimed > len(arrived):
                yield Breach(
                    "G5",
                    f"{cls.__name__}.handleEvent() returned for {counted(claimed, 'point')}, but only"
                    f" {len(arrived)} arrived",
                    sending.place,
                    _CLAIM_HINT,
                )
        if self._ordered and arrived != sorted(arrived):
            number = next(b for a, b in pairwise(arrived) if b < a)
            yield Breach(
                "G3", f"point {number} arrived after one that was published later", sending.place
            )


class _Sending:
    """The points of one run, and every call that got some of them."""

    def __init__(self, intended: Behaviour, behaviour: Behaviour | None, again: bool) -> None:
        self.intended = intended
        self.behaviour = behaviour
        self._points: list[Any] = []
        self._values: list[Any] = []
        self._order: dict[int, int] = {}
        self._again = again
        self._published: list[str] = []  # of each point, its event type
        self._calls = 0
        self._handed: dict[str, list[int]] = {}
        self.world: World | None = None
        self.problems: list[Breach] = []
        self.place: Place | None = None

    def use(self, points: Sequence[Any]) -> None:
        """Say what is sent."""
        self._points = list(points)
        self._values = [point.as_dict() for point in points]
        self._order = {id(point): number for number, point in enumerate(self._points)}

    def published_of(self, events: Sequence[str]) -> int:
        """Return how many points of these event types were published."""
        return sum(name in events for name in self._published)

    async def publish(self, run: Trial, pause: float) -> None:
        """Publish all points, in chunks: as one batch, or with so many seconds between them."""
        for start in range(0, len(self._points), _CHUNK):
            chunk = self._points[start : start + _CHUNK]
            publish(run, chunk)
            self._published += map(name_of, chunk)
            if pause:
                await trio.sleep(pause)

    async def handle(self, own: Callable[..., Any], points: list[Any], logger: Any) -> None:
        """Stand between host and plugin: keep the books, and fail if there is no world that does."""
        function = getattr(own, "__func__", own)
        code = getattr(function, "__code__", None)
        if code is not None:
            self.place = Place(code.co_filename, code.co_firstlineno, code.co_name)
        key = type(own.__self__).__name__ if hasattr(own, "__self__") else ""
        handed = self._handed.setdefault(key, [])
        handed += [self._order[id(point)] for point in points if id(point) in self._order]
        self._calls += 1
        try:
            await self._disturbed(own, points, logger)
        except PartialDeliveryError as error:
            ids = {id(point) for point in points}
            if any(id(point) not in ids for point in (*error.failed, *error.rejected)):
                self.problems.append(
                    Breach(
                        "G5",
                        "PartialDeliveryError names points that are not the very objects of the call;"
                        " so the whole batch is sent again",
                        self.place,
                    )
                )
            raise

    async def _disturbed(self, own: Callable[..., Any], points: list[Any], logger: Any) -> None:
        behaviour, calls = self.behaviour, self._calls
        if behaviour is Behaviour.FAIL:
            raise InjectedError("the outside world fails for ever")
        if behaviour is Behaviour.SOMETIMES and calls % 3 == 1:
            raise InjectedError("the outside world fails now and then")
        if behaviour is Behaviour.PARTLY and calls % 2:
            half = (len(points) + 1) // 2
            await _called(own, points[:half], logger)
            raise PartialDeliveryError("half of it arrived", failed=points[half:])
        await _called(own, points, logger)
        if behaviour is Behaviour.HANG:
            await _for_ever()
        unknown = behaviour is Behaviour.SOMETIMES and calls % 3 == 2
        if unknown or (self._again and calls == 1):
            raise InjectedError("the points have arrived, but nobody knows")

    def changed(self) -> Iterable[Breach]:
        """Return whether the plugin has changed a point, which all plugins share."""
        for point, values in zip(self._points, self._values, strict=True):
            if point.as_dict() != values:
                yield Breach(
                    "G2",
                    "it changed a point that all plugins share",
                    self.place,
                    "copy first: {**point.tags, ...}",
                )
                return

    def disorder(self) -> Iterable[Breach]:
        """Return whether points were passed on out of order, repetitions apart."""
        for handed in self._handed.values():
            first = list(dict.fromkeys(handed))
            if first != sorted(first):
                yield Breach("G3", "points were passed on out of order")
                return


async def _called(own: Callable[..., Any], points: list[Any], logger: Any) -> None:
    result = own(points, logger)
    if not hasattr(result, "__await__"):
        raise TypeError(f"handleEvent() returned {type(result).__name__}; write it as `async def`")
    await result


async def _for_ever() -> None:
    """Wait for what never comes, on either loop."""
    if trio.lowlevel.in_trio_task():
        await trio.sleep_forever()
    await asyncio.Event().wait()


async def _until_it_runs(run: Trial) -> Breach | None:
    state = await run.wait_for(State.RUNNING, State.BACKOFF, *ENDED)
    return None if state is State.RUNNING else crash_problem(run, "it does not start")


def _unsettled(run: Trial) -> int:
    ledgers = [delivery.ledger for delivery in run.life.deliveries.values()]
    return sum(ledger.queued + ledger.in_flight for ledger in ledgers)


def _unbalanced(run: Trial) -> Breach | None:
    for cls, delivery in run.life.deliveries.items():
        if not delivery.ledger.balanced:
            text = f"the ledger of {cls.__name__} does not balance: {delivery.ledger.as_dict()}"
            return Breach("G5", text)
    return None


def _one_at_a_time(run: Trial) -> bool:
    return run.loaded.settings.concurrency == 1


def _last_error(run: Trial) -> str:
    errors = [item.last_error for item in run.life.deliveries.values() if item.last_error]
    return f"the last error: {errors[-1]}" if errors else "no call has failed"
