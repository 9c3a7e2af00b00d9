"""`census`: picks, clusters and sizes against loops in float64, attention against a dense model, sizes that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.blended import Cluster, clustering, groups
from tests.engine.compare import DETAILS, GREEDY, check_programs, check_tokens, one, ragged
from tests.engine.masked import decoder_layers, decoder_of, dropped_keys, masking
from tests.families import build
from tests.limits import close, close_pass
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, hold, keeps_all, phi, picks, spoilt_go_first, visuals
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Facts, Needs, Selection, Strategy, Visuals, parse
from vtokens.strategies.merge.census import Census


def clusters(tokens: np.ndarray, kept: list[int]) -> dict[int, list[int]]:
    """For each kept token those that are most like it, itself among them."""
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    found: dict[int, list[int]] = {one: [one] for one in kept}
    for token in range(len(tokens)):
        if token not in found:
            found[max(kept, key=lambda one: (float(unit[token] @ unit[one]), -one))].append(token)
    return found


def farthest(tokens: np.ndarray, count: int) -> list[int]:
    """The token least like the sum of all directions, then each time the one whose nearest pick is least like it."""
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    chosen = [min(range(len(unit)), key=lambda one: float(unit[one] @ unit.sum(0)))]
    while len(chosen) < count:
        others = [one for one in range(len(unit)) if one not in chosen]
        chosen.append(min(others, key=lambda one: max(float(unit[one] @ unit[pick]) for pick in chosen)))
    return sorted(chosen)


def selected(strategy: Strategy, *pictures: Shown) -> tuple[Visuals, Selection]:
    seen = visuals(strategy, pictures)
    selection = strategy.at_prompt(seen)
    assert selection is not None
    return seen, selection


def test_phi_by_hand() -> None:
    """The mean of six directions is at 75 degrees: 210 is farthest from it, 10 from 210, then 90; 80 goes to 90."""
    assert picks("census(keep=1)", phi()) == [[5]]
    assert picks("census(keep=2)", phi()) == [[1, 5]]
    assert picks("census(keep=3)", phi()) == [[1, 3, 5]]
    for count, sizes in ((2, [4.0, 2.0]), (3, [2.0, 2.0, 2.0])):
        assert selected(Census(keep=count), phi())[1].sizes.tolist() == [sizes]


@pytest.mark.parametrize("keep", [1, 4, 9])
def test_picks_means_and_sizes_are_those_of_loops(keep: int) -> None:
    """Ragged pictures; sizes are whole and sum to the tokens of each picture, whatever share of them is added."""
    pictures = [drawn(1, 23), drawn(2, 14), drawn(3, 37)]
    seen, selection = selected(Census(keep=keep), *pictures)
    assert selection.share == 0.75
    assert selection.sizes.sum(1).tolist() == [23, 14, 37]
    for row, picture in enumerate(pictures):
        tokens = picture.tokens.double().numpy()
        kept = farthest(tokens, keep)
        assert selection.keep[row].nonzero()[:, 0].tolist() == kept
        for number, (pick, members) in enumerate(clusters(tokens, kept).items()):
            assert selection.sizes[row, number] == len(members)
            there = (selection.into[row] == pick) & seen.valid[row]
            assert there.nonzero()[:, 0].tolist() == sorted(members)
            close(selection.weights[row, there], torch.full((len(members),), 1 / len(members)), 2)


def test_what_holds_of_every_pruner() -> None:
    hold("census(keep=5)")
    spoilt_go_first("census", drawn(6, 19))
    keeps_all("census")


@dataclass(frozen=True)
class Counting(Strategy):
    """Writes down how many tokens each picture's visual tokens count for, before a layer."""

    name: ClassVar[str] = "counting"
    layer: int = 3
    log: dict[int, list[float]] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(layer=(self.layer,))

    def at_layer(self, visuals: Visuals, index: int) -> None:
        self.log[index] = (visuals.sizes * visuals.valid).sum(1).tolist()


@pytest.mark.parametrize(
    "spec",
    [
        "census(keep=0.25)",
        "census(keep=3, share=0.3)",
        "uniform(keep=0.3)+census",
        "fastv(keep=0.3, layer=2)+census",
        "fastv(keep=0.3, layer=2, pool=sample)+census",
        "census(keep=0.5)+fastv(keep=0.3, layer=2)+census",
        "uniform(keep=0.5)+census(share=0.5)+fastv(keep=2, layer=2)+census",
        "random(keep=0.3, budget=global)+census",
    ],
)
@torch.no_grad()
def test_sizes_sum_to_the_tokens_of_each_picture(spec: str) -> None:
    """Also where what was merged is merged again, whatever share is added to scores."""
    for family in ("llava_next", "qwen2_5_vl"):
        model, batch, counting = pair(family)[0], ragged(family), Counting()
        with vtokens.attach(model, (*parse(spec), counting)) as handle:
            model(**batch)
            there = [part for sample in handle.report().samples for part in sample.pictures]
        expected = [float((part.picture.view >= 0).sum()) for part in there]
        if "global" in spec or "pool" in spec:  # a picture of which nothing stays is gone
            expected = [size if len(part.kept[-1]) else 0.0 for size, part in zip(expected, there, strict=True)]
        close(torch.tensor(counting.log[3]), torch.tensor(expected), 64)


@torch.no_grad()
def states_entering(model: Any, batch: dict[str, Any], layer: int) -> Tensor:
    """(B, N, D) of an untouched model."""
    found: list[Tensor] = []
    where = decoder_layers(model)[layer] if layer else decoder_of(model)

    def note(module: Any, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["hidden_states" if layer else "inputs_embeds"])

    handle = where.register_forward_pre_hook(note, with_kwargs=True)
    model(**batch)
    handle.remove()
    return found[0]


def expected_clusters(report: Any, states: Tensor, batch: dict[str, Any], family: str, share: float) -> list[Cluster]:
    """The clusters around what a report says was kept, by the states of the tokens that were there."""
    placeholder = adapter_for(pair(family)[0]).placeholders(batch)["image"]
    found, parts = [], [part for sample in report.samples for part in sample.pictures]
    for (row, places), part in zip(groups(report, placeholder), parts, strict=True):
        real = np.flatnonzero(part.picture.view >= 0)
        kept = [int(np.flatnonzero(real == cell)[0]) for cell in part.kept[-1] if part.picture.view[cell] >= 0]
        for pick, members in clusters(states[row, places].double().numpy(), kept).items():
            means = {places[member]: 1 / len(members) for member in members}
            found.append(Cluster(row, places[pick], means, share * math.log(len(members))))
    return found


@pytest.mark.parametrize(
    ("family", "spec", "layer", "share"),
    [
        *((family, "census(keep=0.25, share=1.0)", 0, 1.0) for family in ("llava", "llava_onevision", "qwen3_vl")),
        *((family, "uniform(keep=0.3)+census", 0, 0.75) for family in ("llava_next", "qwen2_5_vl")),
        *((family, "fastv(keep=3)+census", 2, 0.75) for family in ("llava_next", "qwen3_vl")),
    ],
)
@torch.no_grad()
def test_a_dense_model_with_the_bias_in_its_mask_says_the_same(
    family: str, spec: str, layer: int, share: float
) -> None:
    """Logits of a ragged, left-padded batch, and of beams, whose steps have their sizes from the cache."""
    target, reference = pair(family)[0], build(family, attn_implementation="eager")[0]
    batch = ragged(family)
    with vtokens.attach(target, spec) as handle:
        logits = target(**batch).logits
        report = handle.report()
        got = target.generate(**batch, **GREEDY, **DETAILS)
    valid = batch["attention_mask"]
    there = expected_clusters(report, states_entering(reference, batch, layer), batch, family, share)
    assert max(one.bias for one in there) > 0.5
    with clustering(reference, there, dropped_keys(report, valid), layer):
        expected = reference(**batch).logits
        answers = reference.generate(**batch, **GREEDY, **DETAILS)
    for row, sample in enumerate(report.samples):
        fed = valid[row].bool().clone()
        fed[: sample.positions[-1][0]] = False
        close_pass(logits[row, fed], expected[row, fed])
        assert (logits[row, fed] - expected[row, fed]).abs().max() < 1e-4
    check_tokens(got, answers, 5)
    if sum(one.bias for one in there):  # without the bias it would not
        with masking(reference, dropped_keys(report, valid)):
            assert (reference(**batch).logits[0, -1] - expected[0, -1]).abs().max() > 1e-3


@torch.no_grad()
def test_duplicates_are_exact() -> None:
    """Tokens that repeat three times at equal positions: the distinct ones, counted in full, say what all said."""
    target = build("llava", text_config={"num_hidden_layers": 1})[0]
    batch = one("llava")
    places = (batch["input_ids"][0] == target.config.image_token_id).nonzero()[:, 0]
    first = torch.arange(len(places)) // 3 * 3

    def repeated(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds, positions = kwargs["inputs_embeds"].clone(), torch.arange(kwargs["inputs_embeds"].shape[1])
        embeds[:, places], positions[places] = embeds[:, places[first]], places[first]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        changed = {"inputs_embeds": embeds, "position_ids": positions[None], "attention_mask": mask}
        return args, {**kwargs, **changed}

    handle = target.model.language_model.register_forward_pre_hook(repeated, with_kwargs=True)
    plain = target(**batch).logits[:, -1]
    distinct = len(first.unique())
    apart = []
    for share in (1.0, 0.75, 0.0):
        with vtokens.attach(target, f"census(keep={distinct}, share={share})"):
            apart.append(float((target(**batch).logits[:, -1] - plain).abs().max()))
    handle.remove()
    assert apart[0] < 1e-4 < min(apart[1:])


@torch.no_grad()
def test_turns_crops_rows_and_contrasts() -> None:
    """Sizes stay with their keys: a second turn after a crop, programs of rows, and a branch that is counted too."""
    model, batch = pair("llava")[0], one("llava")
    more = torch.tensor([[5, 9, 11, 7]])

    def turn(cache: Any, ids: Tensor) -> Tensor:
        mask = torch.ones(1, cache.get_seq_length() + ids.shape[1], dtype=torch.long)
        return model(input_ids=ids, attention_mask=mask, **as_cache(model, cache)).logits[:, -1]

    with vtokens.attach(model, "cls(keep=0.3)+census"):
        cache = returned_cache(model(**batch, use_cache=True))
        whole = turn(cache, more)
        cache.crop(cache.get_seq_length() - 4)
        close_pass(torch.cat([turn(cache, more[:, [at]]) for at in range(4)])[-1:], whole)
    with vtokens.attach(model, "cls(keep=0.3)"):
        cache = returned_cache(model(**batch, use_cache=True))
        assert (turn(cache, more) - whole).abs().max() > 1e-3
    check_programs(model, ragged("llava"), ["cls(keep=0.3)+census", "cls(keep=0.3)", "census(keep=0.2)"], **GREEDY)
    with vtokens.attach(model, "cls(keep=0.3)+census+m3id") as handle, handle.without(("prompt",)) as plain:
        assert plain is handle
        model(**batch)


def dense(into: Tensor, weights: Tensor, keep: Tensor) -> Tensor:
    """(G, K, M) of `into` and `weights` (G, M, J)."""
    ranks = keep.cumsum(1) - 1
    out = torch.zeros(len(keep), int(keep.sum(1).max()), keep.shape[1])
    for group, token, way in np.ndindex(*into.shape):
        place = into[group, token, way]
        if keep[group, place]:
            out[group, ranks[group, place], token] += weights[group, token, way]
    return out


def test_behind_a_pruner_that_merges() -> None:
    """What it merged stays so and counts there; the rest joins by its share. Rows of weights or slots say the same."""
    pictures = [drawn(1, 10), drawn(2, 7)]
    seen = visuals(Census(), pictures)
    keep = seen.valid & (torch.arange(10) % 3 == 0)
    own = torch.arange(10).expand(2, 10)
    into = torch.stack([torch.where(own % 3 == 1, own - 1, own), torch.zeros_like(own)], 2)
    weights = torch.stack([torch.where(own % 3 == 2, 0.0, 0.5), torch.where(own == 4, 0.25, 0.0)], 2)
    sparse = Census().at_selection(seen, Selection(keep, weights=weights, into=into))
    rows = Census().at_selection(seen, Selection(keep, weights=dense(into, weights, keep)))
    close(dense(sparse.into, sparse.weights * seen.valid[..., None], keep), rows.weights * seen.valid[:, None], 4)
    assert torch.equal(sparse.sizes, rows.sizes)
    assert rows.sizes.sum(1).tolist() == [10, 7]
    for row, picture in enumerate(pictures):
        tokens = picture.tokens.double().numpy()
        kept = keep[row].nonzero()[:, 0].tolist()
        joined = {pick: [m for m in members if m % 3 == 2] for pick, members in clusters(tokens, kept).items()}
        for number, pick in enumerate(kept):
            merged = [pick] + [pick + 1] * (pick + 1 < len(tokens))
            size = len(merged) + len(joined[pick])
            assert rows.sizes[row, number] == size
            want = torch.zeros(10)
            want[merged] += 0.5 * len(merged) / size
            want[4] += 0.25 * len(merged) / size if pick == 0 else 0
            want[joined[pick]] = 1 / size
            close(rows.weights[row, number] * seen.valid[row], want * seen.valid[row], 4)


def test_a_pruner_that_leaves_nothing_is_left_alone() -> None:
    seen = visuals(Census(), [drawn(1, 10)])
    gone = Selection(torch.zeros_like(seen.valid))
    assert Census().at_selection(seen, gone) is gone


@torch.no_grad()
def test_what_cannot_work_is_refused() -> None:
    model = pair("llava")[0]
    for spec, says in (
        ("vhr+census", "'vhr' drops no tokens before or in the decoder: write it right behind a pruner"),
        ("cls+pai+census", "'pai' drops no tokens"),
        ("cls+census+vhr", "'census' lets tokens count for several in attention, which 'vhr' does not know of"),
        ("census(keep=0.5)+census", "'census' says itself what the tokens that it keeps count for"),
        ("dymu(thresholds=(0.2, 0.2, 0.2))+census", "lets attention see what it merges at all of its positions"),
        ("cls+census(positions=compact)", "leaves both to the pruner before it"),
        ("census(share=1.5)", "share=1.5 is out of range"),
    ):
        with pytest.raises(ValueError, match=says.replace("(", r"\(")):
            vtokens.attach(model, spec)


@torch.no_grad()
def test_a_spec_says_who_gets_the_keep() -> None:
    """Behind a pruner it takes none; written first it is a pruner, by default at 0.1; with nothing dropped it rests."""
    assert parse("cls+census", keep=0.2) == parse("cls(keep=0.2)+census")
    assert parse("census", keep=0.2) == parse("census(keep=0.2)")
    model, batch = pair("llava")[0], one("llava")
    found = []
    for spec in ("census", "census(keep=0.1)"):
        with vtokens.attach(model, spec):
            found.append(model(**batch).logits)
    assert torch.equal(*found)
    plain = model(**batch).logits
    with vtokens.attach(model, "cls(keep=1.0)+census"):
        assert torch.equal(model(**batch).logits, plain)
    with vtokens.attach(model, "cls(keep=0.3)+census") as handle:
        counted = model(**batch).logits
        with handle.without(("prompt",)):
            assert torch.equal(model(**batch).logits, plain)
    with vtokens.attach(model, "fastv(keep=0.3, layer=2)+census") as handle, handle.without(("layer",)):
        assert torch.equal(model(**batch).logits, plain)
    with vtokens.attach(model, replace(parse("cls(keep=0.3)")[0])):
        assert (model(**batch).logits[:, -1] - counted[:, -1]).abs().max() > 1e-3
