"""What a shipped plugin needs beyond the service's own dependencies, and who is told how to install it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from lva.errors import ConfigurationError
from lva.host.loading import guarded_import
from lva.host.loading.load import load_plugins
from tests.support import host_settings

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("plugin", "package"),
    [
        ("codes", "cv2"),
        ("faces", "cv2"),
        ("people", "cv2"),
        ("otlp", "google"),
        ("otlp", "opentelemetry"),
        ("prometheus", "prometheus_client"),
        ("rabbitmq", "aio_pika"),
        ("redis_stream", "redis"),
    ],
)
def test_a_shipped_plugin_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: str, package: str
) -> None:
    """The kind: a hint to look for a package where an extra brings the right one, in the right version."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(host_settings(tmp_path, [plugin]))
    extra = guarded_import._EXTRAS[package]
    assert f"pip install '/path/to/lva[{extra}]'" in str(caught.value)
    assert extra in PROJECT["optional-dependencies"]
