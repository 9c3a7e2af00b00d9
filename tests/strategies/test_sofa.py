"""SoFA against an untouched model whose attention is computed by loops over rows, in float64, with the paper's mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.blended import groups
from tests.engine.cases import model, refused
from tests.engine.compare import GREEDY, check_programs
from tests.engine.contrasted import check_answers
from tests.engine.dense import attending
from tests.engine.edited import generated, scored
from tests.engine.masked import dropped_keys, masking
from tests.families import EVERY, build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.strategies.attend.sofa import Sofa

FITS = [family for family in EVERY if refused(family, "sofa") is None]
TEXTS = ["<image> or <image>, which of the two?", "Is there a cat?", "<image> one, <image> two and <image> three"]
SHOWN = ((100, 60), (84, 112)), ((60, 60),), ((84, 84), (57, 112), (60, 130))


def batch(family: str, rows: tuple[int, ...] = (0, 1, 2)) -> Any:
    """Prompts with two pictures, one, and three."""
    pictures = [[image(*size, seed=10 * row + at) for at, size in enumerate(SHOWN[row])] for row in rows]
    return dict(inputs(family, [TEXTS[row] for row in rows], pictures))


@dataclass
class Mixed:
    """Attention in which each row of a picture gives later pictures a share, row by row."""

    picture: list[list[int]]
    layers: tuple[int, ...]
    sigma: float
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any) -> Tensor:
        """(B, W, H, D)."""
        scores, value, seen = scored(query, key, value, scaling, mask)
        width, total = scores.shape[-2:]
        seen = seen.expand(len(query), 1, width, total)
        weight = seen[:, 0].double()
        if layer in self.layers and width == total:
            for row, own in enumerate(self.picture):
                for place, mine in enumerate(own):
                    for other, theirs in enumerate(own):
                        if mine >= 0 and theirs > mine and not seen[row, 0, place, other]:
                            weight[row, place, other] = self.sigma
        powers = (scores - scores.amax(-1, keepdim=True)).exp() * weight[:, None]
        return (powers / powers.sum(-1, keepdim=True) @ value).nan_to_num(0.0).to(query.dtype).transpose(1, 2)


def pictures(target: Any, prompts: Any) -> list[list[int]]:
    """For each position of each row, which picture it shows; -1 where it shows none."""
    ids = prompts["input_ids"]
    placeholder = torch.stack([ids == token for token in adapter_for(target).placeholder_ids.values()]).any(0)
    with vtokens.attach(target, "none") as handle:
        target(**prompts)
        report = handle.report()
    found = [[-1] * ids.shape[1] for _ in ids]
    for number, (row, places) in enumerate(groups(report, placeholder)):
        for place in places:
            found[row][place] = number
    return found


@pytest.mark.parametrize("family", FITS)
@torch.no_grad()
def test_generation_is_that_of_mixed_masks(family: str) -> None:
    prompts, target = batch(family), model(family, "pruned")
    for spec, layers, sigma in (("sofa(sigma=0.3)", (0, 2), 0.3), ("sofa(sigma=1, layers=(1,))", (1,), 1.0)):
        oracle: Any = Mixed(pictures(model(family, "branch"), prompts), layers, sigma)
        with attending(model(family, "plain"), oracle):
            wanted = generated(model(family, "plain"), prompts, 2, do_sample=False)
        with vtokens.attach(target, spec):
            got = generated(target, prompts, 2, do_sample=False)
        check_answers(got, wanted)
    plain = generated(target, prompts, 2, do_sample=False)
    changed = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain.logits[0], got.logits[0], strict=True)]
    # The prompts of PaliGemma see all of themselves as they are.
    assert changed == [family != "paligemma", False, family != "paligemma"]


@torch.no_grad()
def test_behind_a_pruner_tokens_that_are_left_see_those_that_are() -> None:
    """What is dropped is given to nobody, whole pictures too; beams and sampling run on."""
    family, target = "llava", model("llava", "pruned")
    prompts = batch(family)
    spec = "uniform(keep=0.5)+sofa(sigma=0.4, layers=(0, 1, 2, 3))"
    shown = pictures(model(family, "branch"), prompts)
    with vtokens.attach(target, spec) as handle:
        got = generated(target, prompts, 2, do_sample=False)
        dropped = dropped_keys(handle.report(), prompts["attention_mask"])
    gone = dropped[0].tolist()
    shown = [
        [-1 if out else one for one, out in zip(own, outs, strict=True)] for own, outs in zip(shown, gone, strict=True)
    ]
    reference, oracle = model(family, "plain"), Mixed(shown, (0, 1, 2, 3), 0.4)
    with attending(reference, cast(Any, oracle)), masking(reference, dropped):
        wanted = generated(reference, prompts, 2, do_sample=False)
    check_answers(got, wanted)
    with vtokens.attach(target, spec):
        for mode in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
            assert target.generate(**batch(family, (0,)), max_new_tokens=2, min_new_tokens=2, **mode).shape[0] >= 1


@torch.no_grad()
def test_rows_have_their_own_and_one_picture_is_left_alone() -> None:
    target, _ = build("llava")
    check_programs(target, batch("llava"), ["sofa", "sofa(sigma=1.0)", "cls(keep=0.5)+sofa"], **GREEDY)
    plain = target(**batch("llava", (1,))).logits
    with vtokens.attach(target, "sofa(sigma=1.0)"):
        assert torch.equal(target(**batch("llava", (1,))).logits, plain)
    both = batch("llava", (0,))
    plain = target(**both).logits
    with vtokens.attach(target, "sofa(sigma=0)"):
        assert torch.equal(target(**both).logits, plain)


def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    with pytest.raises(ValueError, match=r"sigma=2.0 is out of range: a share in \[0, 1\]"):
        Sofa(sigma=2.0)
    with pytest.raises(ValueError, match=r"layers=7 is out of range .* the nearest is 3"):
        vtokens.attach(target, "sofa(layers=(7,))")
    with pytest.raises(ValueError, match=r"would weigh attention twice"):
        vtokens.attach(target, "vaf+sofa")
