"""The `rows` stage: a layer that computes some rows gives what a full layer gives whose other rows are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vtokens
from tests.engine.cases import model as tiny
from tests.engine.compare import DETAILS, GREEDY, check_programs, check_tokens, one, ragged
from tests.engine.masked import decoder_layers
from tests.families import STATEFUL, build
from tests.limits import close_pass
from vtokens.core.compat import given_cache
from vtokens.strategies import Facts, Needs, Selection, Strategy, Visuals


@dataclass(frozen=True)
class Some(Strategy):
    """Lets layers compute the first visual tokens of each picture alone."""

    name: ClassVar[str] = "some"
    layers: tuple[int, ...] = (1, 2)
    first: int = 2
    told: bool = True

    def needs(self, facts: Facts) -> Needs:
        return Needs(rows=self.layers)

    def at_rows(self, visuals: Visuals, index: int) -> Selection:
        keep = (torch.arange(visuals.valid.shape[1]) < self.first) & visuals.valid
        return Selection(keep, tuple(min(self.first, n) for n in visuals.counts) if self.told else None)


@dataclass(frozen=True)
class Merging(Some):
    """Merges tokens where all of them go on."""

    def at_rows(self, visuals: Visuals, index: int) -> Selection:
        return Selection(visuals.valid, sizes=torch.ones_like(visuals.valid, dtype=torch.float32))


@contextmanager
def put_back(model: Any, frozen: Tensor, layers: tuple[int, ...]) -> Iterator[None]:
    """Let each of `layers` put rows bool (B, N) of its first pass back as they entered it: full layers, then undone."""

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden, entered = (
            output[0] if isinstance(output, tuple) else output,
            args[0] if args else kwargs["hidden_states"],
        )
        cache = given_cache(kwargs)
        if hidden.shape[1] != frozen.shape[1] or (cache is not None and cache.get_seq_length() > frozen.shape[1]):
            return None
        rows = frozen.repeat_interleave(len(hidden) // len(frozen), 0)[..., None]
        whole = torch.where(rows, entered, hidden)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    handles = [decoder_layers(model)[index].register_forward_hook(after, with_kwargs=True) for index in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def passing(model: Any, batch: Any, spec: Any) -> Tensor:
    """bool (B, N): visual positions that pass, by the report's pictures; all but the first ones of each."""
    with torch.no_grad(), vtokens.attach(model, "uniform(keep=0.999)") as handle:
        model(**batch)
        report = handle.report()
    frozen = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    for row, sample in enumerate(report.samples):
        at = 0
        tokens = (batch["input_ids"][row] == model.config.image_token_id).nonzero()[:, 0].tolist()
        for part in sample.pictures:
            cells = part.picture.view >= 0
            own = [place for place, real in zip(tokens[at : at + len(cells)], cells, strict=True) if real]
            at += len(cells)
            frozen[row, own[spec.first :]] = True
    return frozen


FAMILIES = [("llava", "eager"), *((family, "sdpa") for family in ("llava_next", "qwen3_vl", "gemma3", STATEFUL[0]))]


@pytest.mark.parametrize(("family", "attention"), FAMILIES)
@torch.no_grad()
def test_rows_that_pass_are_put_back(family: str, attention: str) -> None:
    """Logits and generated tokens, ragged and padded: windows, both-ways masks, deepstack, layers with a state."""
    model, _ = build(family, attn_implementation=attention)
    batch, spec = ragged(family), Some()
    frozen = passing(model, batch, spec)
    assert frozen.any()
    with put_back(model, frozen, spec.layers):
        expected, told = model(**batch).logits, model.generate(**batch, **GREEDY, **DETAILS)
    for strategy in (spec, Some(told=False)):
        with vtokens.attach(model, strategy):
            got, tokens = model(**batch).logits, model.generate(**batch, **GREEDY, **DETAILS)
        real = batch["attention_mask"].bool()
        close_pass(got[real], expected[real], passes=2)
        check_tokens(tokens, told, GREEDY["max_new_tokens"], passes=2)


@torch.no_grad()
def test_what_passes_is_not_computed() -> None:
    """Operations, as torch counts them, fall by what the report says; projections and MLP see no row that passes."""
    model, _ = build("llava", attn_implementation="eager")
    batch, spec, seen = one("llava"), Some(layers=(1, 3), first=3), dict[str, int]()
    layer = decoder_layers(model)[1]
    parts = {"q": layer.self_attn.q_proj, "o": layer.self_attn.o_proj, "k": layer.self_attn.k_proj}
    parts["mlp"] = layer.mlp.gate_proj
    with FlopCounterMode(display=False) as full:
        model(**batch)
    with vtokens.attach(model, spec) as handle:
        hooks = [
            part.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0].shape[1]}))
            for name, part in parts.items()
        ]
        with FlopCounterMode(display=False) as some:
            model(**batch)
        report = handle.report()
        for hook in hooks:
            hook.remove()
    tokens = sum(part.picture.tokens for part in report.samples[0].pictures)
    length = batch["input_ids"].shape[1]
    assert seen["mlp"] == length - tokens + 3
    assert seen["k"] == length
    assert report.flops_full - report.flops == full.get_total_flops() - some.get_total_flops() > 0


@torch.no_grad()
def test_it_runs_behind_pruners_beside_steering_and_row_by_row() -> None:
    model, batch = tiny("qwen2_vl", "pruned"), ragged("qwen2_vl")
    check_programs(model, batch, [Some(), "cls(keep=0.5)", Some(layers=(0,), first=1)], **GREEDY)
    with vtokens.attach(
        model, ("fastv(keep=0.5, layer=1)", Some(layers=(2, 3), first=0), "vhr(layers=(1, 3))")
    ) as handle:
        together = model(**batch).logits
        assert handle.report().flops < handle.report().flops_full
    for row in range(3):
        real = batch["attention_mask"][row].bool()
        assert together[row, real].isfinite().all()


@torch.no_grad()
def test_what_cannot_be_is_refused() -> None:
    model, _ = build("llava")
    with pytest.raises(ValueError, match="shows attention merged ones at all of their positions"):
        vtokens.attach(model, (Some(), "dymu(thresholds=(0.2, 0.2, 0.2))"))
    with vtokens.attach(model, Merging()), pytest.raises(ValueError, match="merges tokens of which layer 1 computes"):
        model(**one("llava"))
