"""The generated parts of docs/your-model.md: commands for published models, and what to expect of them, computed.

Nothing is downloaded or run: shapes come from `vtokens.eval.presets`, visual tokens from the adapters, pictures are
resized and tiled as transformers' processors do it. `python tools/readme.py` writes them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from shared import COMMAND, ROOT, Page, markdown
from transformers import AutoModelForImageTextToText
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vtokens.adapters import Adapter, adapter_for
from vtokens.adapters.fits import fit
from vtokens.core.budget import budget
from vtokens.core.costs import kv_bytes
from vtokens.eval.presets import preset
from vtokens.eval.synthetic import noise
from vtokens.strategies import describe, list_strategies

PICTURE = (1024, 768)
"""Pixels, width and height, of the photograph that the tables are about."""
TILES = 12
"""The most tiles that InternVL3's processor cuts a picture into, beside a thumbnail."""
KEEPS = (1.0, 0.5, 0.25, 0.1)
BYTES = 2
"""Of a number in bfloat16."""
FASTV = int(str(describe("fastv").fields["layer"][1]))
"""The decoder layer before which `fastv` drops tokens, by default."""


@dataclass(frozen=True)
class Model:
    """A published model: its name, its hub id, the preset with its shape, and what is to be known of it."""

    name: str
    hub: str
    preset: str
    note: str


MODELS = (
    Model("LLaVA-1.5-7B", "llava-hf/llava-1.5-7b-hf", "llava-1.5-7b",
          "Every picture is 336 x 336 pixels to it. Its cache has as many key-value heads as heads, so dropped tokens "
          "save most memory here."),
    Model("LLaVA-NeXT (Mistral 7B)", "llava-hf/llava-v1.6-mistral-7b-hf", "llava-next-mistral-7b",
          "It sees a small picture and up to four crops. Newline tokens between rows of crops are not visual tokens "
          "and stay at any keep; they are counted in the cache."),
    Model("Qwen2.5-VL-7B", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b",
          "A token stands for 28 x 28 pixels. Fewer pixels (`max_pixels` of its processor) are the first thing to try; "
          "`downsample(keep=0.25)` does the same for one call."),
    Model("Qwen3-VL-8B", "Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl-8b",
          "A token stands for 32 x 32 pixels. Features of earlier tower blocks that join behind the first decoder "
          "layers are cut along."),
    Model("InternVL3-8B", "OpenGVLab/InternVL3-8B-hf", "internvl3-8b",
          "A picture is cut into up to twelve tiles of 448 x 448 pixels and a thumbnail, of 256 tokens each; all are "
          "one picture to a strategy. Its class tokens may rank patches badly: prefer what reads features or the "
          "decoder."),
)  # fmt: skip


def models() -> str:
    """A section for each model: how to run it, and what a picture of it holds at each keep."""
    return "\n".join(_section(model) for model in MODELS)


def _section(model: Model) -> str:
    short = model.preset
    lines = [
        f"### {model.name}",
        "",
        model.note,
        "",
        "*Not run here:*",
        "",
        "<!-- not run: hub -->",
        "```python",
        "import vtokens",
        "",
        "model, processor = vtokens.load(",
        f'    "{model.hub}", strategy="divprune", keep=0.25, dtype="bfloat16", device_map="auto"',
        ")",
        'question = {"type": "text", "text": "What is on the table?"}',
        'chat = [{"role": "user", "content": [{"type": "image", "path": "photo.jpg"}, question]}]',
        "inputs = processor.apply_chat_template(",
        '    chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"',
        ").to(model.device, model.dtype)",
        "tokens = model.generate(**inputs, max_new_tokens=64)",
        'print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "print(vtokens.attachment(model).report())",
        "vtokens.detach(model)",
        'handle = vtokens.attach(model, "fastv(keep=0.1)")  # another one on the same model',
        "```",
        "",
        "<!-- not run: hub -->",
        "```sh",
        f'vtokens run photo.jpg "What is on the table?" --model {model.hub} \\',
        "    --strategy divprune --keep 0.25 --device cuda --dtype bfloat16 --overlay kept.png",
        f"vtokens eval --model {model.hub} --tasks pope --strategies none,random,divprune,fastv \\",
        f"    --keep 0.5,0.25,0.1 --device cuda --out runs/{short}",
        f"vtokens serve {model.hub} --device cuda --dtype bfloat16 \\",
        '    --preset quarter="divprune(keep=0.25)"',
        f"vtokens profile --preset {short} --strategy divprune,fastv --keep 0.5,0.25,0.1 --device cuda",
        "```",
        "",
        *_expected(model),
        "",
    ]
    return "\n".join(lines)


def _expected(model: Model) -> list[str]:
    """What a picture holds at each keep, before the decoder and, with `fastv`, inside it."""
    config, (tokens, positions) = preset(model.preset).get_text_config(), counted(model.preset)
    depth, rest = config.num_hidden_layers, positions - tokens
    kept = [budget(tokens, keep) for keep in KEEPS]
    inside = [[tokens] * FASTV + [count] * (depth - FASTV) for count in kept]
    rows = [
        ("visual tokens, pruned before the decoder", [f"{count:,}" for count in kept]),
        ("KV cache of the picture, MB", [_mega(config, [count + rest] * depth) for count in kept]),
        (f"visual tokens a layer, `fastv` (from layer {FASTV} on)", [f"{sum(one) / depth:,.0f}" for one in inside]),
        ("KV cache of the picture, MB", [_mega(config, [count + rest for count in one]) for one in inside]),
    ]
    wide, high = PICTURE
    head = f"a photograph of {wide} x {high}, bfloat16"
    table = markdown([head, *(f"keep {keep:g}" for keep in KEEPS)], [[name, *cells] for name, cells in rows])
    return table.splitlines()


@cache
def counted(name: str, size: tuple[int, int] = PICTURE) -> tuple[int, int]:
    """(visual tokens, positions of the prompt) that a picture of `size` pixels takes on the model of a preset."""
    config = preset(name)
    with torch.device("meta"):
        adapter = adapter_for(AutoModelForImageTextToText.from_config(config))
    pictures = adapter.pictures("image", _given(adapter, config, size))
    return sum(picture.tokens for picture in pictures), sum(len(picture) for picture in pictures)


def _given(adapter: Adapter, config: Any, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """What the family's processor makes of a picture of `size`, of noise."""
    (width, height), vision, random = size, config.vision_config, torch.Generator()
    if hasattr(vision, "spatial_merge_size"):
        high, wide = smart_resize(height, width, vision.patch_size * vision.spatial_merge_size)
        return noise(config, 1, (wide, high), random)
    if config.model_type == "internvl":
        side = vision.image_size[0]
        columns, rows = get_optimal_tiled_canvas((height, width), (side, side), 1, TILES)
        return noise(config, columns * rows + (columns * rows > 1), (side, side), random)
    if getattr(config, "image_grid_pinpoints", None):
        return noise(config, 1, size, random)
    return noise(config, 1, (vision.image_size, vision.image_size), random)


def _mega(config: Any, lengths: Sequence[int]) -> str:
    return f"{kv_bytes(config, lengths, BYTES) / 1e6:,.1f}"


def needs() -> str:
    """For each of these models' families: what runs as it is, what asks for something first, and what is refused."""
    families = [preset(model.preset).model_type for model in MODELS]
    groups: dict[str, list[list[str]]] = {}
    for at, family in enumerate(families):
        for name in list_strategies():
            groups.setdefault(_group(fit(name, family)), [[] for _ in families])[at].append(name)
    lines = [[group, *map(_named, cells)] for group, cells in sorted(groups.items(), key=_order)]
    return markdown(["", *(model.name for model in MODELS)], lines)


_RUNS = "run as they are"


def _group(answer: str) -> str:
    if answer.startswith("no ("):
        return f"refused: {answer[4:-1]}"
    if "calibrated" in answer:
        return "want numbers found for the model ([calibrated](support.md))"
    if answer in ("yes", "at layers with attention"):
        return _RUNS
    if answer.startswith("yes ("):
        return f"run, and read the tower's {answer[5:-1]}"
    return f"run {answer}"


def _order(group: tuple[str, list[list[str]]]) -> tuple[int, str]:
    name = group[0]
    return (0 if name == _RUNS else 3 if name.startswith("refused") else 1 if "tower" in name else 2), name


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} strategies" if len(names) > 8 else ", ".join(f"`{name}`" for name in names)


PAGE = Page(ROOT / "docs" / "your-model.md", COMMAND, {"models": models, "needs": needs})

if __name__ == "__main__":
    PAGE.write()
