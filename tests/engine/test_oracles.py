"""Worked oracles of FastV's algorithm, and what must hold of any pruning inside the language model."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

import vtokens
from tests.engine.cases import model
from tests.engine.masked import decoder_layers, dropped_keys, masking
from tests.families import FAMILIES, build, image, inputs
from tests.limits import close_pass
from vtokens.core.budget import budget
from vtokens.core.compat import returned_cache
from vtokens.core.costs import prefill_flops
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Visuals

BOTH_WAYS = (*FAMILIES, "gemma3", "paligemma", "gemma4")  # whose images, or whole prompts, see themselves both ways
FASTV = "fastv(keep=0.25, layer=2)"


def one(family: str) -> dict[str, Any]:
    """One sample with one image and text on either side of it."""
    return dict(inputs(family, ["Look: <image> what is this?"], [[image(100, 60, seed=3)]]))


def ragged(family: str) -> tuple[list[str], list[list[Any]]]:
    """Three samples of different lengths with one, two and no images."""
    prompts = ["Is there a cat?", "Compare <image> with <image> please, and say which one is red", "hello there"]
    return prompts, [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]


def compact_positions(layer: Any, args: Any, kwargs: dict[str, Any], kept: torch.Tensor) -> Any:
    """A pre-hook that numbers the kept positions 0, 1, 2, ... as LLaVA ports that rebuild the ids do."""
    ranks = torch.zeros(kwargs["hidden_states"].shape[1] if not args else args[0].shape[1], dtype=torch.long)
    ranks[kept] = torch.arange(len(kept))
    cos, sin = kwargs["position_embeddings"]
    return args, dict(kwargs, position_embeddings=(cos[..., ranks, :], sin[..., ranks, :]))


@torch.no_grad()
@pytest.mark.parametrize("family", BOTH_WAYS)
def test_ii_dropping_is_masking_with_original_positions(family: str) -> None:
    """To 1e-5 of the largest logit; with compact positions in the later layers the logits are others."""
    batch, reference = one(family), model(family, "plain", "eager")
    with vtokens.attach(model(family, "pruned"), FASTV) as handle:
        got = model(family, "pruned")(**batch).logits
        report = handle.report()
    kept = torch.from_numpy(report.samples[0].positions[-1])
    with masking(reference, dropped_keys(report, batch["attention_mask"])):
        expected = reference(**batch).logits
        worst = (got - expected)[:, kept].abs().max() / expected.abs().max()
        compact = functools.partial(compact_positions, kept=kept)
        hooks = [x.register_forward_pre_hook(compact, with_kwargs=True) for x in decoder_layers(reference)[2:]]
        different = reference(**batch).logits
        for hook in hooks:
            hook.remove()
    assert worst <= 1e-5
    assert (got - different)[:, kept].abs().max() > 1e-2


def test_iii_the_highest_scores_stay_in_order() -> None:
    """Scores .1 .4 .2 .3 and two to keep: positions 1 and 3."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    layout = Layout.build({"image": mask}, {"image": [Picture.of([(1, 2, 2)], [False])]}, mask)
    visuals = Visuals(torch.zeros(1, 4, 8), layout, "image", SimpleNamespace())  # type: ignore[arg-type]
    selection = visuals.top(torch.tensor([[0.1, 0.4, 0.2, 0.3]]), 2)
    assert selection.keep.nonzero()[:, 1].tolist() == [1, 3]


@torch.no_grad()
@pytest.mark.parametrize("family", BOTH_WAYS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_iv_cache_lengths(family: str, layer: int) -> None:
    """[S] * K + [S'] * (L - K), and every layer answers S when asked how much it was fed."""
    batch, pruned = one(family), model(family, "pruned")
    with vtokens.attach(pruned, "fastv", keep=0.25, layer=layer) as handle:
        cache = returned_cache(pruned(**batch, use_cache=True))
        sample = handle.report().samples[0]
    length, tokens = batch["input_ids"].shape[1], sample.visual_tokens[0]
    short = length - tokens + budget(tokens, 0.25)
    assert [held.keys.shape[2] for held in cache.layers] == [length] * layer + [short] * (4 - layer)
    assert {held.get_seq_length() for held in cache.layers} == {length}


@torch.no_grad()
@pytest.mark.parametrize("scope", ["last", "all_text"])
@pytest.mark.parametrize("family", BOTH_WAYS)
def test_fastv_ranks_by_the_attention_the_model_pays(family: str, scope: str) -> None:
    """The kept tokens are the top of what the eager model's own attention matrix says of layer K - 1."""
    batch, pruned = one(family), model(family, "pruned")
    with vtokens.attach(pruned, "fastv", keep=0.25, layer=2, query_scope=scope) as handle:
        pruned(**batch)
        sample = handle.report().samples[0]
    seen = model(family, "plain", "eager")(**batch, output_attentions=True).attentions[1][0].mean(0)
    (kept,) = sample.pictures
    everything, at = sample.positions[0], kept.kept[0]
    first = next(p for p in everything if batch["input_ids"][0, p] == model(family, "plain").config.image_token_id)
    visual = torch.from_numpy(first + at)  # positions inside the picture are positions after its first one
    text = [p for p in everything if p > first and p not in (first + torch.arange(len(kept.picture))).tolist()]
    scores = seen[-1] if scope == "last" else seen[text].mean(0)
    best = visual[scores[visual].topk(budget(len(visual), 0.25)).indices].sort().values
    assert (first + kept.kept[2]).tolist() == best.tolist()


@torch.no_grad()
@pytest.mark.parametrize("family", BOTH_WAYS)
def test_strategies_of_one_layer_act_in_the_written_order(family: str) -> None:
    """Ranking what a ranking left is ranking at once; what was measured shrinks along with the sequence."""
    batch, pruned = one(family), model(family, "pruned")
    kept = {}
    leave = "todre(keep=0.99, exit_threshold=2.0, exit_depth=0.5)"
    for spec in ("fastv(keep=2)", "fastv(keep=4)+fastv(keep=2)", f"fastv(keep=4)+{leave}", f"{leave}+fastv(keep=4)"):
        with vtokens.attach(pruned, spec) as handle:
            assert pruned(**batch).logits.isfinite().all()
            kept[spec] = [cells.tolist() for cells in handle.report().samples[0].pictures[0].kept]
    first, second, *left = kept.values()
    assert first == second
    assert len(first[2]) == 2
    assert all(layers[2] == layers[3] == [] for layers in left)


def test_v_shares_are_rounded_half_up() -> None:
    """10% of 576 is 58 as FastV rounds; a reference that cuts off says 57."""
    assert budget(576, 1 - 0.9) == budget(576, 0.1) == 58
    assert budget(5, 0.5) == 3
    assert budget(576, 57) == 57


@torch.no_grad()
@pytest.mark.parametrize("family", BOTH_WAYS)
@pytest.mark.parametrize("spec", [FASTV, "cls(keep=0.3)", "todre(keep=0.3, exit_threshold=2.0)", "random(keep=3)"])
def test_viii_a_padded_row_is_pruned_as_it_is_alone(family: str, spec: str) -> None:
    """Selection and logits of each row of a left-padded ragged batch are those of its own run."""
    prompts, groups = ragged(family)
    batch, pruned = inputs(family, prompts, groups), model(family, "pruned")
    with vtokens.attach(pruned, spec) as handle:
        together, report = pruned(**batch).logits, handle.report()
        for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            single = inputs(family, [prompt], [group])
            logits, length = pruned(**single).logits[0], single["input_ids"].shape[1]
            if not group:
                close_pass(together[row, -length:], logits)
                continue
            first = handle.report().samples[0].positions[-1][0]  # before it, nothing survived that could be repeated
            close_pass(together[row, first - length :], logits[first:])
            lead = batch["input_ids"].shape[1] - length
            for mine, alone in zip(report.samples[row].positions, handle.report().samples[0].positions, strict=True):
                assert (mine - lead).tolist() == alone.tolist()


@torch.no_grad()
def test_vi_vii_costs_of_llava_at_full_length() -> None:
    """32 layers and 612 positions, of which 576 visual: FastV's own tables and its 171 equivalent tokens."""
    depth = {"num_hidden_layers": 32, "hidden_size": 32, "intermediate_size": 64}
    deep, processor = build("llava", text_config=depth, vision_config={"image_size": 336, "num_hidden_layers": 2})
    batch = inputs(processor, ["a question"], [[image(336, 336, seed=0)]])

    def cost(n: int, d: int = 4096, m: int = 11008) -> int:
        """FastV counts multiply-adds and two MLP matrices."""
        return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m

    llama = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32)
    assert prefill_flops(llama, [612, 0]) == 2 * (cost(612) + 612 * 4096 * 11008)
    assert round(cost(612) / 1e9, 2) == 99.33
    published = {(2, 0.5): 0.5516, (2, 0.25): 0.3322, (2, 0.1): 0.2021, (3, 0.5): 0.5666, (5, 0.5): 0.5964}
    for (layer, keep), ratio in published.items():
        with vtokens.attach(deep, "fastv", keep=keep, layer=layer) as handle:
            deep(**batch)
            seen = handle.report().samples[0].visual_tokens
        assert seen == (576,) * layer + (budget(576, keep),) * (32 - layer)
        lengths = [36 + tokens for tokens in seen]
        token = (cost(37) - cost(36)) / cost(612)  # the tables do not round to whole tokens
        assert sum(map(cost, lengths)) / (32 * cost(612)) == pytest.approx(ratio, abs=token / 2)
    with vtokens.attach(deep, "fastv", keep=144, layer=2) as handle:
        deep(**batch)
        assert handle.report().samples[0].average_tokens == 171
