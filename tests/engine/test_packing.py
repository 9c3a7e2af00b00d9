"""Samples packed into one row: refused before the decoder runs, as strategies would let them see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.families import FAMILIES, build, image, inputs
from tests.limits import close_pass

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = ("uniform(keep=0.5)", "fastv(keep=0.5, layer=1)", "cls(keep=0.5)", "vhr", "pai", "vcd", "damro(k=3)",
         "dymu(thresholds=(0.8, 0.8, 0.8))", "todre(keep=0.5)")  # fmt: skip
TEXTS = ("what is <image> this?", "<image> tell me more")


def samples(family: str) -> list[dict[str, Any]]:
    return [dict(inputs(family, [text], [[image(84, 84, seed=n)]])) for n, text in enumerate(TEXTS)]


def packed(family: str) -> dict[str, Any]:
    """One row of two samples, told apart by positions alone."""
    one, two = samples(family)
    along = ("input_ids", "mm_token_type_ids")
    row = {k: torch.cat([one[k], two[k]], int(k in along)) for k in one if k != "attention_mask"}
    lengths = [len(part["input_ids"][0]) for part in (one, two)]
    row["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    if family.startswith("qwen"):  # the row for text comes before those of time, height and width
        row["position_ids"] = row["position_ids"][None].expand(4, -1, -1)
    return row


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_refused(family: str) -> None:
    """With and without a cache; the model itself tells the samples apart without one, and goes on doing so."""
    target, row = model(family, "pruned"), packed(family)
    expected = target(**row, use_cache=False).logits
    alone = [model(family, "plain")(**one, use_cache=False).logits for one in samples(family)]
    if not family.startswith("qwen"):  # these have positions of their own for pictures
        close_pass(expected, torch.cat(alone, 1))
    for number, spec in enumerate(SPECS):
        with vtokens.attach(target, spec), pytest.raises(ValueError, match=r"rows are packed.*Unpack them"):
            target(**row, use_cache=bool(number % 2))
    assert torch.equal(target(**row, use_cache=False).logits, expected)


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_by_arguments_is_refused(family: str, name: str) -> None:
    """Any one of them, however the row is numbered."""
    target, one = model(family, "pruned"), samples(family)[0]
    length = one["input_ids"].shape[1]
    value = {"max_length_q": 9, "max_length_k": 9, "seq_idx": torch.zeros(1, length, dtype=torch.int32)}
    for spec in ("uniform(keep=0.5)", "vhr", "pai"):
        with vtokens.attach(target, spec), pytest.raises(ValueError, match=f"^{name} is given, so rows are packed"):
            target(**one, **{name: value.get(name, torch.tensor([0, 9, length], dtype=torch.int32))})


@pytest.mark.parametrize("spec", ["uniform(keep=0.5)", "fastv(keep=0.5, layer=2)", "vhr", "pai"])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_are_no_packing(family: str, spec: str) -> None:
    """Of padded rows under their mask, of one row without a mask, and of pictures in three dimensions."""
    target = model(family, "pruned")
    batch = dict(inputs(family, list(TEXTS), [[image(84, 84, seed=0)], [image(60, 84, seed=1)]]))
    one = samples(family)[0]
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    of_one = torch.arange(one["input_ids"].shape[1])[None]
    if family.startswith("qwen"):
        grids = {name: part for name, part in batch.items() if name.endswith("grid_thw")}
        kinds, mask = batch["mm_token_type_ids"], batch["attention_mask"]
        positions = target.model.get_rope_index(batch["input_ids"], kinds, attention_mask=mask, **grids)[0]
        grids = {name: part for name, part in one.items() if name.endswith("grid_thw")}
        of_one = target.model.get_rope_index(one["input_ids"], one["mm_token_type_ids"], **grids)[0]
    bare = {name: part for name, part in one.items() if name != "attention_mask"}
    with vtokens.attach(target, spec):
        given = target(**batch, position_ids=positions).logits[:, -1]
        close_pass(given, target(**batch).logits[:, -1])
        given = target(**bare, position_ids=of_one).logits[:, -1]
        close_pass(given, target(**one).logits[:, -1])
        if family.startswith("qwen"):
            text = torch.cat([torch.arange(of_one.shape[-1])[None, None], of_one])
            close_pass(target(**bare, position_ids=text).logits[:, -1], given)


def test_nothing_is_refused_where_nothing_acts() -> None:
    """`keep=1.0` and text alone run packed, as without us."""
    target, row = build("llava")[0], packed("llava")
    expected = target(**row, use_cache=False).logits
    with vtokens.attach(target, "uniform(keep=1.0)"):
        assert torch.equal(target(**row, use_cache=False).logits, expected)
    ids = torch.randint(40, 300, (1, 9), generator=torch.Generator().manual_seed(0))
    text = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), "use_cache": False}
    expected = target(**text).logits
    with vtokens.attach(target, "fastv(keep=0.5, layer=1)"):
        torch.testing.assert_close(target(**text).logits, expected, rtol=0, atol=0)
