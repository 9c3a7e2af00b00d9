"""FADE against an untouched model whose MLPs have smaller last weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import MODES, model
from tests.engine.compare import GREEDY, check_programs, ragged
from tests.engine.masked import decoder_layers
from tests.families import build
from tests.limits import close_pass
from vtokens.adapters.decoder import mlp_of
from vtokens.strategies.attend.fade import Fade


def faded(family: str, weight: float, layers: tuple[int, ...]) -> Any:
    """A copy of a model in which the last projections of some MLPs are scaled."""
    other = copy.deepcopy(model(family, "plain"))
    for layer in layers:
        mlp = mlp_of(decoder_layers(other)[layer])
        last = next(getattr(mlp, name) for name in ("down_proj", "w2", "fc2") if hasattr(mlp, name))
        last.weight.data.mul_(1 - weight)
        if last.bias is not None:
            last.bias.data.mul_(1 - weight)
    return other


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "lfm2_vl"])
@torch.no_grad()
def test_it_is_a_scaled_mlp(family: str, mode: str) -> None:
    batch, options = ragged(family), {**MODES[mode], "max_new_tokens": 3, "min_new_tokens": 3}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    torch.manual_seed(0)
    expected = faded(family, 0.3, (1, 3)).generate(**batch, **options)
    target = model(family, "pruned")
    with vtokens.attach(target, "fade(weight=0.3, layers=(1, -1))"):
        torch.manual_seed(0)
        got = target.generate(**batch, **options)
    assert torch.equal(got.sequences, expected.sequences)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits))


@torch.no_grad()
def test_behind_pruners_and_in_rows() -> None:
    batch, other = ragged("llava"), faded("llava", 0.1, (2, 3))
    target = model("llava", "pruned")
    for spec in ("cls(keep=0.5)+fastv(keep=0.5, layer=2)", "vcd"):
        with vtokens.attach(other, spec):
            expected = other.generate(**batch, **GREEDY)
        with vtokens.attach(target, f"{spec}+fade"):
            assert torch.equal(target.generate(**batch, **GREEDY), expected)
    check_programs(target, batch, ["fade", "none", "fade(weight=0.5)"], **GREEDY)
    with vtokens.attach(target, "fade(weight=0)"):
        close_pass(target(**batch).logits, model("llava", "plain")(**batch).logits)


def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    with pytest.raises(ValueError, match=r"weight=1.5 is out of range"):
        Fade(weight=1.5)
    with pytest.raises(ValueError, match=r"layers=7 is out of range .* the nearest is 3"):
        vtokens.attach(target, "fade(layers=(7,))")
