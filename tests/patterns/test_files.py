"""Patterns files: what is written is read, and what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from vtokens.scenes import embedded_path
from vtokens.tables.patterns import AShape, Grid, Head, Patterns, Run, VerticalSlash, known, read, run_of

SOME = Patterns(
    "llama-2x64x128",
    (64, 32),
    1.5,
    "a test",
    (
        (Head(Run("2d", Grid(strides=(14, 15), slashes=True)), 0.2, 0.1, 0.9), Head(Run(), 1.0, 0.0, 1.0)),
        (Head(Run("k", AShape(3, 4)), 0.1, 0.2, 0.8), Head(Run("q", VerticalSlash(5, 6, 7)), 0.3, 0.0, 1.0)),
    ),
)


def written(folder: Path, change: dict[str, Any] | None = None, entry: dict[str, Any] | None = None) -> Path:
    """`SOME` as a file, with fields of the file or of its first head changed."""
    path = folder / "patterns.json"
    SOME.save(path)
    content = json.loads(path.read_text())
    content["patterns"][0][0].update(entry or {})
    path.write_text(json.dumps(content | (change or {})))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """All of it, and the file says what it is for; indices are no part of it."""
    SOME.save(tmp_path / "here.json")
    assert read(tmp_path / "here.json") == SOME
    content = json.loads((tmp_path / "here.json").read_text())
    assert set(content) == {"schema", "decoder", "layers", "heads", "block", "ratio", "source", "patterns"}
    assert (content["schema"], content["layers"], content["heads"], content["block"]) == (1, 2, 2, [64, 32])
    head = content["patterns"][1][1]
    assert set(head) == {"inter", "intra", "params", "density", "score", "recall"}
    assert head["params"] == {"columns": 5, "diagonals": 6, "window": 7}


@pytest.mark.parametrize(
    ("change", "entry", "message"),
    [
        ({"schema": 2}, {}, "schema 2, this release reads 1"),
        ({"block": [64, 48]}, {}, r"block=\[64, 48\]: two of \(16, 32, 64, 128\)"),
        ({"ratio": 0}, {}, "ratio should be greater than 0, got 0"),
        ({"layers": 3}, {}, "patterns are not those of 3 layers with 2 heads each"),
        ({"heads": 3}, {}, "patterns are not those of 2 layers with 3 heads each"),
        ({}, {"inter": "qk"}, "unknown inter-modality pattern 'qk'"),
        ({}, {"intra": "gird"}, "unknown intra-modality pattern 'gird'. Did you mean 'grid'"),
        ({}, {"params": {"stride": [1]}}, "unknown parameter of 'grid': 'stride'. Did you mean 'strides'"),
        ({}, {"params": {"window": 1.5}}, "window=1.5 of 'grid': int is allowed"),
        ({}, {"params": {"rows": 1}}, "rows=1 of 'grid': bool is allowed"),
        ({}, {"params": {"strides": ["a"]}}, r"strides=\('a',\) of 'grid': tuple is allowed"),
        ({}, {"params": {"window": -1}}, "window=-1 of 'grid' is out of range: 0 and above"),
        ({}, {"density": "much"}, "density should be a valid number, got 'much'"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, change: dict[str, Any], entry: dict[str, Any], message: str) -> None:
    """With the file, what is wrong and how to get a right one."""
    assert read(written(tmp_path)) == SOME
    with pytest.raises(ValueError, match=rf"patterns.json' holds no patterns \(.*{message}.*`vtokens search-patterns"):
        read(written(tmp_path, change, entry))


def test_files_that_are_none(tmp_path: Path) -> None:
    """No file, no JSON, another object, a field that is missing."""
    for name, text in {"a.json": "{", "b.json": "[]", "c.json": '{"schema": 1}'}.items():
        (tmp_path / name).write_text(text)
    for name, message in {
        "no": "No such file",
        "a": "Expecting",
        "b": "should be an object",
        "c": "decoder is missing",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(tmp_path / f"{name}.json")


def test_patterns_of_the_embedded_model_ship() -> None:
    """They fit the model that ships beside them."""
    config = json.loads((embedded_path("scenes-llava") / "config.json").read_text())["text_config"]
    name = f"llama-{config['num_hidden_layers']}x{config['hidden_size']}x{config['intermediate_size']}"
    patterns = known(name)
    assert patterns is not None
    assert len(patterns.heads) == config["num_hidden_layers"]
    assert all(len(layer) == config["num_attention_heads"] for layer in patterns.heads)
    assert any(head.run.intra is not None for layer in patterns.heads for head in layer)
    assert all(0 < head.density <= 1 and 0 <= head.recall <= 1 for layer in patterns.heads for head in layer)
    assert known("llama-1x1x1") is None


def test_a_run_by_name() -> None:
    """Defaults are filled in; dense has no parameters of its own."""
    assert run_of("none", "a_shape", {"sink": 1}) == Run("none", AShape(1, 512))
    assert run_of("q", "grid", {"strides": [7]}) == Run("q", Grid(strides=(7,)))
    assert run_of("none", "dense", {}) == Run()
