"""The README's generated parts are fresh, and the files it links to exist."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import filter_page  # noqa: E402
import pages  # noqa: E402
import readme  # noqa: E402
import support  # noqa: E402

from vtokens.strategies import list_strategies  # noqa: E402


def test_the_tables_of_the_readme_are_fresh():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == readme.updated(text), "run: python tools/readme.py"


def test_the_tables_of_support_and_results_are_fresh():
    text = support.PAGE.read_text(encoding="utf-8")
    assert text == support.updated(text), "run: python tools/readme.py"
    text = readme.RESULTS_PAGE.read_text(encoding="utf-8")
    assert text == readme.updated_results(text), "run: python tools/readme.py"


def test_every_strategy_has_a_page_with_fresh_tables():
    for name in list_strategies():
        text = (pages.PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert text == pages.updated(name, text), "run: python tools/readme.py"


def test_the_tables_of_the_filters_guide_are_fresh():
    text = filter_page.PAGE.read_text(encoding="utf-8")
    assert text == filter_page.updated(text), "run: python tools/readme.py"


def test_links_between_documents_hold():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_figures_lie_in_one_folder_and_every_one_is_shown():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {
        (document.parent / target).resolve()
        for document in documents
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", document.read_text(encoding="utf-8"))
    }
    figures = {path for path in (ROOT / "docs").rglob("*") if path.is_file() and path.suffix != ".md"}
    assert figures == shown
    assert {path.parent for path in figures} == {ROOT / "docs" / "figures"}
