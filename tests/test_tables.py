"""The generated parts of the README and of docs are those that `python tools/readme.py` writes."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import filter_page  # noqa: E402
import pages  # noqa: E402
import readme  # noqa: E402
import sections  # noqa: E402
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


def test_the_list_of_strategies_is_fresh():
    text = (pages.PAGES / "README.md").read_text(encoding="utf-8")
    assert sections.opening("strategies", readme.COMMAND) in text
    assert text == pages.updated("README", text), "run: python tools/readme.py"


def test_the_tables_of_the_filters_guide_are_fresh():
    text = filter_page.PAGE.read_text(encoding="utf-8")
    assert text == filter_page.updated(text), "run: python tools/readme.py"
