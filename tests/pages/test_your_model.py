"""What docs/your-model.md says to expect, worked out again from numbers of the configurations; and its code, run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.families import build
from tests.pages.blocks import ROOT, blocks
from vtokens.eval import presets
from vtokens.scenes import examples

PAGE = ROOT / "docs" / "your-model.md"
WIDE, HIGH = 1024, 768
KEEPS = (1.0, 0.5, 0.25, 0.1)
NAMES = {
    "LLaVA-1.5-7B": "llava-1.5-7b",
    "LLaVA-NeXT (Mistral 7B)": "llava-next-mistral-7b",
    "Qwen2.5-VL-7B": "qwen2.5-vl-7b",
    "Qwen3-VL-8B": "qwen3-vl-8b",
    "InternVL3-8B": "internvl3-8b",
}


def numbers(name: str) -> dict[str, Any]:
    """The file of a preset as it stands, without transformers."""
    return json.loads((Path(presets.__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def section(title: str) -> str:
    return PAGE.read_text(encoding="utf-8").split(f"\n### {title}\n")[1].split("\n##")[0]


def llava(config: dict[str, Any]) -> tuple[int, int]:
    vision = config["vision_config"]
    return ((vision["image_size"] // vision["patch_size"]) ** 2, 0)


def llava_next(config: dict[str, Any]) -> tuple[int, int]:
    """A small picture, and the rows of the crops that the photograph fills, each with a newline behind it."""
    vision = config["vision_config"]
    side = vision["image_size"] // vision["patch_size"]

    def fits(size: list[int]) -> tuple[float, float]:
        high, wide = size
        scale = min(wide / WIDE, high / HIGH)
        used = min(int(WIDE * scale) * int(HIGH * scale), WIDE * HIGH)
        return used, used - wide * high

    high, wide = max(config["image_grid_pinpoints"], key=fits)
    rows, columns = side * high // vision["image_size"], side * wide // vision["image_size"]
    if columns / rows > WIDE / HIGH:  # the photograph fills the height, and the rest of the width is padding
        columns -= 2 * ((columns - rows * WIDE // HIGH) // 2)
    else:
        rows -= 2 * ((rows - columns * HIGH // WIDE) // 2)
    return side * side + rows * columns, rows


def qwen(config: dict[str, Any]) -> tuple[int, int]:
    vision = config["vision_config"]
    cell = vision["patch_size"] * vision["spatial_merge_size"]
    return round(WIDE / cell) * round(HIGH / cell), 0


def internvl(config: dict[str, Any]) -> tuple[int, int]:
    """The tiles whose shape is nearest to the photograph's, as many of them as there may be, and a thumbnail."""
    shapes = [(c, r) for c in range(1, 13) for r in range(1, 13) if c * r <= 12]
    columns, rows = min(shapes, key=lambda s: (abs(s[0] / s[1] - WIDE / HIGH), -s[0] * s[1]))
    return config["image_seq_length"] * (columns * rows + 1), 0


COUNTED = {"llava": llava, "llava_next": llava_next, "qwen2_5_vl": qwen, "qwen3_vl": qwen, "internvl": internvl}


@pytest.mark.parametrize("title", NAMES)
def test_tokens_and_bytes_are_those_of_the_configuration(title: str) -> None:
    """2 x layers x key-value heads x head width x bytes x tokens, the first layers of fastv seeing all tokens."""
    config = numbers(NAMES[title])
    text = config["text_config"]
    width = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    layers, one = text["num_hidden_layers"], 2 * text["num_key_value_heads"] * width * 2
    tokens, rest = COUNTED[config["model_type"]](config)
    kept = [math.floor(tokens * keep + 0.5) for keep in KEEPS]
    expected = [
        [f"{n:,}" for n in kept],
        [f"{layers * one * (n + rest) / 1e6:,.1f}" for n in kept],
        [f"{(2 * tokens + (layers - 2) * n) / layers:,.0f}" for n in kept],
        [f"{one * (2 * (tokens + rest) + (layers - 2) * (n + rest)) / 1e6:,.1f}" for n in kept],
    ]
    rows = [row.split("|")[2:-1] for row in re.findall(r"^\|.*\|$", section(title), re.MULTILINE)][2:]
    assert [[cell.strip() for cell in row] for row in rows] == expected


@pytest.mark.parametrize("title", NAMES)
def test_its_code_runs_on_a_tiny_model_of_the_class(title: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """With a folder in the place of the hub's id: the genuine class and processor, random weights."""
    config = numbers(NAMES[title])
    model, processor = build(config["model_type"])
    mark = getattr(processor, "image_token", None) or "<image>"
    parts = "{% if part.type == 'image' %}" + mark + "{% else %}{{ part.text }}{% endif %}"
    processor.chat_template = (
        "{% for turn in messages %}{% for part in turn.content %}" + parts + "{% endfor %}{% endfor %}"
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (code,) = [block.text for block in blocks(PAGE) if f'    "{hub(title)}", strategy=' in block.text]
    examples("test", n=1)[0].image.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace(hub(title), "model"), "your-model.md", "exec", dont_inherit=True), {})
    assert "divprune(keep=0.25): " in capsys.readouterr().out


def hub(title: str) -> str:
    found = re.search(r'vtokens\.load\(\s*"([^"]+)"', section(title))
    assert found is not None
    return found[1]
