"""Strategies that change attention scores before the softmax: PAI, VAF and PAINT against whole edited matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.compare import check_tokens, one, ragged
from tests.engine.edited import Matrix, both, generated
from tests.families import image, inputs
from tests.limits import close, close_pass
from tests.strategies.helpers import refuses, registry_restored
from vtokens.core.compat import as_cache, returned_cache
from vtokens.kernels import rescaled_attention
from vtokens.strategies import Facts, Needs, Selection, Strategy, Visuals, parse, register
from vtokens.strategies.attend.paint import Paint
from vtokens.strategies.base import needs_of
from vtokens.strategies.outliers import outliers

FACTS = Facts("llava", depth=32, tower_depth=24, has_cls=True)
EVERY = ["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "gemma3"]


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (4, 2)])
def test_the_kernel_is_the_formula(heads: int, shared: int) -> None:
    """Entry by entry in float64; by head as well, under padding, causally, and under a cap."""
    draw = torch.Generator().manual_seed(heads * shared)
    query, key, value = (torch.randn(2, h, n, 8, generator=draw) for h, n in ((heads, 3), (shared, 9), (shared, 9)))
    factor, tilt, shift = (torch.rand(2, *size, 9, generator=draw) * 2 for size in ((), (heads,), ()))
    position, valid = torch.tensor([[2, 5, 8], [0, 4, 6]]), torch.rand(2, 9, generator=draw) > 0.3
    valid[:, 0], valid[1, 0] = True, False  # a row that sees nothing
    for cap in (None, 1.5):
        got = rescaled_attention(query, key, value, 0.4, factor, tilt, shift, position, valid, cap)
        expected = np.zeros(got.shape)
        for b, h, r in np.ndindex(2, heads, 3):
            k = key[b, h * shared // heads].double().numpy()
            z = 0.4 * (k @ query[b, h, r].double().numpy())
            z = z if cap is None else cap * np.tanh(z / cap)
            z = factor[b].numpy() * z + tilt[b, h].numpy() * np.abs(z) + shift[b].numpy()
            seen = [n for n in range(9) if valid[b, n] and n <= position[b, r]]
            if seen:
                weight = np.exp(z[seen] - z[seen].max())
                expected[b, h, r] = weight / weight.sum() @ value[b, h * shared // heads, seen].double().numpy()
        close(got, torch.from_numpy(expected), terms=9, chain=3, size=4.0)
    assert not expected[1, :, 0].any()


def test_pai_worked_example() -> None:
    """alpha .5 makes [1.5, -.5, 0] of the scores [1, -1, 0]."""
    key, value = torch.tensor([[[[1.0], [-1.0], [0.0]]]]), torch.eye(3)[None, None]
    got = rescaled_attention(torch.ones(1, 1, 1, 1), key, value, 1.0, tilt=torch.full((1, 3), 0.5))
    close(got[0, 0, 0], torch.tensor([1.5, -0.5, 0.0]).softmax(0), terms=3)


def pai(alpha: float) -> Callable[[Matrix], Tensor]:
    return lambda m: torch.where(m.visual, m.scores + alpha * m.scores.abs(), m.scores).masked_fill(
        m.scores.isinf(), -torch.inf
    ).softmax(-1)  # fmt: skip


def vaf(visual: float, system: float) -> Callable[[Matrix], Tensor]:
    def edit(m: Matrix) -> Tensor:
        factor = torch.where(m.visual, visual, torch.where(m.leading, system, 1.0))
        return (m.scores * factor).masked_fill(m.scores.isinf(), -torch.inf).softmax(-1)

    return edit


CASES = [
    ("pai(alpha=0.7, gamma=1, beta=0)", (2, 3), "last", pai(0.7)),
    ("pai(alpha=0.7, gamma=1, beta=0, first_layer=0)", (0, 1, 2, 3), "last", pai(0.7)),
    ("vaf(visual=1.5, system=0.6)", (1,), "text", vaf(1.5, 0.6)),
    ("vaf(visual=1.5, system=0.6, layers=(0, 2, 3))", (0, 2, 3), "text", vaf(1.5, 0.6)),
]
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 2},
    "sampling": {"do_sample": True, "temperature": 1.2, "top_k": 0},
}


@pytest.mark.parametrize(
    ("family", "spec", "layers", "rows", "edit"),
    [(family, *case) for number, case in enumerate(CASES) for family in (EVERY if number % 2 else EVERY[:1])],
)
@torch.no_grad()
def test_generation_is_that_of_edited_scores(family: str, spec: str, layers: Any, rows: str, edit: Any) -> None:
    """Alone and behind a pruner, in a ragged batch one of whose samples has no picture, and with beams and sampling."""
    prune = "" if family == "gemma3" else "fastv(keep=0.5, layer=1)+"
    for before, batch, mode in (("", ragged, "greedy"), (prune, one, "beams"), (prune, ragged, "sampling")):
        got, expected = both(family, before + spec, batch(family), layers, rows, edit, new=2, **MODES[mode])
        for out in (got, expected):  # PAI hands on log-probabilities
            out.logits = tuple(step.log_softmax(-1) for step in out.logits)
        check_tokens(got, expected, 2)


@dataclass(frozen=True)
class Threefold(Strategy):
    """Keeps the later half of each picture, whose tokens count for three."""

    name = "threefold"

    def needs(self, facts: Facts) -> Needs:
        return Needs(sizes=True)

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = tuple(count // 2 for count in visuals.counts)
        first = torch.tensor([count - half for count, half in zip(visuals.counts, counts, strict=True)])[:, None]
        keep = (torch.arange(visuals.valid.shape[1]) >= first) & visuals.valid
        return Selection(keep, counts, sizes=torch.full((len(counts), max(counts)), 3.0))


@torch.no_grad()
def test_tokens_that_count_for_several_are_minded() -> None:
    """log 3 is added behind what is made of a score: three equal tokens would each get it."""

    def edit(m: Matrix) -> Tensor:
        factor = torch.where(m.visual, 1.5, torch.where(m.leading, 0.6, 1.0))
        return (m.scores * factor + m.bias).masked_fill(m.scores.isinf(), -torch.inf).softmax(-1)

    with registry_restored():
        register("threefold")(Threefold)
        got, expected = both(
            "llava", "threefold+vaf(visual=1.5, system=0.6, layers=(0, 2))", ragged("llava"), (0, 2), "text", edit,
            bias=lambda visual: visual * math.log(3), do_sample=False,
        )  # fmt: skip
    check_tokens(got, expected, 3)
    for spec in (
        "cls(keep=0.5)+census+pai(alpha=0.2)",
        "census+paint",
        "census+act(threshold=0.01)",
        "census+adavboost",
    ):
        with vtokens.attach(model("llava", "pruned"), spec):
            generated(model("llava", "pruned"), ragged("llava"), 2, do_sample=False)
    with pytest.raises(ValueError, match="lets tokens count for several in attention, which 'vhr' does not know of"):
        vtokens.attach(model("llava", "pruned"), "census+vhr")


@torch.no_grad()
def test_it_changes_what_is_said() -> None:
    """What the oracle is compared with is not the plain model, and layers and rows that take no part stay."""
    target, batch = model("llava", "pruned"), one("llava")
    plain = target(**batch).logits
    for spec, rows in (("vaf(visual=3.0)", "text"), ("paint(local=5.0, summary=5.0, share=1.0)", "last")):
        with vtokens.attach(target, spec):
            moved = (target(**batch).logits - plain).abs().amax(-1)[0]
        assert moved[-1] > 1e-3
        first = int((batch["input_ids"][0] == target.config.image_token_id).nonzero()[-1]) + 1
        assert not moved[: first if rows == "text" else -1].any()
    assert torch.equal(target(**batch).logits, plain)


@torch.no_grad()
def test_answers_fed_along_get_what_they_get_while_written() -> None:
    """Labels tell where the prompt ends, and rows behind it are those that write."""
    target, batch = model("llava", "pruned"), one("llava")
    with vtokens.attach(target, "paint(local=3.0, summary=2.0, share=0.6, first_layer=0)"):
        out = target.generate(
            **batch, do_sample=False, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
        labels = out.sequences.clone()
        labels[:, : batch["input_ids"].shape[1]] = -100
        whole = dict(batch, input_ids=out.sequences, attention_mask=torch.ones_like(out.sequences))
        fed = target(**whole, labels=labels).logits[0, -5:-1]
    close_pass(fed, torch.cat(out.logits))


@torch.no_grad()
def test_pai_amplifies_before_it_contrasts() -> None:
    """gamma (l - l') + l' with l of the amplified pass, and l' of the text alone, which has nothing to amplify."""
    target, batch = model("llava", "pruned"), ragged("llava")

    def said(spec: str) -> Tensor:
        with vtokens.attach(target, spec):
            return target(**batch).logits[:2, -1].log_softmax(-1) if spec == "none" else target(**batch).logits[:2, -1]

    plain, lifted = said("none"), said("pai(alpha=0.8, gamma=1, beta=0)").log_softmax(-1)
    text = (said("pai(gamma=1.5, beta=0)") - 1.5 * plain) / -0.5
    close_pass(said("pai(alpha=0.8, gamma=1.5, beta=0)"), 1.5 * lifted - 0.5 * text, passes=6)
    assert (lifted - plain).abs().max() > 1e-2


def test_pai_without_alpha_is_the_contrast_alone() -> None:
    assert needs_of(parse("pai")[0], FACTS).attend == ()
    assert needs_of(parse("pai(alpha=0.2)")[0], FACTS).attend == tuple(range(2, 32))
    assert parse("pai(gamma=1)")[0].negative(FACTS) is None


def test_layers_by_depth() -> None:
    def layers(spec: str, depth: int, linear: tuple[int, ...] = ()) -> list[int]:
        return list(needs_of(parse(spec)[0], Facts("llava", depth, 24, True, linear=linear)).attend)

    assert layers("vaf", 32) == [*range(9, 15)]
    assert layers("vaf", 40) == [*range(11, 19)]
    assert layers("vaf", 2) == [1]
    assert layers("vaf", 32, linear=tuple(i for i in range(32) if i % 4 != 3)) == [11]
    assert layers("vaf(visual=1, system=1)", 32) == []
    assert layers("paint", 32) == [*range(2, 32)]


@torch.no_grad()
def test_paint_lifts_what_the_tower_dwells_on() -> None:
    """Summary and local tokens from the tower's own attention matrices, by NumPy; then as edited matrices."""
    family, batch = "llava", dict(inputs("llava", ["Look: <image> what is this?"], [[image(100, 60, seed=3)]]))
    reference = model(family, "plain", "eager")
    tower = reference.model.vision_tower(batch["pixel_values"], output_attentions=True)
    made_of = reference.config.vision_feature_layer
    first, made = (tower.attentions[layer][0, :, 0, 1:].sum(0).double().numpy() for layer in (0, made_of))
    low, high = np.percentile(made, [25, 75])
    tilt = np.zeros(len(made))
    tilt[np.argsort(-first, kind="stable")[: int(0.5 * len(made))]] = 0.9
    tilt[made > high + 1.5 * (high - low)] = 0.4
    assert {*tilt} >= {0.0, 0.9}
    wide = torch.zeros(batch["input_ids"].shape[1], dtype=torch.float64)
    wide[batch["input_ids"][0] == reference.config.image_token_id] = torch.from_numpy(tilt)

    def edit(m: Matrix) -> Tensor:
        grown = torch.nn.functional.pad(wide, (0, m.scores.shape[-1] - len(wide)))
        return (m.scores + grown * m.scores.abs().nan_to_num(posinf=0.0)).softmax(-1)

    spec = "paint(local=0.9, summary=0.4, share=0.5, first_layer=1)"
    got, expected = both(family, spec, batch, (1, 2, 3), "last", edit, new=3, do_sample=False)
    check_tokens(got, expected, 3)
    # Of a pruned picture, half of what is left is local: only where all is left are the tokens those of above.
    with vtokens.attach(model(family, "pruned"), "random(keep=0.5)+" + spec):
        model(family, "pruned").generate(**batch, max_new_tokens=2, num_beams=2)


@torch.no_grad()
def test_tilts_are_worked_out_once_for_all_layers_that_see_the_same() -> None:
    """Once in the prefill of a ragged batch, twice where a pruner acts between layers that take part."""
    asked: list[int] = []

    class Counting(Paint):
        def tilts(self, visuals: Visuals) -> Tensor:
            asked.append(len(visuals.counts))
            return super().tilts(visuals)

    target, batch = model("llava", "pruned"), ragged("llava")
    for before, times in (("none", 1), ("fastv(keep=0.5, layer=2)", 2)):
        asked.clear()
        with vtokens.attach(target, (*parse(before), Counting(first_layer=0))):
            got = target.generate(**batch, max_new_tokens=3, do_sample=False)
        assert asked == [3] * times
        with vtokens.attach(target, (*parse(before), Paint(first_layer=0))):
            assert torch.equal(got, target.generate(**batch, max_new_tokens=3, do_sample=False))


@torch.no_grad()
def test_a_cache_that_was_not_made_under_it_is_refused() -> None:
    target, batch = model("llava", "pruned"), one("llava")
    with vtokens.attach(target, "vhr"):
        cache = returned_cache(target(**batch, use_cache=True))
    following = {"input_ids": batch["input_ids"][:, -2:], **as_cache(target, cache)}
    with (
        vtokens.attach(target, "paint"),
        pytest.raises(ValueError, match=r"of which 'paint\.tilt' was not noted: begin"),
    ):
        target(**following)


def test_outliers_are_those_of_numpy() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 4, 5, 23):
        scores = draw.exponential(size=size) ** 2
        low, high = np.percentile(scores, [25, 75])
        padded = torch.from_numpy(np.pad(scores, (0, 3), constant_values=99))[None]
        found = outliers(padded, torch.arange(size + 3)[None] < size)
        assert found[0, :size].tolist() == (scores > high + 1.5 * (high - low)).tolist()
        assert not found[0, size:].any()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("vaf(visual=-1)", r"visual=-1.0 is out of range"),
        ("vaf(layers=(40,))", r"layers=40 is out of range for a model with 4 layers"),
        ("paint(share=2.0)", r"share=2.0 is out of range"),
        ("paint(first_layer=4)", r"first_layer=4 is out of range"),
        ("pai(alpha=-0.1)", r"alpha=-0.1 is out of range"),
        ("pai(alpha=0.2, first_layer=9)", r"first_layer=9 is out of range"),
        ("vaf+paint", r"'vaf\+paint' would weigh attention twice"),
        ("pai(alpha=0.2)+vaf", r"would weigh attention twice"),
        ("vaf+vaf", r"names 'vaf' twice"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, reason: str) -> None:
    refuses(spec, reason)
