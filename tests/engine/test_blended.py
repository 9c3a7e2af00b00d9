"""Selections that merge: kept tokens become weighted sums, and count for as many as went into them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.blended import blending, groups
from tests.engine.cases import batches, model, share
from tests.engine.compare import DETAILS, GREEDY, check_fed, check_programs, check_tokens, one, ragged
from tests.engine.masked import dropped_keys
from tests.families import EVERY, build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Facts, Needs, Selection, Strategy, Visuals, parse


@dataclass(frozen=True)
class Halves(Strategy):
    """Every second token goes into the one before it; with `layer`, before that decoder layer."""

    name: ClassVar[str] = "halves"
    layer: int = 0
    weigh: bool = True
    own: float = 0.75
    sparse: bool = False

    def needs(self, facts: Facts) -> Needs:
        return Needs(layer=(self.layer,) if self.layer else (), sizes=self.weigh)

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return None if self.layer else self._select(visuals)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return self._select(visuals)

    def _select(self, visuals: Visuals) -> Selection:
        slot = torch.arange(visuals.valid.shape[1])
        keep = visuals.valid & (slot % 2 == 0)
        own = torch.nn.functional.one_hot(slot[::2], len(slot)).float()
        behind = torch.nn.functional.one_hot((slot[::2] + 1).clamp(max=len(slot) - 1), len(slot)).float()
        has = torch.nn.functional.pad(visuals.valid, (0, 1))[:, 1::2][:, : len(own)]
        has = torch.nn.functional.pad(has, (0, len(own) - has.shape[1]))
        weights = torch.where(has[:, :, None], self.own * own + (1 - self.own) * behind, own)
        sizes = visuals.sizes[:, ::2] + has * torch.nn.functional.pad(visuals.sizes, (0, 1))[:, 1::2][:, : len(own)]
        counts = tuple((count + 1) // 2 for count in visuals.counts)
        if self.sparse:
            alone = ~torch.nn.functional.pad(visuals.valid, (0, 1))[:, 1:] & (slot % 2 == 0)
            shares = torch.where(slot % 2 == 0, self.own, 1 - self.own).masked_fill(alone, 1.0)
            into = (slot - slot % 2).expand_as(keep)
            return Selection(keep, counts, weights=shares, into=into, sizes=sizes if self.weigh else None)
        return Selection(keep, counts, weights=weights, sizes=sizes if self.weigh else None)


def placeholders(family: str, batch: dict[str, Any]) -> Tensor:
    return adapter_for(model(family, "pruned")).placeholders(batch)["image"]


@pytest.mark.fuzz
@settings(max_examples=share(2))
@given(st.data())
@torch.no_grad()
def test_blended_is_dense(data: Any) -> None:
    """Logits and answers, at the prompt or before a layer, ragged batches and beams, in any family."""
    family = data.draw(st.sampled_from(EVERY))
    first, weigh = data.draw(st.sampled_from([0, 0, 1, 2, 3])), data.draw(st.booleans())
    own, batch = data.draw(st.floats(0.0, 1.0)), data.draw(batches(family))
    options = data.draw(st.sampled_from([{}, {"num_beams": 2}]))
    target, reference = (
        model(family, "pruned", data.draw(st.sampled_from(["sdpa", "eager"]))),
        model(family, "plain", "eager"),
    )
    sparse = data.draw(st.booleans())
    with vtokens.attach(target, Halves(layer=first, weigh=weigh, own=own, sparse=sparse)) as handle:
        logits = target(**batch).logits
        plain = handle.report()
        got = target.generate(**batch, **GREEDY, **options, **DETAILS)
        report = handle.report()
    there = groups(plain, placeholders(family, batch))
    valid = batch["attention_mask"]
    dropped = dropped_keys(plain, valid)
    with blending(reference, there, dropped, first, weigh, own):
        expected = reference(**batch).logits
    check_fed(logits, expected, plain, valid)
    copies = len(report.samples) // len(plain.samples)
    there = [(row * copies + copy, places) for row, places in there for copy in range(copies)]
    dropped = [part.repeat_interleave(copies, 0) for part in dropped]
    with blending(reference, there, dropped, first, weigh, own):
        check_tokens(got, reference.generate(**batch, **GREEDY, **options, **DETAILS), 5)


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl", "llava_onevision"])
@torch.no_grad()
def test_one_kept_token_each_says_the_same_as_rows_of_weights(family: str) -> None:
    """Pictures of different sizes; what goes into a token that is dropped is gone, as with a weight of 0."""

    @dataclass(frozen=True)
    class Astray(Halves):
        """The first token goes into the second, which is dropped; the others as before."""

        name: ClassVar[str] = "astray"

        def at_prompt(self, visuals: Visuals) -> Selection:
            found = self._select(visuals)
            if not self.sparse:
                weights = found.weights.clone()
                weights[:, 0, 0] = 0
                return replace(found, weights=weights)
            into = found.into.clone()
            into[:, 0] = 1
            return replace(found, into=into)

    target, batch = model(family, "pruned"), ragged(family)
    logits = []
    for kind in (Halves, Astray):
        for sparse in (False, True):
            with vtokens.attach(target, kind(sparse=sparse)):
                logits.append(target(**batch).logits[:, -1])
    close_pass(logits[0], logits[1])
    close_pass(logits[2], logits[3])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl"])
@torch.no_grad()
def test_several_kept_tokens_each_say_the_same_as_rows_of_weights(family: str) -> None:
    """Each token goes into the first kept one and into that of its pair, which are the same for some."""

    @dataclass(frozen=True)
    class Spread(Halves):
        name: ClassVar[str] = "spread"
        weigh: bool = False

        def at_prompt(self, visuals: Visuals) -> Selection:
            found = self._select(visuals)
            slot = torch.arange(visuals.valid.shape[1]).expand_as(found.keep)
            share = torch.rand(*slot.shape, 2, generator=torch.Generator().manual_seed(3))
            into = torch.stack([slot - slot % 2, torch.zeros_like(slot)], 2)
            if self.sparse:
                return replace(found, weights=share, into=into)
            ones = torch.nn.functional.one_hot(into // 2, max(found.counts))
            return replace(found, weights=(ones * share[..., None]).sum(2).transpose(1, 2))

    target, batch = model(family, "pruned"), ragged(family)
    logits = []
    for sparse in (False, True):
        with vtokens.attach(target, Spread(sparse=sparse)):
            logits.append(target(**batch).logits[:, -1])
    close_pass(*logits)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_tokens_that_are_equal_count_for_all_of_them(family: str) -> None:
    """Twice the same tokens at the same positions, one of which goes into the other: what the plain model says to both.

    In half precision as in single: the bias rides in two parts.
    """
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        target = build(family, text_config={"num_hidden_layers": 1})[0].to(dtype)
        batch = one(family)
        image_id = target.config.image_token_id
        places = (batch["input_ids"][0] == image_id).nonzero()[:, 0]

        def doubled(module: Any, args: Any, kwargs: dict[str, Any], places: Tensor = places) -> Any:
            embeds = kwargs["inputs_embeds"].clone()
            embeds[:, places[1::2]] = embeds[:, places[::2][: len(places) // 2]]
            positions = torch.arange(embeds.shape[1])
            positions[places[1::2]] = positions[places[::2][: len(places) // 2]]
            return args, {
                **kwargs,
                "inputs_embeds": embeds,
                "position_ids": positions[None] if family == "llava" else positions[None, None].expand(3, -1, -1),
                "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long),
            }

        handle = target.model.language_model.register_forward_pre_hook(doubled, with_kwargs=True)
        plain = target(**batch).logits[:, -1].float()
        with vtokens.attach(target, Halves()):
            got = target(**batch).logits[:, -1].float()
        with vtokens.attach(target, Halves(weigh=False)):
            less = target(**batch).logits[:, -1].float()
        handle.remove()
        assert (got - plain).abs().max() < limit * plain.abs().max()
        assert (less - plain).abs().max() > limit * plain.abs().max()


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen3_vl"])
@torch.no_grad()
def test_sizes_follow_pruners_contrasts_rows_and_turns(family: str) -> None:
    """Merged twice, sizes add up; a pruner behind, a second turn, and programs per row answer as each alone does."""
    target, _ = build(family)
    batch = ragged(family)
    for spec in (
        (Halves(), *parse("fastv(keep=0.5, layer=2)")),
        (Halves(), Halves(layer=1)),
        (Halves(), *parse("m3id")),
    ):
        with vtokens.attach(target, spec):
            whole = torch.stack(target.generate(**batch, **GREEDY, **DETAILS).logits)
        groups_ = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
        prompts = ["Is there a cat?", "Compare <image> with <image>, and say which one is red", "hello there"]
        for row in (1, 2):
            alone = dict(inputs(family, [prompts[row]], [groups_[row]]))
            with vtokens.attach(target, spec):
                close_pass(torch.stack(target.generate(**alone, **GREEDY, **DETAILS).logits)[:, 0], whole[:, row])
    programs: list[Any] = ["vhr", Halves(), "cls(keep=0.5)"]
    check_programs(target, batch, programs, **GREEDY)


@dataclass(frozen=True)
class Odd(Strategy):
    """A selection with something wrong about it."""

    name: ClassVar[str] = "odd"
    selection: Any = None

    def at_prompt(self, visuals: Visuals) -> Selection:
        keep = visuals.valid & (torch.arange(visuals.valid.shape[1]) < 2)
        return Selection(keep, (2,) * len(keep), **self.selection)


@torch.no_grad()
def test_what_is_wrong_is_said() -> None:
    target, _ = build("llava")
    batch = one("llava")
    for selection, error, says in (
        ({"weights": torch.ones(1, 3, 4)}, ValueError, r"weights have the shape \(1, 3, 4\): .* \(1, 2, 16\)"),
        ({"sizes": torch.ones(1, 3)}, ValueError, r"sizes have the shape \(1, 3\): .* \(1, 2\)"),
        ({"sizes": torch.ones(1, 2, dtype=torch.long)}, TypeError, "floating ones are allowed, as sizes.float"),
        ({"sizes": torch.ones(1, 2)}, ValueError, r"let its needs\(\) return Needs\(sizes=True\)"),
    ):
        with vtokens.attach(target, Odd(selection=selection)), pytest.raises(error, match=says):
            target(**batch)
    for other in ("vhr", "dymu(thresholds=(0.2, 0.2, 0.2))"):
        with pytest.raises(ValueError, match="'halves' lets tokens count for several in attention"):
            vtokens.attach(target, (Halves(), *parse(other)))
    with vtokens.attach(target, Halves()):
        cache = returned_cache(target(**batch, use_cache=True))
    with vtokens.attach(target, "cls"), pytest.raises(ValueError, match="holds tokens that count for several"):
        target(input_ids=torch.ones(1, 1, dtype=torch.long), **as_cache(target, cache))
