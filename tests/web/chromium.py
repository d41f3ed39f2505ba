"""Debian's Chromium, driven by Playwright, for the tests of pages: it must find nothing to complain of."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

#: A name that leads here, and that the browser takes for another machine's.
ELSEWHERE = "agent.test"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser, with a profile of its own."""
    program = shutil.which("chromium")
    if program is None:
        why = "needs Debian's package chromium"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page whose complaints, and whose requests to other hosts, are noted.

    Attributes:
        page: Playwright's page.
        expected: What of the console's messages is no complaint, as patterns.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.begin(url)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._look(request.url))
        page.set_default_timeout(10_000)

    def begin(self, url: str) -> None:
        """Forget what was noted; from now on, only the host of `url` may be asked."""
        self._host = urlsplit(url).netloc
        self.expected: list[str] = []
        self.complaints: list[str] = []
        self.foreign: list[str] = []

    def _hear(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _look(self, url: str) -> None:
        if urlsplit(url).netloc != self._host:
            self.foreign.append(url)

    def check(self) -> None:
        """Fail if the page has complained, or has asked another host for anything."""
        left = [
            text
            for text in self.complaints
            if not any(re.search(pattern, text) for pattern in self.expected)
        ]
        assert left == [], left  # pytest tells of what is compared in tests alone
        assert self.foreign == [], self.foreign


@contextmanager
def watched_page(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """Open a new page in a context of its own; check it at the end."""
    context = browser.new_context(base_url=url, **options)
    watched = Watched(context.new_page(), url)
    try:
        yield watched
        watched.check()
    finally:
        context.close()


def until(page: Page, expression: str, timeout: float = 10.0) -> None:
    """Wait until an expression is true: Playwright's own way needs `eval`, which the pages do not allow."""
    deadline = time.monotonic() + timeout
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {expression}"
        page.wait_for_timeout(50)


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong with the page's accessibility, one line for each element."""
    if not page.evaluate("'axe' in globalThis"):  # its script is half a megabyte
        page.evaluate(Axe().axe_script)
    found = page.evaluate(
        "axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations)"
    )
    return [
        f"{item['id']}: {node['html'][:120]}: {node['failureSummary']}"
        for item in found
        for node in item["nodes"]
    ]
