"""Models to be profiled: with their weights, or from a configuration alone with random ones, at any width and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PretrainedConfig, PreTrainedModel

from vtokens.adapters import models
from vtokens.core.errors import unknown
from vtokens.eval.presets import presets
from vtokens.loading.hub import check_reachable
from vtokens.scenes import embedded_models, embedded_path


def locate(source: str) -> str:
    """The folder, file or hub id that `source` stands for; an embedded model is a folder.

    Raises:
        ValueError: neither; names the nearest embedded model or preset.
        OSError: a hub id that is not in the cache while the hub cannot be reached.
    """
    if source in embedded_models():
        return str(embedded_path(source))
    if Path(source).exists():
        return source
    if source in presets():
        raise ValueError(f"{source!r} is a preset, which has no weights: give it as --preset {source}")
    if source.count("/") != 1 or source.startswith((".", "/")):
        kind = "model (no embedded model, folder or file; hub ids look like 'owner/name'):"
        raise unknown(kind, source, [*embedded_models(), *presets()])
    check_reachable(source)
    return source


def read_config(source: str) -> PretrainedConfig:
    """The configuration at a folder, a `config.json` or a hub id.

    Raises:
        ValueError, OSError: as `locate`; what is no configuration of a model; a family without an adapter.
    """
    where = locate(source)
    try:
        config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no configuration of a model that transformers knows at {source!r}: {error}") from error
    return supported(config, source)


def supported(config: PretrainedConfig, name: str) -> PretrainedConfig:
    """`config`, if there is an adapter for its family.

    Raises:
        ValueError: there is none yet; names the supported families.
    """
    if config.model_type not in models():
        raise ValueError(
            f"{name} is of the family {config.model_type!r}, for which there is no adapter yet: "
            f"supported are {', '.join(models())}"
        )
    return config


def resize(config: PretrainedConfig, scale: int = 1, layers: int | None = None) -> tuple[PretrainedConfig, str]:
    """A smaller model of the same shape, whose heads keep their width and whose pictures keep their tokens.

    Args:
        config: of the whole model; left as it is.
        scale: divides every width and number of heads, of decoder and tower.
        layers: decoder layers; the tower's depth shrinks by the same factor. None keeps all.

    Returns:
        The configuration, and what was changed, as text for names ("" if nothing).

    Raises:
        ValueError: more layers than there are, none, or a scale that does not divide the heads.
    """
    content = config.to_dict()
    text, vision = content["text_config"], content["vision_config"]
    depth = text["num_hidden_layers"]
    layers = depth if layers is None else layers
    if not 1 <= layers <= depth:
        raise ValueError(f"layers={layers} is not possible: this decoder has {depth}, so 1 to {depth} is allowed")
    heads = _heads(text, vision)
    if scale < 1 or any(count % scale for _, _, count in heads):
        allowed = [s for s in range(1, min(count for *_, count in heads) + 1) if not any(n % s for *_, n in heads)]
        raise ValueError(f"scale={scale} does not divide the heads of this model: {allowed} are allowed")
    for part, name, count in heads:
        part[name] = count // scale
    for part in (text, vision):
        for name in ("hidden_size", "embed_dim", "intermediate_size", "out_hidden_size"):
            if part.get(name):
                part[name] //= scale
    _shorten(text, "num_hidden_layers", layers)
    deep = "num_hidden_layers" if "num_hidden_layers" in vision else "depth"
    _shorten(vision, deep, max(2, round(vision[deep] * layers / depth)))
    changed = [f"widths / {scale}"] * (scale > 1) + [f"{layers} of {depth} layers"] * (layers < depth)
    return AutoConfig.for_model(content.pop("model_type"), **content), ", ".join(changed)


def _heads(*parts: dict[str, Any]) -> list[tuple[dict[str, Any], str, int]]:
    names = ("num_attention_heads", "num_key_value_heads", "num_heads")
    return [(part, name, part[name]) for part in parts for name in names if part.get(name)]


def _shorten(part: dict[str, Any], name: str, depth: int) -> None:
    part[name] = depth
    if part.get("layer_types"):
        part["layer_types"] = part["layer_types"][:depth]
    for blocks in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if part.get(blocks):
            part[blocks] = [block for block in part[blocks] if block < depth] or [depth - 1]


def random_model(
    config: PretrainedConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
) -> PreTrainedModel:
    """A model of `config` with random weights (seed 0), in evaluation mode; `options` go to `from_config`."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, **options)
    return _tireless(model)


def trained_model(
    source: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, **options: Any
) -> PreTrainedModel:
    """The model at a folder or hub id with its weights, without a processor; errors as `read_config`.

    `dtype` None takes what it was saved in; `options` go to `from_pretrained`.
    """
    read_config(source)
    model: Any = AutoModelForImageTextToText.from_pretrained(locate(source), dtype=dtype or "auto", **options)
    return _tireless(model.to(device))


def _tireless(model: PreTrainedModel) -> PreTrainedModel:
    """Set greedy generation without an end token, so that every call is of the length asked for."""
    model.generation_config = GenerationConfig(pad_token_id=0, do_sample=False)
    return model.eval()
