"""The notebooks: a fresh kernel without widgets gives what is stored, which is small and says nothing of a machine."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("a-strategy-of-ones-own", "compare", "hallucination", "prune-and-look")

sys.path.insert(0, str(ROOT / "tools"))
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

import notebooks  # noqa: E402


@pytest.fixture(scope="module", params=NAMES)
def stored(request: Any) -> Any:
    notebook = nbformat.read(notebooks.FOLDER / f"{request.param}.ipynb", as_version=4)
    notebook.path = notebooks.FOLDER / f"{request.param}.ipynb"
    return notebook


def test_these_are_all() -> None:
    assert {path.name for path in notebooks.FOLDER.iterdir()} >= {f"{name}.ipynb" for name in NAMES}
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == {*NAMES}


def test_what_is_stored_is_what_a_fresh_kernel_gives(stored: Any, tmp_path: Path) -> None:
    """Without ipywidgets and without a network, output for output; times aside, and the last digit of decimals."""
    (tmp_path / "ipywidgets.py").write_text("raise ImportError('no widgets here')\n")
    fresh = notebooks.normalised(notebooks.execute(stored.path, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}"))
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in stored.cells]
    found, expected = notebooks.read(fresh), notebooks.read(stored)
    assert [one.partition(":")[0] for one in found] == [one.partition(":")[0] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert notebooks.alike(one, other), f"run `make notebooks`:\n{one}\n\nis stored as\n\n{other}"


def test_what_is_stored_is_small_complete_and_of_no_machine(stored: Any) -> None:
    text = stored.path.read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    without = re.sub(r'"image/png": "[^"]*"|base64,[^"\\]*', "", text)  # letters in a row may spell anything
    for folder in {str(ROOT), str(Path.home()), tempfile.gettempdir(), sys.prefix, os.environ.get("TMPDIR", "/tmp")}:
        assert folder not in without
    assert not re.search(r"/(home|Users|usr|opt|mnt|var|tmp|root)/|[A-Z]:\\\\|site-packages|0x[0-9a-f]{6}", without)
    assert 8 <= len(stored.cells) <= 24
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(not cell.metadata for cell in stored.cells)
    assert {*stored.metadata} == {"kernelspec", "language_info"}
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert all(output.get("name") != "stderr" for output in outputs)


def test_links_lead_somewhere(stored: Any) -> None:
    for cell in stored.cells:
        for link in re.findall(r"\]\(([^)]+)\)", cell.source) if cell.cell_type == "markdown" else ():
            assert (stored.path.parent / link).exists(), link


def test_what_counts_as_the_same() -> None:
    """Times may differ, decimals by one unit of their last place; words, whole numbers and kinds may not."""
    cell = nbformat.v4.new_code_cell(
        outputs=[nbformat.v4.new_output("stream", text="first token 29.4 ms (0.85 of the time), 14")]
    )
    read = notebooks.read(nbformat.v4.new_notebook(cells=[cell]))
    assert read == ["text/plain: first token T ms (T of the time), 14"]
    assert notebooks.alike("p 0.993 of 12", "p 0.994 of 12")
    for other in ("p 0.995 of 12", "p 0.993 of 13", "q 0.993 of 12", "p 0.99 of 12", "p 0.993 of 12 or 1"):
        assert not notebooks.alike("p 0.993 of 12", other)
