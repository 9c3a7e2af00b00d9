"""Every code block of README.md and docs is run, or parsed, or says in front of it why it is not."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.pages import shell
from tests.pages.blocks import PAGES, REASONS, ROOT, Block, blocks
from tests.pages.given import ELSEWHERE, GIVEN, fill
from tests.pages.outputs import differs
from tests.strategies.helpers import registry_restored

FOUND = {path.relative_to(ROOT).as_posix(): blocks(path) for path in PAGES}
ALL = [block for page in FOUND.values() for block in page]


def pages(*kinds: str) -> list[str]:
    """The pages with blocks of these kinds."""
    return [page for page, found in FOUND.items() if any(block.kind in kinds for block in found)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    fill(folder)
    return folder


@pytest.fixture
def files(filled: Path, tmp_path: Path) -> Path:
    """A folder for one page, so that no page lives on what another has written."""
    return Path(shutil.copytree(filled, tmp_path / "page"))


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--slow"))


def unsaid(block: Block) -> str:
    """What is wrong with how a block says that it is not run; "" if nothing is."""
    if block.mark not in ("", "slow", *REASONS):
        return f"{block}: 'not run: {block.mark}' is none of {', '.join(REASONS)}"
    if block.kind == "unknown" and not block.mark:
        return (
            f"{block}: {block.language or 'a block without a language'} is neither run nor marked `<!-- not run: -->`"
        )
    return ""


def test_every_block_is_run_or_says_why_it_is_not() -> None:
    assert [wrong for wrong in map(unsaid, ALL) if wrong] == []
    assert len(ALL) > 100


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # what peft asks of a model
@pytest.mark.parametrize("page", pages("python", "shell"))
def test_page(page: str, files: Path, slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A page from top to bottom, as its reader goes: Python in one namespace, commands on the files it has saved.

    What a block prints is what the page shows behind it. Commands are understood and name what there is; the quick ones
    run on the embedded models.
    """
    monkeypatch.chdir(files)
    names: dict[str, Any] = {"__name__": f"page_{Path(page).stem.replace('-', '_')}"}
    given, printed = list(GIVEN.get(page, ())), ""
    if page in ELSEWHERE:
        text = (ROOT / ELSEWHERE[page]).read_text(encoding="utf-8")
        assert Path(page).name in text, f"{ELSEWHERE[page]} does not run {page} any more"
    with registry_restored():
        for block in FOUND[page]:
            if block.kind == "output":
                assert not printed or not (wrong := differs(block.text, printed)), f"{block}: {wrong}"
            elif block.kind == "shell":
                printed = _commands(block, slow, monkeypatch, capsys)
            elif block.kind == "python":
                if block.mark != "part":
                    compile(block.text, str(block), "exec", dont_inherit=True)
                runs = page not in ELSEWHERE and (not block.mark or (slow and block.mark == "slow"))
                if runs and given and given[0][0] in block.text:
                    exec(compile(given.pop(0)[1], f"before {block}", "exec", dont_inherit=True), names)
                printed = _printed(block, names) if runs else ""


def _printed(block: Block, names: dict[str, Any]) -> str:
    out = io.StringIO()
    source = "\n" * block.line + block.text  # errors name the line of the page
    with contextlib.redirect_stdout(out):
        exec(compile(source, block.page, "exec", dont_inherit=True), names)
    return out.getvalue()


def _commands(block: Block, slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """What those commands of a block print that are run."""
    printed = ""
    for words in shell.lines(block.text):
        try:
            options = shell.check(words)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block}: {' '.join(words)}\n{error}\n{capsys.readouterr().err}") from error
        if not block.mark and not shell.why_not_run(words, options, slow):
            capsys.readouterr()
            shell.run(words, monkeypatch)
            printed += capsys.readouterr().out
    return printed


@pytest.mark.parametrize("block", [block for block in ALL if block.kind in ("data", "diagram")], ids=str)
def test_data(block: Block) -> None:
    """It is what its fence says."""
    if block.language == "mermaid":
        assert block.text.split()[0] in ("flowchart", "sequenceDiagram")
    elif block.language == "ini":
        reader = configparser.ConfigParser(strict=False, interpolation=None)
        reader.optionxform = str  # type: ignore[assignment,method-assign]
        reader.read_string(block.text)
        assert reader.sections()
    else:
        read = {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}[block.language]
        assert read(block.text)
