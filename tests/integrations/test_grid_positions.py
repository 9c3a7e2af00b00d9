"""Positions of cut pictures in a grid: those that an attached strategy leaves them, and the text behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.integrations.test_chooser import empty, model, of_tower, prompt
from vtokens.adapters import adapter_for
from vtokens.integrations.behind_tower.chooser import Chooser
from vtokens.integrations.behind_tower.grid_positions import Run, carried, expanded, moved, taken


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("spec", ["uniform(keep=0.3)", "divprune(keep=0.2)", "random(keep=1)"])
@torch.no_grad()
def test_they_are_those_of_an_attached_strategy(family: str, spec: str) -> None:
    target, _ = model(family)
    batch, adapter = prompt(family), adapter_for(target)
    seen: list[Tensor] = []
    with vtokens.attach(target, spec) as handle:
        hook = adapter.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
        )
        text: list[Tensor] = []
        whole = adapter.language_model.rotary_emb.register_forward_pre_hook(
            lambda module, args, kwargs: text.append((args[1] if len(args) > 1 else kwargs["position_ids"])[-3:, 0]),
            with_kwargs=True,
        )
        target(**batch)
        hook.remove()
        whole.remove()
        stays = torch.from_numpy(handle.report().samples[0].positions[0])
    features = list(target.model.get_image_features(**of_tower(batch), return_dict=True).pooler_output)
    pictures = empty(family).pictures("image", of_tower(batch))
    chosen = Chooser(empty(family), spec).choose(features, pictures)
    ids = batch["input_ids"][0]
    short = ids[stays].tolist()
    # As vLLM sees it: a prompt with fewer placeholders, whose family tells positions of a whole one.
    offsets = [number for number, one in enumerate(short) if one == adapter.placeholder_ids["image"]]
    first = [offsets[0], offsets[len(chosen[0].kept)]]
    runs = [
        Run(offset, len(one.kept), len(picture)) for offset, one, picture in zip(first, chosen, pictures, strict=True)
    ]
    tokens, starts, where = expanded(short, runs)
    assert tokens == ids.tolist()
    assert starts == [number for number in range(1, len(tokens)) if _begins(tokens, number, adapter)]
    given = {name: batch[name] for name in batch if name not in ("pixel_values",)}
    positions = adapter.prompt_positions(given, [])[:, 0]
    scheduled = positions[:, where].clone()
    rows = [
        carried(one.features, torch.tensor([[p.t[k], p.y[k], p.x[k]] for k in one.kept.tolist()]))
        for one, p in zip(chosen, pictures, strict=True)
    ]
    back, added = taken(rows)
    for mine, one in zip(back, chosen, strict=True):
        assert torch.equal(mine, one.features)
    buffer = torch.nn.functional.pad(scheduled, (0, 5), value=-1)
    moved(buffer, added, torch.tensor(short) == adapter.placeholder_ids["image"])
    assert torch.equal(buffer[:, : len(short)], positions[:, stays])
    assert torch.equal(buffer[:, : len(short)], text[0])
    assert (buffer[:, len(short) :] == -1).all()


def _begins(tokens: list[int], number: int, adapter: Any) -> bool:
    image_token = adapter.placeholder_ids["image"]
    return tokens[number] == image_token != tokens[number - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_coordinates_come_back_from_any_dtype(dtype: torch.dtype) -> None:
    cells = torch.tensor([[0, 255, 256], [257, 511, 65_535], [1, 12_345, 54_321]])
    rows = [carried(torch.randn(3, 4).to(dtype), cells), carried(torch.randn(2, 4).to(dtype))]
    features, added = taken(rows)
    assert [one.shape for one in features] == [(3, 4), (2, 4)]
    assert added.T.tolist() == [*cells.tolist(), [0, 0, 0], [0, 0, 0]]


def test_by_hand() -> None:
    """t0 v1 v2 t1 of a picture of 2 x 2."""
    tokens, starts, where = expanded([7, 9, 9, 8], [Run(1, 2, 4)])
    assert (tokens, starts, where.tolist()) == ([7, 9, 9, 9, 9, 8], [1], [0, 1, 1, 5])
    tokens, starts, where = expanded([9, 9, 5, 9, 6], [Run(0, 2, 2), Run(3, 1, 3)])
    assert (tokens, starts, where.tolist()) == ([9, 9, 5, 9, 9, 9, 6], [0, 3], [0, 1, 2, 3, 6])
    positions = torch.tensor([[0, 1, 1, 3]]).expand(3, -1).clone()
    moved(positions, torch.tensor([[0, 0], [0, 1], [1, 0]]), torch.tensor([False, True, True, False]))
    assert positions.tolist() == [[0, 1, 1, 3], [0, 1, 2, 3], [0, 2, 1, 3]]
