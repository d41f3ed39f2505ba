"""The check of analytics plugins finds what is wrong with them, and says where and what to do."""

import re
from pathlib import Path

import pytest

from lva.testing.analytics import check_analytics
from tests.check.analytics_gallery import RIGHT_ANALYTICS, WRONG_ANALYTICS
from tests.host.loading.test_installed import install, site  # noqa: F401 - a fixture
from tests.testing.analytics_gallery import HEAD, RIGHT, WRONG, eye, looks

pytestmark = pytest.mark.slow("real worker processes")
#: Of each way to find a fault, these are tried in a plain run, beside `test_after_a_fault`; all in the
#: soak tier.
PLAIN = {"open raises", "changes the frame", "a null pointer", "leaves a thread"}


def kept_for_soak(names):
    return [pytest.param(name, marks=() if name in PLAIN else pytest.mark.soak) for name in names]


def test_the_gallery_is_large():
    assert len(WRONG) + len(WRONG_ANALYTICS) >= 20
    assert len(RIGHT) + len(RIGHT_ANALYTICS) >= 8


@pytest.mark.parametrize("name", kept_for_soak(WRONG))
def test_what_is_wrong_is_said(name, tmp_path):
    source, said = WRONG[name]
    source = source.replace("PATH", repr(str(tmp_path / "lock")))
    report = check_analytics(source, call_limit=0.7)
    assert not report.ok
    assert said in str(report), str(report)
    lines = [line for line, text in enumerate(source.splitlines(), 1) if text.endswith("# !")]
    if lines:
        assert [step.line for step in report.failures][:1] == lines, str(report)


@pytest.mark.parametrize("name", kept_for_soak(RIGHT))
def test_a_right_one_passes(name):
    report = check_analytics(RIGHT[name])
    assert report.ok, str(report)
    names = [re.sub(r"[\d.]+", "N", step.name) for step in report.steps]
    assert len(names) == 9
    assert "a frame took N ms, at most N ms" in names


def test_after_a_fault_the_rest_is_left_out():
    report = check_analytics(looks("return 1 / 0"))
    # How often it fails until it is set aside, which is told as well, is a matter of time.
    assert [step.ok for step in report.steps][:2] == [True, False]
    assert 2 <= len(report.steps) <= 3
    first = report.failures[0]
    said = "failed in handleFrame() at frame 1: ZeroDivisionError: division by zero"
    assert first.message == f"plugin_under_test {said}"
    assert Path(str(first.file)).name.startswith("plugin_under_test")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("async def handleFrame(self, frame): pass", "is async; write `def handleFrame`"),
        ("def handleFrame(self): pass", "calls `plugin.handleFrame(frame)`"),
    ],
)
def test_what_the_source_shows_needs_no_process(body, said):
    report = check_analytics(eye(body))
    assert said in str(report)
    assert len(report.steps) == 1


def test_other_plugins_and_parameters_are_refused():
    assert "is no analytics plugin" in str(check_analytics("history"))
    assert "threshold: " in str(check_analytics("motion", {"threshold": 0}))
    assert "does not define handleFrame()" in str(check_analytics(f"{HEAD}    x = 1\n"))


def test_one_of_an_installed_package_may_use_its_modules(site, monkeypatch):  # noqa: F811
    """The kind is a plugin that is found by its entry point, in a package with more than it."""
    body = "def handleFrame(self, frame): return AnalyticsEvent(WORD)"
    eye_source = f"from acme_lva.words import WORD\n{HEAD}    {body}\n"
    install(site, "eye = acme_lva.eye", eye=eye_source)
    monkeypatch.setenv("PYTHONPATH", str(site))
    report = check_analytics("eye")
    assert report.ok, str(report)
