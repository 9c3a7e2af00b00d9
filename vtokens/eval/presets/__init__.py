"""Configurations of published models, for profiling their shape without their weights.

Each JSON file is what the published `config.json` says as far as shape goes, written down anew: `llava-1.5-7b` is
llava-hf/llava-1.5-7b-hf, `llava-next-7b` llava-hf/llava-v1.6-vicuna-7b-hf, `llava-onevision-7b`
llava-hf/llava-onevision-qwen2-7b-ov-hf, and the Qwen ones the Instruct models of their name. `llava-next-mistral-7b`
(llava-hf/llava-v1.6-mistral-7b-hf) and `internvl3-8b` (OpenGVLab/InternVL3-8B-hf) were put together from the published
shapes of what they are built on, Mistral-7B-Instruct-v0.2 and Qwen2.5-7B with InternViT-300M.
"""

from __future__ import annotations

import json
from importlib import resources

from transformers import AutoConfig, PretrainedConfig

from vtokens.core.errors import unknown

_FOLDER = resources.files(__package__)


def presets() -> list[str]:
    """The names of all presets."""
    return sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name.endswith(".json"))


def preset(name: str) -> PretrainedConfig:
    """The configuration of a preset, as transformers' own class.

    Raises:
        ValueError: no such preset; names the nearest.
    """
    if name not in presets():
        raise unknown("preset", name, presets())
    return AutoConfig.for_model(**json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
