"""docs/results-format.md names every field there is, and no other."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.eval.sweeping import lines, small
from vtokens.eval import Answer
from vtokens.eval.manifest import SCHEMA

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")
TEXT = (Path(__file__).parents[2] / "docs" / "results-format.md").read_text(encoding="utf-8")


def described(section):
    """The field names in the first column of a section's tables."""
    body = TEXT.split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in body.splitlines() if row.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_the_document_and_the_files_agree(tmp_path):
    small(tmp_path, tasks=["scenes_vqa"], strategies=["none"], keeps=[], limit=2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert described("manifest.json") == {*manifest}
    for part in ("versions", "hardware", "model", "settings"):
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{part}`"))
        assert {*manifest[part]} <= {*re.findall(r"`(\w+)`", row)}
    assert f"Schema {SCHEMA}." in TEXT
    answers = lines(next((tmp_path / "answers").iterdir()))
    samples = lines(tmp_path / "samples.jsonl")
    assert {*answers[0]} == {field.name for field in fields(Answer)}
    assert described("answers and samples.jsonl") == {*samples[0]}
    assert described("results.jsonl") == {*lines(tmp_path / "results.jsonl")[0]}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert described("summary.json") | {"name", "keep", "task", "metric", "seeds"} == {*summary[0]}
    listed = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert all(f"`{name}" in TEXT for name in listed)
