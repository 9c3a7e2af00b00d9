"""Caches that are put together and taken apart: whose key stands where, against what the reports of the passes say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.serve.common import loaded, questions
from vtokens.core.compat import returned_cache
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.engine.state.sequences import chosen_rows, joined, splits


@dataclass
class Sequences:
    """Rows that were read: their cache, the mask over what was fed and the next position, and what each layer kept."""

    cache: Any
    mask: Tensor
    kept: list[list[set[int]]]
    """Row by row, layer by layer: fed positions, counted from the end of the prompt, -1 the last."""


def read(handle: Any, model: Any, processor: Any, texts: list[str], images: list[Any], spec: str) -> Sequences:
    prompts = [question_prompt(processor, text, 1) for text in texts]
    inputs = dict(encode_prompts(processor, prompts, [[image] for image in images]))
    with torch.no_grad(), handle.using(spec):
        cache = returned_cache(model(**inputs, use_cache=True))
        report = handle.report() if spec != "none" else None
    mask = inputs["attention_mask"]
    length, depth = mask.shape[1], model.config.text_config.num_hidden_layers
    kept = []
    for row, real in enumerate(mask):
        seen = [range(length)] * depth if report is None else report.samples[row].positions
        # Counted from the end, a position stays what it is, whatever padding comes in front.
        kept.append([{int(place) - length for place in layer if real[int(place)]} for layer in seen])
    return Sequences(cache, torch.nn.functional.pad(mask, (0, 1), value=1), kept)


def holds(cache: Any, mask: Tensor, kept: list[list[set[int]]]) -> None:
    """Check whose key stands where, row by row and layer by layer."""
    fed = mask.shape[1] - 1
    for index, layer in enumerate(cache.layers):
        keymap = getattr(layer, "keymap", None)
        at, valid = torch.arange(fed)[None].expand(len(mask), -1), mask[:, :fed].bool()
        if keymap is not None and keymap.dropped:
            at, there = keymap.positions(fed, mask.device), keymap.padding(valid, fed)
            valid = torch.ones_like(at, dtype=torch.bool) if there is None else there
        assert at.shape == valid.shape == (len(mask), layer.keys.shape[2])
        for row in range(len(mask)):
            assert {int(place) - fed for place in at[row][valid[row]]} == kept[row][index]
            assert bool(mask[row][at[row][valid[row]]].all())
        if keymap is not None and keymap.dropped:
            # As a compiled step makes its mask: from the one over fed positions, the last of which is this token's.
            seen = layer.mask(mask[:, None, None].bool())[:, 0, 0]
            assert torch.equal(seen[:, :-1], valid)
            assert bool(seen[:, -1].all())


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any]]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle:
        yield handle, model, processor


LONG = "Is it red? " * 6


@pytest.mark.parametrize(("specs", "longer"), [
    (("cls(keep=0.25)", "fastv(keep=0.5, layer=2)"), 1), (("fastv(keep=0.3, layer=1)", "none"), 0),
    (("none", "todre(keep=0.2)"), 1),
])  # fmt: skip
def test_keys_stand_where_their_rows_were_fed(served: Any, specs: tuple[str, str], longer: int) -> None:
    images = [one.images[0] for one in questions()[:3]]
    texts = [["What is it?", "Is it red or green?"], ["Where?"]]
    texts[longer][0] = LONG
    one = read(*served, texts[0], images[:2], specs[0])
    two = read(*served, texts[1], images[2:], specs[1])
    for some in (one, two):
        assert splits(some.cache)
        holds(some.cache, some.mask, some.kept)
    mask = joined(one.cache, one.mask, two.cache, two.mask)
    kept = [*one.kept, *two.kept]
    assert mask.shape == (3, max(one.mask.shape[1], two.mask.shape[1]))
    holds(one.cache, mask, kept)
    left, gone = chosen_rows(one.cache, mask, [2, 1])
    assert gone == mask.shape[1] - left.shape[1]
    assert bool(left[:, 0].any())  # no padding that nobody needs
    holds(one.cache, left, [kept[2], kept[1]])
