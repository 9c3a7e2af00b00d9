"""The public API is what tests/files/api.txt says, and what changed since the last release is in the changelog."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import api  # noqa: E402

import vtokens  # noqa: E402
from tests.pages.blocks import PAGES, blocks  # noqa: E402

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return api.snapshot()


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Names that are in one of two snapshots, or in both with other lines."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def unmentioned(names: list[str], text: str) -> list[str]:
    """Those of some names that a text does not speak of; members of a class that is new or gone, if it names that."""
    return [name for name in names if not any(_said(one, text) for one in _words(name, names))]


def _words(name: str, names: list[str]) -> list[str]:
    """What speaks of a name: its last word, and that of each class, command or module in `names` that it belongs to.

    Of the arguments of a class its name does.
    """
    name = name.removesuffix(".__init__")
    parts = re.split(r"[ .]", name.removeprefix("$ ")) if not name.startswith("$") else name.split(" ")
    joined = " " if name.startswith("$") else "."
    above = (joined.join(parts[:length]) for length in range(1, len(parts)))
    return [parts[-1], *(re.split(r"[ .]", one)[-1] for one in above if one in names)]


def _said(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def since(released: str, text: str = CHANGELOG) -> str:
    """The changelog's sections above that of a release."""
    return re.split(rf"^## \[{re.escape(released)}\]", text, maxsplit=1, flags=re.MULTILINE)[0]


def test_the_snapshot_is_that_of_the_code(now: dict[str, str]) -> None:
    """Or else the difference, and what to do."""
    written, fresh = api.SNAPSHOT.read_text(encoding="utf-8"), api.text(now, api.HEAD)
    difference = difflib.unified_diff(written.splitlines(), fresh.splitlines(), "api.txt", "the code", n=0, lineterm="")
    assert written == fresh, (
        "\n".join(difference)
        + "\n\nThe public API changed. If that is meant, run `python tools/api.py`, and name what "
        "changed in CHANGELOG.md under Unreleased (names that go away: docs/versioning.md says how)."
    )


def test_a_line_can_be_read_back(now: dict[str, str]) -> None:
    assert api.read(api.SNAPSHOT) == now


def test_what_changed_since_the_last_release_is_in_the_changelog(now: dict[str, str]) -> None:
    version = api.RELEASED.read_text(encoding="utf-8").splitlines()[0].split()[-1]
    missing = unmentioned(differences(api.read(api.RELEASED), now), since(version))
    assert not missing, f"since {version} these changed, and CHANGELOG.md does not say so: {missing}"


def test_what_counts_as_changed_and_as_said() -> None:
    """A snapshot in which names came, went and changed, against texts that name them or do not."""
    arguments = "vtokens.Kept.__init__"
    before = {
        arguments: "()",
        "vtokens.load": "(name)",
        "vtokens.Old": ": class()",
        "vtokens.Old.part": ": int",
        "strategy cls": "",
    }
    after = {
        arguments: "(path)",
        "vtokens.load": "(path)",
        "strategy cls": "",
        "$ vtokens cite": "",
        "$ vtokens cite --out": " FILE",
    }
    names = differences(before, after)
    assert names == [
        "$ vtokens cite",
        "$ vtokens cite --out",
        arguments,
        "vtokens.Old",
        "vtokens.Old.part",
        "vtokens.load",
    ]
    assert unmentioned(names, "`Old` is gone, `vtokens cite` is new, and `load` and `Kept` take a path") == []
    assert unmentioned(names, "`Older` is gone; load-bearing") == names
    assert unmentioned(["$ vtokens run --keep"], "vtokens run has --keep-going") == ["$ vtokens run --keep"]
    assert since("0.2.0", "## [Unreleased]\nnew\n## [0.2.0]\nold\n") == "## [Unreleased]\nnew\n"


def imported() -> set[str]:
    """What the Python of README and docs imports of the package, a line each."""
    code = "\n".join(block.text for page in PAGES for block in blocks(page) if block.kind == "python")
    found = re.findall(r"^\s*from (vtokens[\w.]*) import (?:\(([^)]*)\)|(.*?)(?:  #.*)?$)", code, re.MULTILINE)
    return {
        f"{module}.{name.strip()}" for module, *names in found for name in "".join(names).split(",") if name.strip()
    }


def test_what_documents_import_is_public(now: dict[str, str]) -> None:
    """Names and packages: what a page tells a reader to import cannot go away without a word."""
    found = imported()
    assert len(found) > 20
    homes = {name.rpartition(".")[0] for name in now}
    assert sorted(name for name in found if name not in now and name not in homes) == []


def test_everything_that_is_exported_is_in_the_snapshot(now: dict[str, str]) -> None:
    assert {f"vtokens.{name}" for name in vtokens.__all__} - {"vtokens.strategies"} <= set(now)
