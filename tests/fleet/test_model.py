"""A small fleet in virtual time, as `benchmarks/fleet_model.py` has large ones; the decisions are real."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest

MODEL = Path(__file__).parents[2] / "benchmarks" / "fleet_model.py"
LEASE, TICK = 10.0, 0.5


@pytest.fixture(scope="module")
def fleet_model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleet_model", MODEL)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["fleet_model"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_streams_are_shared_evenly_and_never_lie_free_for_long(fleet_model, seed) -> None:
    """The kind is what only many agents show: plans that hinder each other, streams that go to and fro."""
    model = fleet_model.Model(30, 600, LEASE, TICK, seed)
    model.run(2 * LEASE)
    assert max(model.waits["new"]) < 6 * TICK
    assert model.imbalance() < 0.2
    model.run(2 * LEASE)  # it is at rest
    before = model.counts.copy()
    model.run(2 * LEASE)
    assert set(model.counts - before) <= {"beats", "beats of others", "leases"}
    fleet_model.storm(model, 30.0, 12)
    model.run(3 * LEASE)
    assert model.idle() == 0
    assert max(model.waits["killed"]) < LEASE + 1
    assert statistics.median(model.waits["handed over"]) < 0.1
    assert max(model.waits["handed over"]) < 1.0 + 2 * TICK  # the other one has died
    assert model.imbalance() < 0.2
    model.outage(2 * LEASE)
    model.run(6 * LEASE)
    assert model.idle() == 0
    assert model.imbalance() < 0.2
    assert model.counts["two at once"] == 0
