"""What a person at a terminal sees."""

from __future__ import annotations

import logging

import pytest

from lva.server.terminal import announce
from lva.settings import Settings


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:5240", "http://127.0.0.1:5240"),
        ("http://192.0.2.7:80", "http://192.0.2.7:80"),
        ("http://0.0.0.0:80", "http://127.0.0.1:80 and on all other addresses of this machine"),
        ("http://[::]:80", "http://[::1]:80 and on all other addresses of this machine"),
        ("unix:/run/lva.sock", "unix:/run/lva.sock"),
    ],
)
def test_the_first_lines_name_an_address_that_can_be_opened(caplog, address, told):
    caplog.set_level(logging.INFO, "lva.service")
    announce(Settings(), [], address)
    first, *_, last = [record.getMessage() for record in caplog.records]
    assert first == f"listening on {told}"
    assert caplog.records[0].address == address
    url = told.split()[0]
    assert (f"look next: {url}/ in a browser" in last) == url.startswith("http")
