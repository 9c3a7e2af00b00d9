"""What the tests of the pages let pass, and what they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import shell
from tests.pages.blocks import Block, blocks
from tests.pages.outputs import differs
from tests.pages.test_blocks import unsaid

ROOT = Path(__file__).parents[2]
PAGE = """# A page

```python
print(1.25)
```

```
1.25
```

Prose, and a list:

- with a block

  <!-- not run: host -->
  ```nginx
  listen 80;
  ```

<!-- not run: hub: 14 GB -->

    vtokens run photo.jpg "What?" --model llava-hf/llava-1.5-7b-hf

A formula:

    a = b

<!-- slow -->

It counts for what comes next alone.

```sh
make test
```
"""


def found(tmp_path: Path, text: str = PAGE) -> list[Block]:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    return blocks(path)


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    told = [(block.line, block.kind, block.mark) for block in found(tmp_path)]
    assert told == [
        (3, "python", ""), (7, "output", ""), (16, "unknown", "host"), (22, "shell", "hub"), (26, "unknown", ""),
        (32, "shell", ""),
    ]  # fmt: skip


def test_a_block_that_is_neither_run_nor_marked_fails(tmp_path: Path) -> None:
    wrong = [block.line for block in found(tmp_path) if unsaid(block)]
    assert wrong == [26]
    (odd,) = found(tmp_path, "<!-- not run: lazy -->\n```python\nprint(1)\n```\n")
    assert "'not run: lazy' is none of hub, gpu" in unsaid(odd)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("cls: 14.0 of 144, 2.84 ms selecting", "cls: 14.0 of 144, 19.1 ms selecting\n", True),
        ("took 3 s", "took 12.5 s", True),
        ("took 3 steps", "took 4 steps", False),
        ("p 0.42", "p 0.43", True),
        ("p 0.42", "p 0.44", False),
        ("p 0.42", "q 0.42", False),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("unknown 'a'...", "unknown 'a', known: b", True),
        ("unknown 'a'...", "known 'a'", False),
        ("14 of 144", "15 of 144", False),
    ],
)
def test_what_counts_as_the_same_output(shown: str, printed: str, same: bool) -> None:
    assert (differs(shown, printed) == "") is same


@pytest.mark.parametrize(
    "line",
    [
        "vtokens run photo.jpg 'What?' --stratgy cls",
        "vtokens run photo.jpg 'What?' --strategy clss",
        "vtokens run photo.jpg 'What?' --model llava-hf/llava-1.5-70b-hf",
        "vtokens serve --preset fast=clss",
        "vtokens profile --preset llava-1.5-70b",
        "vtokens serv",
        "pip install '.[clii]'",
        "make tests",
        "python benchmarks/census.py --no-such-option",
        "lmms-eval eval --model vtokens --model_args pretrained=scenes-llava,strategy=fastw,keep=0.25",
        "npm install",
    ],
)
def test_commands_that_name_what_is_not_there(line: str) -> None:
    (words,) = shell.lines(line)
    with pytest.raises((ValueError, SystemExit)):
        shell.check(words)


def test_commands_go_on_behind_a_backslash_and_end_at_a_hash() -> None:
    text = "vtokens models   # all of them\n$ vtokens eval --tasks a \\\n    --out b\n\n"
    assert shell.lines(text) == [["vtokens", "models"], ["vtokens", "eval", "--tasks", "a", "--out", "b"]]


def test_what_is_not_run() -> None:
    for line, why in {
        "vtokens run photo.jpg 'What?' --model llava-hf/llava-1.5-7b-hf": "a model of the hub",
        "vtokens run https://example.org/a.jpg 'What?'": "something that is not here",
        "vtokens serve": "it takes long",
        "vtokens models": "",
    }.items():
        (words,) = shell.lines(line)
        assert shell.why_not_run(words, shell.check(words), slow=False) == why


def test_pages_install_extras_in_one_way() -> None:
    """From an index the name is vtokens, in a checkout "."; where a line tells one, it or its page tells the other."""
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "vtokens").rglob("*.md"), *ROOT.glob("notebooks/*.ipynb")]
    for page in pages:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("    pip install ") and "[" in line:
                named = {kind: re.findall(rf"'{kind}\[([\w,-]+)\]'", line) for kind in ("vtokens", r"\.")}
                assert named["vtokens"] == named[r"\."] != [], f"{page}: {line}"
            elif "'.[" in line and page.name != "install.md":
                assert "pip install" not in line, f"{page}: {line}"
