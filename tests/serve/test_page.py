"""The page's files: what is sent, with which headers, and that nothing of it comes from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from vtokens.report import side_by_side
from vtokens.serve.page import HEADERS, add_page, parts


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    add_page(app)
    with TestClient(app) as found:
        yield found


def test_it_is_small_and_needs_nothing_from_elsewhere() -> None:
    """Every file that one of them names is one of them; the HTML holds no script or style, which would be refused."""
    found = parts()
    assert sum(len(content) for content, _ in found.values()) < 60_000
    texts = {path: content.decode() for path, (content, kind) in found.items() if kind.startswith("text/")}
    named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', texts["/"]))
    named |= {f"page/{name}" for text in texts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    named |= {name for text in texts.values() for name in re.findall(r'fetch\("(page/[^"]+)"', text)}
    assert {f"/{name}" for name in named} == {*found} - {"/"}
    for path, text in texts.items():
        assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", text), path
    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on[a-z]+=", texts["/"])


def test_it_looks_as_the_other_pages_do() -> None:
    """One style and one theme for the report, for comparisons and for this."""
    style = parts()["/page/style.css"][0].decode()
    assert side_by_side.STYLE in style
    assert "--card: light-dark(" in style


def test_what_is_sent_and_how(client: Any) -> None:
    for path, (content, kind) in parts().items():
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert client.head(path).headers["content-length"] == str(len(content))
    assert client.get("/page/../page.js").status_code == 404
    assert client.get("/page/__init__.py").status_code == 404
    assert client.post("/").status_code == 405
    assert not client.get("/openapi.json").json()["paths"]
