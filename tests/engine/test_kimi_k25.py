"""Kimi K2.5: clips pooled over their frames, and layers that cache a latent which all heads share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.blended import blending, groups
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, check_tokens
from tests.engine.dense import attending
from tests.engine.masked import dropped_keys, masking
from tests.engine.test_attend_equals_dense import oracle, sinks
from tests.engine.test_blended import Halves, placeholders
from tests.engine.test_evictor import Long
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import Probe, pair, probe
from vtokens.core.compat import returned_cache
from vtokens.strategies import Attention, Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "kimi_k25"
SPECS = ["cls(keep=0.4)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)"]


def ragged(side: Any = "left") -> dict[str, Any]:
    pictures = [[image(100, 60, seed=10)], [image(84, 112, seed=11), image(60, 130, seed=12)], []]
    return dict(inputs(FAMILY, ["What is it?", "<image> or <image>, which one?", "hi"], pictures, side))


def clips(frames_each: int = 1) -> dict[str, Any]:
    """A video of two clips of so many frames each, and a picture before it."""
    processor = pair(FAMILY)[1]
    frames = [inputs(processor, ["x"], [[image(84, 56, seed=n)]]) for n in range(2 * frames_each)]
    batch = dict(inputs(processor, ["See <image>."], [[image(60, 60, seed=7)]]))
    high, wide = frames[0]["image_grid_thw"][0, 1:].tolist()
    clip, mark = [processor.tokenizer.video_token_id] * (high * wide // 4), processor.tokenizer.vision_start_token_id
    ids = torch.tensor([[*batch["input_ids"][0].tolist(), 65, mark, *clip, 66, mark, *clip, 67]])
    return {
        **batch, "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.cat([frame["pixel_values"] for frame in frames]),
        "video_grid_thw": torch.tensor([[frames_each, high, wide]] * 2),
    }  # fmt: skip


def received(batch: dict[str, Any], name: str, grids: str) -> list[Tensor]:
    """What each token gets of its own clip, from the maps of an eager copy's tower: the mean over its patches."""
    tower: Any = build(FAMILY, attn_implementation="eager")[0].model.vision_tower
    attention, found = tower.layers[-1].attn, []
    for rows, grid in zip(batch[name].split(batch[grids].prod(-1).tolist()), batch[grids], strict=True):
        seen: list[Any] = []
        hooks = [
            attention.register_forward_pre_hook(lambda module, args, to=seen: to.append(args[0])),
            tower.rotary_emb.register_forward_hook(lambda module, args, output, to=seen: to.append(output)),
        ]
        tower(rows, grid[None])
        for hook in hooks:
            hook.remove()
        angles, hidden = seen
        found.append(_scores(attention, hidden, angles, grid.tolist()))
    return found


def _scores(attention: Any, hidden: Tensor, angles: Any, grid: list[int]) -> Tensor:
    frames, high, wide = grid
    cos, sin = (part[:, None].double() for part in angles)

    def turned(states: Tensor) -> Tensor:
        states = states.view(len(hidden), attention.num_heads, -1).double()
        first, second = states.chunk(2, -1)
        return states * cos + torch.cat([-second, first], -1) * sin

    query, key = turned(attention.q_proj(hidden)), turned(attention.k_proj(hidden))
    square = (torch.einsum("qhd,khd->hqk", query, key) * attention.scaling).softmax(-1).mean(0)
    return square.sum(0).view(frames, high // 2, 2, wide // 2, 2).mean((0, 2, 4)).flatten()


def test_scores_of_pictures_and_clips_are_their_own() -> None:
    batch = clips()
    found = probe(pair(FAMILY)[0], batch, Saliency())[Saliency()]
    expected = received(batch, "pixel_values", "image_grid_thw")
    expected += received(batch, "pixel_values_videos", "video_grid_thw")
    assert [len(part) for part in found] == [len(part) for part in expected] == [4, 6, 6]
    for got, right in zip(found, expected, strict=True):
        assert right.std() > 1e-3 * right.mean()
        close_pass(got / got.sum(), right.float() / right.float().sum())


@pytest.mark.parametrize("spec", SPECS)
def test_clips_pruned_equal_masked(spec: str) -> None:
    batch, target, plain = clips(), model(FAMILY, "pruned"), model(FAMILY, "plain", "eager")
    report = check_forward(batch, target, plain, spec)
    kinds = [(part.picture.modality, part.picture.grids) for part in report.samples[0].pictures]
    assert kinds == [("image", ((1, 2, 2),)), ("video", ((1, 2, 3),)), ("video", ((1, 2, 3),))]
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        check_tokens(got, plain.generate(**batch, **GREEDY, **DETAILS), GREEDY["max_new_tokens"])


def test_clips_of_several_frames_fail_in_transformers() -> None:
    """It pools their frames, then splits features as if it had not: a release that mends it is to be tested here."""
    with pytest.raises(RuntimeError, match="split_sizes to sum exactly to 12"):
        model(FAMILY, "plain")(**clips(2))


def test_keeping_all_of_clips_changes_no_bit() -> None:
    target, plain, batch = model(FAMILY, "pruned"), model(FAMILY, "plain"), clips()
    with vtokens.attach(target, "cls(keep=1.0)"):
        assert torch.equal(target(**batch).logits, plain(**batch).logits)


def test_latents_are_what_is_cached() -> None:
    """Or no test of this file would say anything of them: one head, of the two widths that they are made of."""
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=2)"):
        layers = returned_cache(target(**ragged(), use_cache=True)).layers
    shapes = {(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers}
    assert shapes == {(1, 16, 8)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_heads_are_changed_as_in_whole_matrices(side: str, tmp_path: Path) -> None:
    """VAR and VHR, whose values are narrower than keys here, beside a pruner."""
    batch, target, plain = ragged(side), model(FAMILY, "pruned"), model(FAMILY, "plain")
    spec = f"cls(keep=0.7)+var(min_visual=0.0, first_layer=0, sinks='{sinks(FAMILY, tmp_path)}')+vhr(alpha=2)"
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    dense = oracle(FAMILY, spec, report, batch["input_ids"], batch["attention_mask"])
    with attending(plain, dense), masking(plain, dropped_keys(report, batch["attention_mask"])):
        expected = plain.generate(**batch, **GREEDY, **DETAILS)
    check_tokens(got, expected, GREEDY["max_new_tokens"])
    assert not dense.close


@pytest.mark.parametrize("first", [0, 2])
def test_tokens_that_count_for_several(first: int) -> None:
    batch, target, plain = ragged(), model(FAMILY, "pruned"), model(FAMILY, "plain", "eager")
    with vtokens.attach(target, Halves(layer=first, weigh=True, own=0.3)) as handle:
        logits, report = target(**batch).logits, handle.report()
    there, dropped = groups(report, placeholders(FAMILY, batch)), dropped_keys(report, batch["attention_mask"])
    with blending(plain, there, dropped, first, True, 0.3):
        expected = plain(**batch).logits
    for row, valid in enumerate(batch["attention_mask"].bool()):
        close_pass(logits[row, valid], expected[row, valid])


def test_fixed_slots() -> None:
    target, plain = model(FAMILY, "pruned"), model(FAMILY, "plain", "eager")
    batch = dict(inputs(FAMILY, ["Look: <image> or <image>?"], [[image(100, 60, seed=3), image(60, 130, seed=4)]]))
    with vtokens.attach(target, SPECS[-1]) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS, cache_implementation="static")
        report = handle.report()
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        check_tokens(got, plain.generate(**batch, **GREEDY, **DETAILS), GREEDY["max_new_tokens"])


@pytest.mark.parametrize("strategy", ["vcd", "pai", "lqcd", "damro", "contrast(branch='cls(keep=0.5)')", Long()])
def test_what_needs_keys_of_heads_is_refused(strategy: Any) -> None:
    """Second sequences beside the cache, and dropping what single heads hold."""
    says = r"for which a Kimi_K25\w+ has no place, as its layers cache what all heads share in place of keys"
    with pytest.raises(ValueError, match=says):
        vtokens.attach(model(FAMILY, "pruned"), strategy)


def test_what_turns_whole_heads_is_refused() -> None:
    """Virtual unmerging, and signals without rotary embeddings: a part of each head is turned."""
    unturned = Probe(wanted=(Attention(1, rotary=False),), layers=(2,))
    for strategy in ("dymu(thresholds=(0.3, 0.3, 0.3))", unturned):
        with pytest.raises(ValueError, match="rotates dimension d of a head with d"):
            vtokens.attach(model(FAMILY, "pruned"), strategy)


def test_latents_that_a_family_does_not_declare_are_refused() -> None:
    """Mistral 3 around Mistral 4's text."""
    text = {
        "model_type": "mistral4", "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "head_dim": 16,
    }  # fmt: skip
    with pytest.raises(ValueError, match="Mistral4Attention caches what all heads share in place of keys and values"):
        vtokens.attach(build("mistral3", text_config=text)[0], "cls(keep=0.5)")
