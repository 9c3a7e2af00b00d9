"""Llama 4: chunks and temperature by original positions, tiles of a tower whose class token stands last, projection
outside of the feature call. Chunks of 16 and steps of 3 are met by every prompt here; transformers' are of 8,192."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import vtokens
from tests.engine import compare
from tests.engine.cases import Case, cases, refused
from tests.engine.compare import ANSWER, DETAILS, GREEDY, check_tokens
from tests.engine.contrasted import check_answers, contrasted, expect, guided, without_pictures
from tests.engine.masked import decoder_of, dropped_keys, masking
from tests.engine.test_logits import noised
from tests.engine.test_pruned_equals_masked import REFUSED, check_forward, check_generate, check_keep_all, with_copies
from tests.families import BROKEN, build, image, inputs
from tests.limits import BLOCKS, close, close_pass
from tests.strategies.helpers import Probe, probe
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.eval.ideal import Ideal
from vtokens.strategies import Attention, Facts, Needs, Saliency, Strategy, Visuals
from vtokens.strategies.signals import Change

pytestmark = [
    pytest.mark.skipif(bool(BROKEN), reason="the transformers here cannot run its own Llama 4"),
    pytest.mark.usefixtures("no_grad"),
]
FAMILY, CHUNK = "llama4", 16
TUNED = {"floor_scale": 3, "attn_scale": 0.5}
CUT = {**TUNED, "attention_chunk_size": CHUNK}
SPECS = ["cls(keep=0.4)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)"]


@cache
def tiny(role: str, attention: str = "sdpa", cut: bool = True) -> Any:
    return build(FAMILY, text_config=CUT if cut else TUNED, attn_implementation=attention)[0]


one = partial(compare.two, FAMILY)


def two() -> dict[str, Any]:
    """Two rows, the first padded on the left, so that chunks begin elsewhere in each."""
    shown = [[image(84, 84, seed=5)], [image(100, 60, seed=3), image(60, 130, seed=4)]]
    return dict(inputs(FAMILY, ["Is it <image>?", "Look: <image> what is <image> this?"], shown))


def test_chunks_and_temperature_matter() -> None:
    """Or no test of this file could fail."""
    batch, expected = one(), tiny("plain")(**one()).logits
    assert batch["input_ids"].shape[1] > 2 * CHUNK
    for setting in ({"attention_chunk_size": CHUNK + 5}, {"floor_scale": 4}, {"attn_temperature_tuning": False}):
        other = build(FAMILY, text_config={**CUT, **setting})[0]
        assert (other(**batch).logits - expected).abs().max() > 0.1


@pytest.mark.fuzz
@settings(max_examples=-(-settings.default.max_examples // 40))
@given(case=cases())
def test_pruned_equals_masked_across_chunks(case: Case) -> None:
    """In one pass, in what is generated, with beams, padded on either side; `keep=1.0` changes no bit."""
    with torch.no_grad():
        pruned, reference = tiny("pruned", case.attention[0]), tiny("plain", case.attention[1])
        if (why := refused(pruned, case.spec)) is not None:
            assert re.search(REFUSED, why), why
            return
        batch = case.batch(FAMILY)
        several = _refuses(pruned, batch, case.spec)
        if several is not None:  # in the pass, as they read several queries in a layer that a chunk cuts
            assert re.search(f"attention_chunk_size={CHUNK}.*several queries", several), several
            return
        report = check_forward(batch, pruned, reference, case.spec)
        if case.side == "left" or len(batch["input_ids"]) == 1:  # or answers begin at padding, alone in its chunk
            check_generate(batch, pruned, reference, case, report)
            check_keep_all(batch, pruned, tiny("plain", case.attention[0]), case)


def _refuses(target: Any, batch: dict[str, Any], spec: str) -> str | None:
    """Why a pass is refused; None if it is not."""
    with vtokens.attach(target, spec):
        try:
            target(**batch)
        except ValueError as error:
            return str(error)
    return None


@pytest.mark.parametrize("spec", SPECS[2:])
def test_answers_longer_than_a_chunk_and_a_second_turn(spec: str) -> None:
    target, plain, batch = tiny("pruned"), tiny("plain", "eager"), two()
    long = {**GREEDY, "max_new_tokens": CHUNK + 5, "min_new_tokens": CHUNK + 5}
    long["suppress_tokens"] = [plain.config.image_token_id]  # which a second turn would take for a picture
    more = inputs(FAMILY, ["And why is it so, and since when?"])["input_ids"].expand(2, -1)
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **long, **DETAILS)
        with masking(plain, dropped_keys(handle.report(), batch["attention_mask"])):
            expected = plain.generate(**batch, **long, **DETAILS)
            check_tokens(got, expected, CHUNK + 5)
            ids = torch.cat([got.sequences, more], 1)
            behind = torch.ones(2, ids.shape[1] - batch["attention_mask"].shape[1], dtype=torch.long)
            turn = {"input_ids": ids, "attention_mask": torch.cat([batch["attention_mask"], behind], 1)}
            second = target.generate(**turn, **GREEDY, **DETAILS, **as_cache(target, returned_cache(got)))
            wanted = plain.generate(**turn, **GREEDY, **DETAILS, **as_cache(plain, returned_cache(expected)))
    check_tokens(second, wanted, GREEDY["max_new_tokens"])


@pytest.mark.parametrize("spec", SPECS[2:])
def test_fixed_slots(spec: str) -> None:
    """A static cache, whose masks are made over fed positions."""
    target, plain, batch = tiny("pruned"), tiny("plain", "eager"), two()
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS, cache_implementation="static")
        report = handle.report()
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        check_tokens(got, plain.generate(**batch, **GREEDY, **DETAILS), GREEDY["max_new_tokens"])


def test_beams_have_their_pictures() -> None:
    """transformers repeats no features of this family: with strategies they are there, as made by hand for a plain
    model, which fails without."""
    target, plain, batch = tiny("pruned"), tiny("plain", "eager"), two()
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        plain.generate(**batch, **GREEDY, num_beams=3)
    with vtokens.attach(target, SPECS[2]) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS, num_beams=3)
        report = handle.report()
    with masking(plain, dropped_keys(report, batch["attention_mask"].repeat_interleave(3, 0))):
        expected = plain.generate(**with_copies(plain, batch, 3), **GREEDY, **DETAILS, num_beams=3)
    check_tokens(got, expected, GREEDY["max_new_tokens"])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_attention_that_a_layer_gives_inside_its_chunk(layer: int) -> None:
    """What pruners read of a layer is what eager attention of the plain model gives there, from the last row."""
    batch = two()
    weights = build(FAMILY, text_config=CUT, attn_implementation="eager")[0](**batch, output_attentions=True).attentions
    asked = Attention(layer, "last")
    found = Probe((asked,), (layer + 1,))
    with vtokens.attach(tiny("pruned"), found):
        tiny("pruned")(**batch)
    close(found.log[asked], weights[layer][:, :, -1].mean(1), batch["input_ids"].shape[1], BLOCKS)


def test_scores_are_the_class_tokens() -> None:
    """Its row of attention, behind all patches, in numpy and float64 from what the projections give; 2 x 2 averaged."""
    model, batch, seen = tiny("pruned"), two(), {}
    block = model.vision_model.model.layers[3].self_attn
    hooks = [
        getattr(block, name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out.double()}))
        for name in ("q_proj", "k_proj")
    ]
    got = torch.cat(probe(model, batch, Saliency())[Saliency()])
    for hook in hooks:
        hook.remove()
    angles = model.vision_model.rotary_embedding(torch.empty(0))[:, 0].numpy().astype(np.complex128)
    query, key = (seen[name].unflatten(2, (block.num_heads, -1)).numpy() for name in ("q_proj", "k_proj"))
    expected = []
    for tile in range(len(query)):
        sums = np.zeros(16)
        for head in range(block.num_heads):
            turned = [(part[tile, :, head, ::2] + 1j * part[tile, :, head, 1::2]) * angles for part in (query, key)]
            scores = (turned[0][-1] * turned[1].conj()).real.sum(-1) / math.sqrt(block.head_dim)
            weights = np.exp(scores - scores.max())
            sums += (weights / weights.sum())[:-1] / block.num_heads
        for row, column in np.ndindex(2, 2):
            expected.append(sum(sums[4 * (2 * row + y) + 2 * column + x] for y, x in np.ndindex(2, 2)) / 4)
    close_pass(got, torch.tensor(expected, dtype=torch.float32))


def test_a_region_moves_its_own_token() -> None:
    """Where a tile's features stand: pixels of one quarter move that token most, in raster order."""
    model = tiny("plain")
    adapter, pixels = adapter_for(model), torch.zeros(4, 3, 56, 56)
    for number, (row, column) in enumerate(np.ndindex(2, 2)):
        pixels[number, :, 28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = 1
    plain = model.get_image_features(torch.zeros(1, 3, 56, 56)).last_hidden_state
    moved = (model.get_image_features(pixels).last_hidden_state - plain).norm(dim=-1)
    assert moved.argmax(1).tolist() == [0, 1, 2, 3]
    [first, *_] = adapter.pictures("image", {"pixel_values": pixels})
    assert list(zip(first.y, first.x, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_second_sequences() -> None:
    """Prompts without pictures, and others, are scaled as the untouched model does, whichever of the two is longer."""
    target, plain, batch = tiny("pruned", cut=False), tiny("plain", cut=False), one()
    other = one("Or is it <image> rather, and <image> this: what?")
    with vtokens.attach(target, "pai(gamma=1.5, beta=0.02)"):
        got = target.generate(**batch, **ANSWER, **DETAILS)
    check_answers(got, expect(plain, batch, [without_pictures(batch, plain)], guided(1.5, 0.02), **ANSWER))
    with vtokens.attach(target, "lqcd(alpha=1.0, beta=0.02)") as handle, handle.negative_prompt(**other):
        got = target.generate(**batch, **ANSWER, **DETAILS)
    check_answers(got, expect(plain, batch, [other], contrasted(1.0, 0.02), **ANSWER))


def test_noised_pictures_are_projected() -> None:
    """The second prompt of VCD holds features as the decoder gets them: those of the pixels with noise."""
    target, plain, batch = tiny("pruned", cut=False), tiny("plain", cut=False), one()
    with vtokens.attach(target, "vcd(alpha=1.0, beta=0.02)"):
        got = target.generate(**batch, **ANSWER, **DETAILS)
    check_answers(got, expect(plain, batch, [noised(FAMILY, batch)], contrasted(1.0, 0.02), **ANSWER))


def test_what_a_chunk_cuts_is_refused() -> None:
    """With the reason, in the pass; below the size of a chunk the same runs."""
    target, batch = tiny("pruned"), one()
    for spec in ("vhr", "pai", "damro(k=3)", "cls(keep=0.5)+vcd"):
        with vtokens.attach(target, spec), pytest.raises(ValueError, match=f"attention_chunk_size={CHUNK}.*detach"):
            target.generate(**batch, **ANSWER)
    wide = tiny("pruned", cut=False)
    with vtokens.attach(wide, "cls(keep=0.5)+vcd"):
        wide.generate(**batch, **ANSWER)
    with (
        vtokens.attach(wide, "cls(keep=0.5, positions='compact')"),
        pytest.raises(ValueError, match=r"scale queries by their positions from floor_scale=3 on"),
    ):
        wide(**batch)
    for spec in ("damro(k=3)", "avisc(others=drop)"):
        with (
            vtokens.attach(wide, spec),
            pytest.raises(ValueError, match=r"floor_scale=3 on.*tokens are dropped from the"),
        ):
            wide.generate(**batch, **ANSWER)
    with vtokens.attach(wide, "avisc(others=zero)"):  # all tokens stay, as zeros
        wide.generate(**batch, **ANSWER)


def test_what_counts_on_other_parts_is_refused() -> None:
    """Angles that are complex numbers, MLPs that are experts: at attach, with the reason."""
    for spec, says in {
        "dymu(thresholds=(0.3, 0.3, 0.3))": "rotates dimension d of a head",
        "flowcut": "no place inside for dropping them",
        "zoo": "what projects its tokens",
    }.items():
        with pytest.raises(ValueError, match=says), vtokens.attach(tiny("pruned"), spec):
            pass


@dataclass(frozen=True)
class Told(Strategy):
    """Notes how the MLP of a layer changes what it is given, and drops nothing."""

    layer: int
    log: dict[int, Tensor] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Change(self.layer, "mlp"),), layer=(self.layer + 1,))

    def at_layer(self, visuals: Visuals, index: int) -> None:
        self.log[index] = visuals.changes(self.layer, "mlp")


@pytest.mark.parametrize("layer", [0, 1])
def test_what_an_mlp_puts_out_is_told_by_row(layer: int) -> None:
    """Experts (layer 1) hand their rows back in one list, whatever the batch; an MLP (layer 0) as it got them."""
    target, batch, told, noted = tiny("pruned"), two(), Told(layer), []
    part = decoder_of(target).layers[layer].feed_forward
    hook = part.register_forward_hook(lambda module, args, out: noted.append((args[0], out)))
    with vtokens.attach(target, told):
        target(**batch)
    hook.remove()
    [(before, made)] = noted
    made = made[0] if isinstance(made, tuple) else made
    assert made.dim() == 3 - layer
    ratio = made.view_as(before).norm(dim=-1) / before.norm(dim=-1)
    real = batch["attention_mask"].bool()
    close_pass(told.log[layer + 1][..., 0][real], ratio[real])


def test_states_behind_experts_are_steered() -> None:
    """FADE adds to what MLPs put out, of experts as of others: each row's own."""
    target, batch = tiny("pruned", cut=False), two()
    with vtokens.attach(target, "fade"):
        steered = target(**batch).logits
        alone = target(**one()).logits[0]
    assert (steered - tiny("plain", cut=False)(**batch).logits).abs().max() > 1e-3
    close_pass(steered[1], alone)


def test_the_ideal_is_fed_projected_features() -> None:
    """What a strategy's speed is held against: all of a prompt, or what is left of it inside, gives the same tokens."""
    target, batch = tiny("pruned", cut=False), one()
    for spec in ("cls(keep=1.0)", "fastv(keep=0.5, layer=2)"):
        with vtokens.attach(target, spec) as handle:
            expected = target.generate(**batch, **ANSWER)[:, -4:]
            report = handle.report()
        assert torch.equal(Ideal(target, batch, report).generate(**ANSWER)[:, -4:], expected)
    with vtokens.attach(tiny("pruned"), spec) as handle:
        tiny("pruned")(**batch)
        report = handle.report()
    with pytest.raises(ValueError, match=f"a window or a chunk of {CHUNK} cuts into"):
        Ideal(tiny("pruned"), batch, report)
