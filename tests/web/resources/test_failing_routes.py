"""Which routes failed, and whose they are."""

from __future__ import annotations

from lva.web.resources.failing_routes import MOST, FailingRoutes


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_has_a_route_and_its_owner() -> None:
    """Kind: an error that nobody can be asked about."""
    clock = Clock()
    routes = FailingRoutes(steps=4, recent=2, clock=clock)
    for error in ("internal_server_error", None, None):
        routes.observe(("/a", "cam"), error)
    routes.observe(("/b", "cam"), None)
    clock.now = 105.0
    routes.begin_step()
    routes.observe(("/own", None), "503")
    routes.observe(("/a", "cam"), None)
    a = {"route": "/a", "plugin": "cam", "requests": 4, "failed": 1, "recent": 1}
    own = {"route": "/own", "plugin": None, "requests": 1, "failed": 1, "recent": 1}
    assert routes.told() == [
        {**own, "error": "503", "at": 105.0},
        {**a, "error": "internal_server_error", "at": 100.0},
    ]
    routes.begin_step()
    assert [(item["route"], item["recent"]) for item in routes.told()] == [("/own", 1), ("/a", 0)]
    routes.begin_step()
    assert len(routes.told()) == 2
    routes.begin_step()  # the first step goes
    assert [item["route"] for item in routes.told()] == ["/own"]
    routes.begin_step()
    assert routes.told() == []


def test_what_is_told_and_kept_is_bounded() -> None:
    clock = Clock()
    routes = FailingRoutes(steps=3, recent=1, clock=clock)
    for n in range(MOST + 5):
        clock.now += 1
        routes.observe((f"/{n}", "cam"), "500")
    assert [item["route"] for item in routes.told()] == [f"/{n}" for n in range(MOST + 4, 4, -1)]
    for _ in range(3):
        routes.begin_step()
    assert (routes.told(), routes._last) == ([], {})
