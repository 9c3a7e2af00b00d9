"""RESTORE: anchors and clusters of the release on stored features, and a dense model with its biases entry by entry."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, LlavaForConditionalGeneration

import vtokens
from tests.engine.compare import DETAILS, GREEDY, check_tokens, one, ragged
from tests.engine.masked import decoder_layers
from tests.families import BROKEN, build
from tests.limits import close, close_pass
from tests.strategies.helpers import refuses
from tests.strategies.invariants import Shown, visuals
from vtokens.core.compat import given_cache
from vtokens.strategies import Selection
from vtokens.strategies.attend.restore import Restore

STORED = Path(__file__).parent / "parity" / "restore.npz"
"""Made by what `distinctive_anchor_merging` (tokenreduction/tore/merge.py) and `reorder_vis_position_ids` with "median"
(llava/model/modeling_llama_restore.py) of cvlab-yonsei/RESTORE (e6971cde) compute, on drawn features of 40 tokens, 5
of which become anchors, and of 61, 12 of which do."""


@pytest.mark.parametrize("seed", [0, 1])
def test_anchors_and_clusters_are_those_of_the_release(seed: int) -> None:
    """Where merged tokens stand, what they count for, and what they are made of; beside a longer picture."""
    with np.load(STORED) as stored:
        metric, position, size, merged = (
            torch.from_numpy(stored[f"{name}{seed}"]) for name in ("metric", "position", "size", "merged")
        )
    count, total = len(position), len(metric)
    made = torch.Generator().manual_seed(5)
    kept = torch.randn(count, metric.shape[1], generator=made)
    pictures = [Shown(torch.cat([metric, kept])), Shown(torch.randn(90, metric.shape[1], generator=made))]
    seen = visuals(Restore(), pictures, filler=9.0)
    keep = torch.zeros_like(seen.valid)
    keep[0, total : total + count], keep[1, :3] = True, True
    got = Restore().at_selection(seen, Selection(keep, (count, 3)))
    assert got.counts == (2 * count, 6)
    places = got.keep[0].nonzero()[:, 0]
    assert places[:count].tolist() == position.int().tolist()
    assert got.sizes is not None
    assert got.weights is not None
    assert got.into is not None
    assert got.sizes[0, : 2 * count].tolist() == [*size.tolist(), *[1.0] * count]
    sums = torch.zeros_like(seen.tokens[0]).index_add(0, got.into[0], seen.tokens[0] * got.weights[0, :, None])
    close(sums[places[:count]], merged, int(size.max()))
    assert torch.equal(sums[places[count:]], kept)
    assert got.sizes[1, :6].sum() == 90


def clusters_by_hand(tokens: Tensor, keep: list[int], many: int) -> dict[int, list[int]]:
    """Place of each token that goes on -> those that it is the mean of, one cosine after the other in float64."""
    units = (tokens.double() / tokens.double().norm(dim=1, keepdim=True)).tolist()
    others = [place for place in range(len(units)) if place not in keep]

    def cosine(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(units[a], units[b], strict=True))

    density = {a: sum(cosine(a, b) for b in others) for a in others}
    score = {}
    for a in others:
        less = [cosine(a, b) for b in others if density[b] < density[a]]
        score[a] = density[a] * (1 - max(less)) if less else density[a]
    anchors = sorted(sorted(others, key=lambda a: -score[a])[:many])
    members: dict[int, list[int]] = {anchor: [anchor] for anchor in anchors}
    for a in others:
        if a not in members:
            members[max(anchors, key=lambda anchor: cosine(a, anchor))].append(a)
    found = {place: [place] for place in keep}
    for own in members.values():
        found[sorted(own)[(len(own) - 1) // 2]] = sorted(own)
    return found


@contextmanager
def corrected(
    model: Any, means: dict[tuple[int, int], list[int]], ids: Tensor, mask: Tensor, distance: bool
) -> Iterator[None]:
    """Let an eager model see means at their places, and add to its scores what the method says, pair by pair.

    Args:
        means: row and position of each visual token that goes on -> the positions that it is the mean of.
        ids, mask: of the prompt, (B, N).
    """
    visual = ids == model.config.image_token_id
    length, config = ids.shape[1], model.config.get_text_config()
    size = config.head_dim if getattr(config, "head_dim", None) else config.hidden_size // config.num_attention_heads
    theta = [10000.0 ** (-2 * j / size) for j in range(size // 2)]
    places = (mask.cumsum(1) - 1).clamp(min=0)

    def bias(layer: int, total: int, queries: int) -> Tensor:
        out = torch.full((len(ids), 1, queries, total), torch.finfo(torch.float32).min, dtype=torch.float64)
        for row in range(len(ids)):
            own = {place: len(of) for (r, place), of in means.items() if r == row}
            even = sum(own.values()) / len(own) if own else 1
            for query in range(queries):
                at = total - queries + query
                for key in range(at + 1):
                    if key < length and (not mask[row, key] or (visual[row, key] and key not in own)):
                        continue
                    more = math.log(even if layer == 0 else own[key]) if key in own else 0.0
                    if distance and own and queries > 1:
                        apart = int(places[row, at] - places[row, key])
                        more += math.log(2 - sum(math.cos(apart * t) for t in theta) / len(theta))
                    out[row, 0, query, key] = more
        return out.float()

    def before(layer: int, module: Any, args: Any, kwargs: Any) -> Any:
        hidden, cache = args[0] if args else kwargs["hidden_states"], given_cache(kwargs)
        past = 0 if cache is None else cache.get_seq_length(layer)
        if layer == 0 and not past:
            entered, hidden = hidden, hidden.clone()
            for (row, place), of in means.items():
                hidden[row, place] = entered[row, of].mean(0)
        given = dict(kwargs, attention_mask=bias(layer, past + hidden.shape[1], hidden.shape[1]))
        return ((hidden, *args[1:]), given) if args else (args, dict(given, hidden_states=hidden))

    def hook(layer: int) -> Any:
        return lambda module, args, kwargs: before(layer, module, args, kwargs)

    layers = decoder_layers(model)
    hooks = [one.register_forward_pre_hook(hook(index), with_kwargs=True) for index, one in enumerate(layers)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@pytest.mark.parametrize("distance", [True, False])
@torch.no_grad()
def test_attention_is_the_dense_one_with_the_biases(distance: bool) -> None:
    """Prompt and steps, a ragged batch with two pictures in a row and none in another."""
    model, eager = build("llava")[0], build("llava", attn_implementation="eager")[0]
    batch, spec = ragged("llava"), "uniform(keep=4)"
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    with vtokens.attach(model, spec) as handle:
        model(**batch)
        report = handle.report()
    features = iter(model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output)
    means: dict[tuple[int, int], list[int]] = {}
    for row, sample in enumerate(report.samples):
        places = (ids[row] == model.config.image_token_id).nonzero()[:, 0].tolist()
        for number, part in enumerate(sample.pictures):
            own = places[16 * number : 16 * number + 16]
            for place, of in clusters_by_hand(next(features), part.kept[0].tolist(), 4).items():
                means[row, own[place]] = [own[one] for one in of]
    with corrected(eager, means, ids, mask, distance):
        expected, told = eager(**batch).logits, eager.generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(model, f"{spec}+restore(distance={distance})") as handle:
        got, tokens = model(**batch).logits, model.generate(**batch, **GREEDY, **DETAILS)
        assert [sample.visual_tokens for sample in handle.report().samples] == [(8,) * 4, (16,) * 4, (0,) * 4]
    shown = mask & (ids != model.config.image_token_id)
    close_pass(got[shown], expected[shown], passes=2)
    check_tokens(tokens, told, GREEDY["max_new_tokens"], passes=2)


@torch.no_grad()
def test_a_pruner_that_keeps_all_is_left_alone_and_half_precision_runs() -> None:
    model, batch = build("qwen2_5_vl")[0], ragged("qwen2_5_vl")
    plain = model(**batch).logits
    with vtokens.attach(model, "uniform(keep=1.0)+restore"):
        assert torch.equal(model(**batch).logits, plain)
    with vtokens.attach(model, "fastv(keep=0.25, layer=2)+restore(merged=0.5)") as handle:
        alone = model(**batch).logits[2]
        report = handle.report()
    close_pass(alone[batch["attention_mask"][2].bool()], plain[2][batch["attention_mask"][2].bool()])
    assert report.samples[0].visual_tokens[1] > report.samples[0].visual_tokens[2] > 0
    half = build("qwen2_5_vl")[0].bfloat16()
    moved = {name: part.bfloat16() if part.is_floating_point() else part for name, part in batch.items()}
    with vtokens.attach(half, "uniform(keep=0.25)+restore"):
        assert half(**moved).logits.isfinite().all()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("restore", "acts on what the strategy written before it drops, and there is none"),
        ("cls(keep=0.5)+restore(merged=0.0)", "a number above 0"),
        ("cls(keep=0.5)+restore+vhr(layers=(1,))", "lets tokens count for several"),
        ("cls(keep=0.5)+restore+restore", "twice"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, says: str) -> None:
    refuses(spec, says)


STILL = {"llama4": {"no_rope_layers": [0] * 4}, "cohere2_vision": {"layer_types": ["full_attention"] * 4}}
"""By family, a decoder of layers that turn neither queries nor keys: every other one, and each fourth, in releases."""


@pytest.mark.parametrize("decoder", ["exaone4", "afmoe"])
@torch.no_grad()
def test_nor_in_layers_of_which_the_config_does_not_say_that_they_turn_nothing(decoder: str) -> None:
    """LLaVA takes any decoder: of these, layers without a window turn nothing, and one takes a view of what it gets."""
    model, batch = build("llava")[0], one("llava")
    config, sizes = copy.deepcopy(model.config), {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    found, dense = {}, {} if decoder == "exaone4" else {"num_dense_layers": 2}
    for kind in ("full_attention", "sliding_attention"):
        types = {"layer_types": [kind] * 2, "sliding_window": 999}
        config.text_config = AutoConfig.for_model(decoder, **sizes, **heads, **special, **types, **dense)
        torch.manual_seed(0)
        target = LlavaForConditionalGeneration(config).eval()
        for weight in target.model.language_model.parameters():
            weight.normal_(std=0.3) if weight.dim() > 1 else weight.fill_(1)
        for distance in (True, False):
            with vtokens.attach(target, f"divprune(keep=0.3)+restore(distance={distance})"):
                found[kind, distance] = target(**batch).logits
    close_pass(found["full_attention", True], found["full_attention", False])
    assert (found["sliding_attention", True] - found["sliding_attention", False]).abs().max() > 0.01


@pytest.mark.parametrize("family", [family for family in STILL if family not in BROKEN])
@torch.no_grad()
def test_distance_is_corrected_where_a_layer_turns_alone(family: str) -> None:
    batch, found = one(family), {}
    for which, changed in (("still", STILL[family]), ("turning", {})):
        target = build(family, text_config=changed)[0]
        for distance in (True, False):
            with vtokens.attach(target, f"divprune(keep=0.3)+restore(distance={distance})"):
                found[which, distance] = target(**batch).logits
    close_pass(found["still", True], found["still", False])
    assert (found["turning", True] - found["turning", False]).abs().max() > 0.1
