"""The site in a real browser: everyone can read it, it fits a phone, asks nobody else, and finds strategies."""

from __future__ import annotations

import functools
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")
KINDS = {
    "home": "",
    "strategy": "strategies/fastv/",
    "tables": "costs/",
    "brought in": "project/governance/",
    "API": "reference/vtokens.report/",
    "commands": "reference/cli/",
    "nothing there": "404.html",
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/vtokens/"
        server.shutdown()


@functools.cache
def unfilled(address: str) -> dict[str, Any]:
    """The site's index of all words, without its words; read outside of a page, which may be closed meanwhile."""
    with urllib.request.urlopen(f"{address}search/search_index.json") as answer:
        return json.load(answer) | {"docs": []}


@contextmanager
def opened(
    browser: Any, address: str, path: str, width: int = 1280, scheme: str = "light", search: bool = False
) -> Iterator[Any]:
    """A page; no request leaves the site, and no script complains.

    Without `search` its index holds nothing: to build that is most of a page's work.
    """
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce"
    )
    try:
        page, complaints, asked = context.new_page(), [], []
        context.route(
            lambda url: not url.startswith(address), lambda route: (asked.append(route.request.url), route.abort())
        )
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if not search:
            page.route("**/search_index.json", lambda route: route.fulfill(json=unfilled(address)))
        page.goto(address + path)
        yield page
        assert asked == []
        assert complaints == []
    finally:
        context.close()


@pytest.mark.parametrize("path", KINDS.values(), ids=[*KINDS])
def test_everyone_can_read_it(browser: Any, address: str, path: str) -> None:
    """axe-core, light on a desk and dark on a phone: contrast, names, headings, landmarks, what scrolls."""
    from axe_playwright_python.sync_playwright import Axe

    for width, scheme, ours in ((1280, "light", "default"), (390, "dark", "slate")):
        with opened(browser, address, path, width, scheme) as page:
            assert page.evaluate("document.body.dataset.mdColorScheme") == ours
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("path", ["results/", "strategies/"])
def test_pages_fit_a_phone(browser: Any, address: str, path: str) -> None:
    """Tables and code scroll by themselves; the page does not."""
    with opened(browser, address, path, 390) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_search_finds_strategies_and_code_can_be_copied(browser: Any, address: str) -> None:
    with opened(browser, address, "", search=True) as page:
        assert page.locator("button.md-code__button[data-clipboard-target]").count() >= 2
        for name in ("fastv", "late_random", "weighted_kcenter", "dymu"):
            page.locator("input.md-search__input").fill("")
            page.locator("input.md-search__input").press_sequentially(name)
            page.wait_for_function(
                "name => document.querySelector('.md-search-result__item a')?.href.includes(`/strategies/${name}/`)",
                arg=name,
                timeout=60_000,
            )
