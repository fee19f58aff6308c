"""A real Chromium without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

_ARGUMENTS = [
    "--no-sandbox",  # tests run as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that is installed, with a profile of its own; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed (Debian package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page and everything that went wrong in it: errors in its console, in its scripts, requests to elsewhere."""

    def __init__(self, page: Page, home: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.expecting_trouble = False
        page.set_default_timeout(PATIENCE_MS)
        self._home = home
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._check_address)

    def _hear(self, message: ConsoleMessage) -> None:
        # A browser reports every connection that a killed server refuses.
        expected = self.expecting_trouble and "net::ERR_" in message.text
        if message.type in ("error", "warning") and not expected:
            self.errors.append(message.text)

    def _check_address(self, request: Request) -> None:
        if not request.url.startswith((self._home, "data:")):
            self.errors.append(request.url)
