"""Pruned equals masked where configurations and side inputs vary: windows, angles, deepstack, masks, kinds."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.cases import Case, cases, refused, share
from tests.engine.test_pruned_equals_masked import REFUSED, check_forward, check_generate, check_keep_all
from tests.families import build

SLIDING, FULL = "sliding_attention", "full_attention"
LAYERS = {
    "alternating": (SLIDING, FULL) * 2,
    "five to one": (SLIDING,) * 3 + (FULL,),
    "full first": (FULL,) * 2 + (SLIDING,) * 2,
}
ANGLES: dict[str, dict[str, Any]] = {
    "as released": {
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
        FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    },
    "far apart": {
        SLIDING: {"rope_type": "default", "rope_theta": 30.0},
        FULL: {"rope_type": "default", "rope_theta": 500_000.0},
    },
}
WINDOWS = (6, 20, 40, 4096)
"""Inside an image, behind it, while it answers, and never."""
GEMMA2 = {"model_type": "gemma2", "num_key_value_heads": 2, "query_pre_attn_scalar": 16}
QWEN2 = {"use_sliding_window": True}


@cache
def variant(role: str, family: str, text: tuple[Any, ...], vision: tuple[Any, ...], attention: str) -> Any:
    """A model with such settings; the same weights for every role."""
    settings = {"text_config": _thawed(text), "vision_config": _thawed(vision)}
    return build(family, attn_implementation=attention, **settings)[0]


def _thawed(fields: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Names of tables stand for what is in them, as a cache wants hashable keys."""
    tables = {"layer_types": LAYERS, "rope_parameters": ANGLES}
    found = {name: tables[name][value] if name in tables else value for name, value in fields}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@st.composite
def variants(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A family, and fields of its text and vision configs."""
    window = {"sliding_window": draw(st.sampled_from(WINDOWS))}
    family = draw(
        st.sampled_from(
            [
                "gemma3",
                "gemma3",
                "paligemma",
                "gemma4",
                "llava",
                "llava_onevision",
                "qwen2_vl",
                "qwen3_vl",
                "qwen3_vl_moe",
                "idefics3",
                "smolvlm",
            ]
        )
    )
    if family == "gemma3":
        layers, angles = draw(st.sampled_from([*LAYERS])), draw(st.sampled_from([*ANGLES]))
        return family, {**window, "layer_types": layers, "rope_parameters": angles}, {}
    if family == "gemma4":  # values that are keys, heads of two widths, and of the smaller ones no inputs by layer
        wide = {"global_head_dim": draw(st.sampled_from([16, 32])), "attention_k_eq_v": draw(st.booleans())}
        inner = {"hidden_size_per_layer_input": draw(st.sampled_from([0, 8])), "num_global_key_value_heads": 1}
        sees = {"use_bidirectional_attention": draw(st.sampled_from([None, "vision"]))}
        return family, {**window, **wide, **inner, **sees, "layer_types": draw(st.sampled_from([*LAYERS][:2]))}, {}
    if family == "paligemma":  # with Gemma 2, whose windows spare a prompt and whose scores are capped
        caps = {"attn_logit_softcapping": draw(st.sampled_from([None, 1.5, 50.0])), "final_logit_softcapping": 3.0}
        layers = draw(st.sampled_from([*LAYERS]))
        return family, {**window, **GEMMA2, **caps, "layer_types": layers}, {}
    if family == "llava":
        return family, {**window, "model_type": "mistral", "num_key_value_heads": 2}, {}
    if family in ("llava_onevision", "qwen2_vl"):
        return family, {**window, **QWEN2, "max_window_layers": draw(st.integers(0, 2))}, {}
    if family.startswith("qwen3"):
        blocks = draw(st.sampled_from([(0,), (3, 1), (0, 1, 2), (2, 0, 3)]))
        return family, {}, {"deepstack_visual_indexes": blocks}
    return family, {}, {}


def changed(family: str, batch: dict[str, Any], seed: int) -> dict[str, Any]:
    """The batch with other side inputs, of which the model makes something else."""
    generator = torch.Generator().manual_seed(seed)
    if family == "gemma3" and seed % 3 == 0:  # some of its images are causal, or there are no kinds at all
        kinds = batch.pop("token_type_ids")
        return batch if seed % 2 else {**batch, "token_type_ids": kinds * _coins(len(kinds), generator)[:, None]}
    if "pixel_attention_mask" in batch:  # tiles end somewhere, between patches or in one
        mask = batch["pixel_attention_mask"].clone()
        for tile in mask.flatten(0, 1):
            high, wide = torch.randint(14, mask.shape[-1] + 1, (2,), generator=generator).tolist()
            tile[high:], tile[:, wide:] = 0, 0
        return {**batch, "pixel_attention_mask": mask}
    return batch


def _coins(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, (count,), generator=generator)


@pytest.mark.fuzz
@settings(max_examples=share(8))
@given(cases(), variants())
@torch.no_grad()
def test_pruned_equals_masked(case: Case, drawn: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    """Whatever windows cut, layers turn by, and tiles are padded with; what may not be done there is refused."""
    family, text, vision = drawn
    if text.get("model_type") == "gemma2":  # no other implementation caps scores
        case = replace(case, attention=("eager", "eager"))
    key = (family, tuple(text.items()), tuple(vision.items()))
    pruned, reference, plain = (
        variant(role, *key, attention)
        for role, attention in zip(("pruned", "plain", "plain"), (*case.attention, case.attention[0]), strict=True)
    )
    batch = changed(family, case.batch(family), case.seed)
    if (why := refused(pruned, case.spec)) is not None:
        assert re.search(REFUSED + "|sliding_window", why), why
        return
    try:
        report = check_forward(batch, pruned, reference, case.spec)
    except ValueError as error:
        # Strategies that read several rows of attention say so where the window cuts.
        if "sliding_window" not in str(error):
            raise
        hypothesis.reject()
    # Behind padding on the right, the first token may see nothing at all in its window.
    if case.side == "left" or text.get("sliding_window", WINDOWS[-1]) == WINDOWS[-1]:
        check_generate(batch, pruned, reference, case, report)
    check_keep_all(batch, pruned, plain, case)
