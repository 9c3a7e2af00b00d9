"""A real Chromium for the tests of the page: `tools/browser.sh` installs one where that is possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Seen:
    """A page, and what it complained about or asked the network for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def run(self, script: str, *arguments: Any) -> Any:
        """Evaluate JavaScript."""
        return self.page.evaluate(script, *arguments)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none, and fails under VTOKENS_REQUIRE_BROWSER=1."""
    found = next(filter(None, map(shutil.which, filter(None, (os.environ.get("VTOKENS_BROWSER"), *_NAMES)))), None)
    if found is None:
        if os.environ.get("VTOKENS_REQUIRE_BROWSER") == "1":
            pytest.fail("VTOKENS_REQUIRE_BROWSER=1, but there is no Chromium: run tools/browser.sh")
        pytest.skip("needs Chromium: apt-get install chromium, or name one in VTOKENS_BROWSER")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium refuses to sandbox what root starts.
        root = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=root)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light", **options: Any) -> Iterator[Seen]:
    """The page at `path`, in a window of its own.

    Reduced motion turns smooth scrolling off: a page that still scrolls to one element moves others away from under the
    pointer, and a click that goes down on one and up on another is none.
    """
    options = {"viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"} | options
    context = browser.new_context(color_scheme=scheme, **options)
    try:
        seen = Seen(context.new_page())
        seen.page.on("console", lambda m: seen.complaints.append(m.text) if m.type in ("error", "warning") else None)
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("request", lambda r: None if r.url.startswith("data:") else seen.requests.append(r.url))
        seen.page.goto(path.as_uri())
        yield seen
    finally:
        context.close()
