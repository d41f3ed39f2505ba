"""What is noted of the service's own descriptors, and what somebody did to them."""

from __future__ import annotations

import os

import pytest

from lva.host.process.state import closed_descriptors, note_own, own_descriptors


@pytest.fixture
def pipe(monkeypatch):
    monkeypatch.setattr("lva.host.process.state.own_descriptors", set(own_descriptors))
    reader, writer = os.pipe()
    yield reader
    os.close(writer)


def test_a_descriptor_that_was_closed_is_told_also_once_another_file_has_its_number(pipe):
    note_own(pipe)
    assert pipe not in closed_descriptors()
    os.close(pipe)
    assert pipe in closed_descriptors()
    other = os.open("/dev/null", os.O_RDONLY)
    if other != pipe:
        os.dup2(other, pipe)
        os.close(other)
    assert pipe in closed_descriptors()
    note_own(pipe)  # the service has opened another one in its place
    assert pipe in closed_descriptors()
    os.close(pipe)
