"""Pages have the parts that a reader looks for, and the files that documents link to exist."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import pages  # noqa: E402

from vtokens.strategies import describe, list_strategies  # noqa: E402


def test_every_page_of_a_strategy_has_its_parts():
    """A title, what it does, the card, and, of a published method, where this differs from paper and release."""
    for name in list_strategies():
        page = pages.page(name)
        text = page.read()
        title, _, rest = text.partition("\n")
        assert re.fullmatch(rf"# {name}: \S.*", title), f"{name}.md begins with {title!r}: '# {name}: a few words'"
        assert text.count(page.opening("card")) == 1, f"{name}.md has no place for its card"
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
        for shown in (told.shown, *told.given[2:]):
            file, _, test = shown.partition("::")
            if file:
                function = test.partition("[")[0].rpartition("::")[2]
                assert re.search(
                    rf"^\s*def {function}\(|^{function} = ", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE
                ), shown
        if told.given:
            assert told.given[0].partition("=")[0] in told.fields, f"{name} has no setting {told.given[0]!r}"


def test_links_between_documents_hold():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


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


def test_the_files_that_the_architecture_names_exist():
    """Modules with their folder, as `engine/hooks.py`; a name without one stands beside the one before it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`", text)
    assert len(named) > 100
    assert [one for one in named if not (ROOT / "vtokens" / one).exists() and not (ROOT / one).exists()] == []
    packages = {path.parent.name for path in (ROOT / "vtokens").glob("*/__init__.py")}
    assert (
        sorted(package for package in packages if not re.search(rf"`{package}/|\b{package}\[|and {package}\b", text))
        == []
    )
