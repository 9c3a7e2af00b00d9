"""The code blocks of the documentation, as a Markdown parser finds them, with what says how each is tested.

A block that cannot run carries an HTML comment in front of it, `<!-- not run: REASON -->`, whose first word is one of
`REASONS`; `<!-- slow -->` has it run with ``--slow`` only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASONS = {
    "hub": "it loads a model from the hub",
    "gpu": "it needs a GPU",
    "host": "it needs another program, or a machine that others reach",
    "data": "it reads a data set that is not here",
    "part": "it is an excerpt and no program",
}
LANGUAGES = {
    "python": "python",
    "sh": "shell",
    "bash": "shell",
    "shell": "shell",
    "console": "shell",
    "json": "data",
    "yaml": "data",
    "toml": "data",
    "ini": "data",
    "mermaid": "diagram",
    "text": "text",
}
"""What a fence says it holds -> how it is tested; others have to be marked."""
PROGRAMS = ("vtokens", "pip", "make", "git", "python", "lmms-eval", "torchrun", "accelerate", "vllm")
_MARK = re.compile(r"<!--\s*(?:(slow)|not run:\s*(\w+).*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: its file, from the root of the repository.
        line: where it begins, from 1 on.
        language: what its fence says; "" without one.
        kind: "python", "shell", "data", "diagram", "output" (directly behind code), "text", or "unknown".
        text: what it holds.
        mark: why it is not run, one of `REASONS`; "slow"; or "" if it is run.
    """

    page: str
    line: int
    language: str
    kind: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    page = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return list(_blocks(page, path.read_text(encoding="utf-8")))


def _blocks(page: str, text: str) -> Iterator[Block]:
    mark, before = "", ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "html_block":
            found = _MARK.fullmatch(token.content.strip())
            mark, before = (found[1] or found[2] if found else ""), ""
        elif token.type in ("fence", "code_block") and token.map is not None:
            language = token.info.strip().partition(" ")[0] if token.type == "fence" else ""
            kind = _kind(token.type, language, token.content, before)
            yield Block(page, token.map[0] + 1, language, kind, token.content, mark)
            mark, before = "", kind
        elif not token.type.endswith("_open"):  # what a list or a quotation begins with stands between nothing
            mark, before = "", ""


def _kind(token: str, language: str, text: str, before: str) -> str:
    if token == "code_block":
        return "shell" if _commands(text) else "unknown"
    if before in ("python", "shell") and language in ("", "text"):
        return "output"
    return LANGUAGES.get(language, "unknown")


def _commands(text: str) -> bool:
    first = next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    return first.removeprefix("$ ").split(" ")[0] in PROGRAMS
