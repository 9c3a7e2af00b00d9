"""Links as the site has them, tables without a head, and what a build says that lacks its packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vtokens.strategies import list_strategies, parse

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "website"))

import described
import diagrams
import links

HOST = "https://host.example/one"


@pytest.mark.parametrize(
    ("path", "page", "written", "expected"),
    [
        ("docs/flow.md", "flow.md", "video.md", "video.md"),
        ("docs/flow.md", "flow.md", "../benchmarks/README.md#a", "project/benchmarks.md#a"),
        ("docs/strategies/cls.md", "strategies/cls.md", "../../SECURITY.md", "../project/security.md"),
        ("README.md", "project/readme.md", "docs/serve.md", "../serve.md"),
        ("README.md", "project/readme.md", f"{HOST}/blob/main/docs/serve.md#b", "../serve.md#b"),
        ("docs/flow.md", "flow.md", "../benchmarks/results", f"{HOST}/tree/main/benchmarks/results"),
        ("docs/flow.md", "flow.md", "../pyproject.toml", f"{HOST}/blob/main/pyproject.toml"),
        ("docs/flow.md", "flow.md", "https://elsewhere.example/a", "https://elsewhere.example/a"),
        ("docs/flow.md", "flow.md", "../no-such-file.md", "../no-such-file.md"),
        ("docs/flow.md", "flow.md", "#here", "#here"),
    ],
)
def test_links_lead_to_the_page_or_to_the_code_host(path: str, page: str, written: str, expected: str) -> None:
    assert links.rewritten(f"see [it]({written}).", path, page, HOST) == f"see [it]({expected})."


def test_what_is_code_is_no_link() -> None:
    text = "`a[0](../pyproject.toml)`\n\n```\n[b](../pyproject.toml)\n```\n"
    assert links.rewritten(text, "docs/flow.md", "flow.md", HOST) == text


def test_a_table_without_a_head_has_its_first_cells_for_heads() -> None:
    head, row = "<tr><th></th><th></th></tr>", "<tr><td>a</td><td>b</td></tr>"
    made = described.tables(f"<h2>What</h2><table><thead>{head}</thead><tbody>{row}</tbody></table>")
    assert '<th scope="row">a</th><td>b</td>' in made
    assert "<thead>" not in made
    assert 'aria-label="Table 1: What"' in made


def test_a_flow_chart_is_a_table_of_what_follows_from_what() -> None:
    chart = '```mermaid\nflowchart BT\n    a["one<br/>the first, & more"] --> b["two"] & c\n    b --> c\n```\n'
    assert diagrams.told(chart).splitlines()[2:] == [
        "| **one** | the first, & more |  |",
        "| **two** |  | one |",
        "| **c** |  | one, two |",
    ]
    with pytest.raises(ValueError, match="no row of arrows"):
        diagrams.told("```mermaid\nflowchart LR\n    one\n```\n")


def test_public_names_lead_to_the_reference() -> None:
    places = {"vtokens.attach": "reference/vtokens/#vtokens.attach"}
    html = (
        "<p><code>vtokens.attach(model)</code> <a href='x'><code>vtokens.attach</code></a> <code>vtokens.no</code></p>"
    )
    made = links.named(html, "strategies/cls/", places)
    linked = '<a href="../../reference/vtokens/#vtokens.attach"><code>vtokens.attach(model)</code></a>'
    assert made == html.replace("<code>vtokens.attach(model)</code>", linked)


def test_pages_of_strategies_say_how_to_ask_for_them() -> None:
    """What is said parses, and stands for the strategy as it is by default."""
    for name in list_strategies():
        spec = described.usage(name).partition('strategy="')[2].partition('"')[0]
        assert parse(spec) == parse(name), name


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """As under a Python whose packages are not there: -S leaves site-packages out."""
    build = Path(described.__file__).parent / "build.py"
    told = subprocess.run([sys.executable, "-S", str(build), "build"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "mkdocs-material" in told.stderr
    assert "pip install -e '.[dev]'" in told.stderr
