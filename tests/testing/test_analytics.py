"""The check of analytics plugins finds what is wrong with them, and says where."""

import pytest

from lva.testing.analytics import check_analytics
from tests.host.loading.test_installed import install, site  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow("real worker processes")

HEAD = """
import os, time
from lva import AnalyticsEvent, BaseAnalyticsPlugin

class Eye(BaseAnalyticsPlugin):
"""

FAULTS = {
    "raises": ("def handleFrame(self, frame): return 1 / 0", "division by zero"),
    "returns": (
        "def handleFrame(self, frame): return 5",
        "returns or yields AnalyticsEvents, not int",
    ),
    "open": (
        "def open(self, stream): raise OSError('no model')\n    def handleFrame(self, frame): pass",
        "no model",
    ),
    "ends": ("def handleFrame(self, frame): os._exit(3)", "exit code 3"),
    "size": (
        "def handleFrame(self, frame): assert frame.size == (640, 360), 'another size'",
        "another size",
    ),
    "async": ("async def handleFrame(self, frame): pass", "is async; write `def handleFrame`"),
    "abstract": ("x = 1", "does not define handleFrame()"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(fault: str):
    body, said = FAULTS[fault]
    report = check_analytics(f"{HEAD}    {body}\n")
    assert not report.ok
    assert said in str(report)


def test_a_good_one_passes():
    body = "def handleFrame(self, frame): yield AnalyticsEvent('seen', {}, frame.jpeg())"
    report = check_analytics(f"{HEAD}    {body}\n")
    assert report.ok, str(report)
    assert len(report.steps) == 5


def test_other_plugins_and_parameters_are_refused():
    assert "is no analytics plugin" in str(check_analytics("history"))
    assert "threshold: " in str(check_analytics("motion", {"threshold": 0}))


def test_one_of_an_installed_package_may_use_its_modules(site, monkeypatch):  # noqa: F811
    """The kind is a plugin that is found by its entry point, in a package with more than it."""
    body = "def handleFrame(self, frame): return AnalyticsEvent(WORD)"
    eye = f"from acme_lva.words import WORD\n{HEAD}    {body}\n"
    install(site, "eye = acme_lva.eye", eye=eye)
    monkeypatch.setenv("PYTHONPATH", str(site))
    report = check_analytics("eye")
    assert report.ok, str(report)
