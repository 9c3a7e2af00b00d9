"""What works with what: the tables of docs/support.md and the README's, from the registries and adapters.

`python tools/readme.py` writes them too.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

from shared import ROOT, Page, markdown
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from vtokens.adapters import adapter_class, models
from vtokens.adapters.fits import fit, tower_scores
from vtokens.strategies import describe, list_strategies

#: The folder under vtokens/tables, who reads it, and what finds such numbers for other models.
CALIBRATED = (
    ("thresholds", "dymu", "vtokens calibrate dymu MODEL --images FOLDER --out FILE"),
    ("sinks", "var", "vtokens calibrate var MODEL --out FILE"),
    ("patterns", "mminference", "vtokens search-patterns MODEL --out FILE"),
)

LINES = {
    "Cohere's Aya Vision, Command A Vision": ("aya_vision", "cohere2_vision"),
    "DeepSeek-VL, Janus": ("deepseek_vl", "janus"),
    "FastVLM": ("fast_vlm",),
    "Gemma 3 and 4, PaliGemma 1 and 2": ("gemma3", "gemma4", "paligemma"),
    "GLM-4.1V to 4.6V": ("glm4v", "glm4v_moe", "glm46v"),
    "Idefics3, SmolVLM": ("idefics3", "smolvlm"),
    "InternVL3 and 3.5": ("internvl",),
    "Kimi K2.5": ("kimi_k25",),
    "LFM2-VL": ("lfm2_vl",),
    "LightOnOCR, PaddleOCR-VL": ("lighton_ocr", "paddleocr_vl"),
    "Llama 3.2 Vision, Llama 4": ("mllama", "llama4"),
    "LLaVA 1.5 to OneVision, ViP, Video-LLaVA": (
        "llava", "llava_next", "llava_next_video", "llava_onevision", "vipllava", "video_llava"
    ),
    "MiniCPM-V 4.6": ("minicpmv4_6",),
    "Mistral 3": ("mistral3",),
    "Molmo 2": ("molmo2",),
    "Ovis2": ("ovis2",),
    "Perception-LM": ("perception_lm",),
    "Qwen2-VL to Qwen3.5": ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
    "Qwen2.5-Omni, Qwen3-Omni": ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
}  # fmt: skip
"""How families are called by whoever brings them out -> their `model_type`s, for the README."""


def lines() -> str:
    """A row for each line of families: an example of a checkpoint, what each is shown.

    Raises:
        ValueError: a family that is in no line, or in two.
    """
    named = sorted(family for line in LINES.values() for family in line)
    if named != models():
        raise ValueError(f"name each family in one line of LINES: {sorted({*named} ^ {*models()}) or named}")
    rows = []
    for line, those in LINES.items():
        example = next(example for family in those for example in adapter_class(family).examples)
        takes = {family: " and ".join(_takes(family)) for family in those}
        clips = [f"`{family}`" for family, what in takes.items() if "videos" in what]
        told = (
            "images; " + (f"videos: {', '.join(clips)}" if len(clips) < len(those) else "videos") if clips else "images"
        )
        rows.append([line, ", ".join(f"`{family}`" for family in those), f"`{example}`", told])
    return markdown(["families", "`model_type`", "for example", "takes"], rows)


def families() -> str:
    """A row for each family: its class, checkpoints, what it is shown, where its tower's scores come from."""
    lines = []
    for family in models():
        adapter = adapter_class(family)
        name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family]
        examples = ", ".join(f"`{example}`" for example in adapter.examples)
        lines.append([f"`{family}`", f"`{name}`", examples, ", ".join(_takes(family)), tower_scores(family)])
    return markdown(["family", "class", "for example", "takes", "scores of the tower"], lines)


def matrix() -> str:
    """Every strategy with every family; in brackets the tower's scores it asks for, or that it has to be calibrated."""
    lines = []
    for name in list_strategies():
        cells = [fit(name, family) for family in models()]
        lines.append([f"[`{name}`](strategies/{name}.md)", ", ".join(describe(name).stages), *cells])
    return markdown(["strategy", "acts at", *(f"`{family}`" for family in models())], lines)


def calibrated() -> str:
    """The numbers found for a model that come with the package."""
    lines = []
    for folder, strategy, command in CALIBRATED:
        shipped = sorted(path.stem for path in (ROOT / "vtokens" / "tables" / folder).glob("*.json"))
        names = ", ".join(f"`{name}`" for name in shipped)
        lines.append([folder, f"`{strategy}`", names, f"`{command}`"])
    return markdown(["numbers", "for", "ship for", "for other models"], lines)


def tested() -> str:
    """The releases the tests ran on, from `make test-matrix`, and those they did not."""
    found = json.loads((ROOT / "requirements" / "tested.json").read_text(encoding="utf-8"))
    lines = []
    for name, row in sorted(found.items(), key=lambda item: item[1]["transformers"]):
        failed = f", {row['failed']} failed" if row["failed"] else ""
        told = f"{row['passed']:,} passed{failed}, {row['skipped']} skipped ({row['date']})"
        lines.append([name, row["python"], row["torch"], row["transformers"], row["device"], told])
    prefix = "Programming Language :: Python :: "
    named = {text.removeprefix(prefix) for text in _project()["classifiers"] if text.startswith(f"{prefix}3.")}
    missing = sorted(named - {row["python"].rpartition(".")[0] for row in found.values()})
    head = ["tested with", "Python", "torch", "transformers", "on", "engine and strategy tests"]
    return markdown(head, lines) + (
        f"\nThe whole suite runs on what `requirements/` pins: {_pins('torch', 'transformers')}. **Not run:** Python "
        f"{', '.join(missing)} (resolved in the lock, with a wheel for each package), other releases of torch and "
        "transformers in the allowed ranges, and whatever needs a GPU. `make test-matrix` fills this table.\n"
    )


def _takes(family: str) -> list[str]:
    """What a family is shown, by the modalities that it declares."""
    return [f"{modality}s" for modality in adapter_class(family).anatomy.towers]


def _pins(*names: str) -> str:
    lines = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8").splitlines()
    held = {name: pin for name, _, pin in (line.partition("==") for line in lines)}
    return ", ".join(f"{name} {held[name]}" for name in names)


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


PAGE = Page(
    ROOT / "docs" / "support.md",
    "python tools/support.py",
    {"families": families, "matrix": matrix, "calibrated": calibrated, "tested": tested},
)

if __name__ == "__main__":
    PAGE.write()
