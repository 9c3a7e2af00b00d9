"""The README's generated parts are fresh, and the files it links to exist."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import filter_page  # noqa: E402
import pages  # noqa: E402
import readme  # noqa: E402
import sections  # noqa: E402
import support  # noqa: E402

from vtokens.strategies import describe, list_strategies  # noqa: E402


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


def test_the_list_of_strategies_is_fresh():
    text = (pages.PAGES / "README.md").read_text(encoding="utf-8")
    assert sections.opening("strategies", readme.COMMAND) in text
    assert text == pages.updated("README", text), "run: python tools/readme.py"


def test_every_page_of_a_strategy_has_its_parts():
    """A title, what it does, the card, and, of a published method, where this differs from paper and release."""
    for name in list_strategies():
        text = (pages.PAGES / f"{name}.md").read_text(encoding="utf-8")
        title, _, rest = text.partition("\n")
        assert re.fullmatch(rf"# {name}: \S.*", title), f"{name}.md begins with {title!r}: '# {name}: a few words'"
        assert text.count(sections.opening("card", readme.COMMAND)) == 1, f"{name}.md has no place for its card"
        does = rest.partition("<!-- card:")[0]
        assert len(does.split()) >= 15, f"{name}.md does not say before its card what it does"
        differs = re.search(r"^## Where this differs.*\n((?:(?!## ).*\n?)*)", text, re.MULTILINE)
        if describe(name).paper:
            assert len(differs[1].split() if differs else ()) >= 10, f"{name}.md does not say where this differs"


def test_every_published_strategy_names_a_test_that_shows_it():
    """Its evidence is told, and the test exists."""
    for name in list_strategies():
        told = describe(name)
        assert bool(told.evidence) == bool(told.paper), f"{name} has a paper, or evidence that it is its method, alone"
        assert told.shown or not told.evidence, f"{name} does not name the test that shows it"
        file, _, test = told.shown.partition("::")
        if file:
            function = test.partition("[")[0].rpartition("::")[2]
            assert re.search(rf"^\s*def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (
                told.shown
            )


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
