"""AGLA against an untouched model that is fed each prompt whole, what is relevant read off eager attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import MODES, model
from tests.engine.compare import one
from tests.engine.contrasted import Combine, Partly, check_answers, expect, plausible
from tests.families import build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.core.picture import Picture
from vtokens.strategies import get
from vtokens.strategies.contrast.agla import Agla, spread_over
from vtokens.strategies.views.logits import Logits

END: dict[str, Any] = {"max_new_tokens": 2, "eos_token_id": 10**6}
DETAILS: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True}


def added(alpha: float, beta: float) -> Combine:
    return lambda real, other, step: plausible(real, real + alpha * other, beta)


def relevant(family: str, prompt: dict[str, Any], keep: float, layer: int, others: str) -> Partly:
    """The prompt without what its last position looks at least, of each picture."""
    maps = model(family, "plain", "eager")(**prompt, output_attentions=True).attentions
    looks = maps[layer][0, :, -1].double().mean(0)
    places: Tensor = adapter_for(model(family, "plain")).placeholders(prompt)["image"]
    rest = torch.zeros_like(places)
    [index] = places.nonzero()[:, 1].split(int(places.sum()))
    count = max(1, math.floor(keep * len(index)))
    order = sorted(index.tolist(), key=lambda at: -float(looks[at]))
    rest[0, order[count:]] = True
    if others == "zero":
        return Partly(prompt, blank=rest)
    return Partly(prompt, [rest] * len(maps))


@pytest.mark.parametrize("others", ["zero", "drop"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "internvl"])
@torch.no_grad()
def test_answers_are_those_of_the_formula(family: str, others: str) -> None:
    batch = one(family)
    part = relevant(family, batch, 0.5, 1, others)
    expected = expect(model(family, "plain"), batch, [part], added(1.5, 0.2), do_sample=False, **END)
    target = model(family, "pruned")
    with vtokens.attach(target, f"agla(alpha=1.5, beta=0.2, keep=0.5, layer=1, others={others})"):
        check_answers(target.generate(**batch, do_sample=False, **END, **DETAILS), expected)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_batches_beams_and_sampling(mode: str) -> None:
    family, texts = "llava", ["Is there a cat?", "hello there"]
    groups = [[image(100, 60, seed=0)], []]
    batch = dict(inputs(family, texts, groups))
    row = dict(inputs(family, texts[:1], groups[:1]))
    options = {**MODES[mode], **END}
    torch.manual_seed(0)
    parts = [relevant(family, row, 0.25, 2, "zero"), None]
    expected = expect(model(family, "plain"), batch, parts, added(2.0, 0.5), **options)
    target = model(family, "pruned")
    with vtokens.attach(target, "agla(keep=0.25)"):
        torch.manual_seed(0)
        check_answers(target.generate(**batch, **options, **DETAILS), expected, mode == "beam")


@torch.no_grad()
def test_a_map_of_ones_own() -> None:
    """The upper half of the picture alone is added, whatever size the map has; one map serves every picture."""
    family, batch = "llava", one("llava")
    target, plain = model(family, "pruned"), model(family, "plain")
    places: Tensor = adapter_for(plain).placeholders(batch)["image"]
    index = places.nonzero()[:, 1]
    rest = torch.zeros_like(places)
    rest[0, index[len(index) // 2 :]] = True
    expected = expect(plain, batch, [Partly(batch, blank=rest)], added(2.0, 0.5), do_sample=False, **END)
    for relevance in (((1.0,), (0.0,)), ((9, 8, 7), (6, 5, 4), (1, 1, 1), (0, 0, 0))):
        with vtokens.attach(target, Agla(keep=0.5, relevance=(relevance,))):
            check_answers(target.generate(**batch, do_sample=False, **END, **DETAILS), expected)
    with (
        vtokens.attach(target, Agla(relevance=(((1.0,),), ((1.0,),)))),
        pytest.raises(ValueError, match=r"relevance has 2 maps, and the pass 1 pictures"),
    ):
        target(**batch)


def test_the_formula_by_hand() -> None:
    """alpha=2, beta=.5: the cut is at 2 + log(.5) = 1.3069, so that token 0 alone stays, with 2 + 2 * 1."""
    real, other = torch.tensor([[[2.0, 1.0, 0.0, -3.0]]]), torch.tensor([[[1.0, 2.0, 0.0, -3.0]]])
    assert get("agla")().at_logits(Logits(real, other)).tolist() == [[[4.0, -math.inf, -math.inf, -math.inf]]]
    assert get("agla")(beta=0.0).at_logits(Logits(real, other)).tolist() == [[[4.0, 5.0, 0.0, -9.0]]]


def test_maps_are_read_at_the_middle_of_cells() -> None:
    picture = Picture.of([(1, 2, 2), (1, 4, 3)], [True, False])
    found = spread_over(picture, np.arange(4.0).reshape(2, 2))
    assert found.tolist() == [0, 1, 0, 2, 3, 0, *(0, 1, 1) * 2, *(2, 3, 3) * 2]


def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    with pytest.raises(ValueError, match="is no map: rows of equally many numbers are needed"):
        Agla(relevance=(((1.0,), (1.0, 2.0)),))
    with pytest.raises(ValueError, match=r"layer=4 is out of range"):
        vtokens.attach(target, "agla(layer=4)")
    with pytest.raises(ValueError, match="would contrast logits twice"):
        vtokens.attach(target, "agla+vcd")
    with pytest.raises(ValueError, match="has no place for a map of it"):
        spread_over(Picture("image", ((1, 1, 1),), *(np.zeros(1, dtype=int),) * 4, tiled=True), np.ones((1, 1)))
