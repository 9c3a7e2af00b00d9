"""PaddleOCR-VL: pages as patches row by row, whose scores come in the order of the tokens they are joined to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.strategies import Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "paddleocr_vl"
NAMES = ("pixel_values", "image_grid_thw")


def scores(batch: dict[str, Any]) -> torch.Tensor:
    """(tokens,): the saliency of all tokens, as strategies read it."""
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=0.5)"):
        output = target.model.get_image_features(**{name: batch[name] for name in NAMES}, return_dict=True)
    return output["_vtokens_tower_run"].run.saliency(Saliency())


def test_scores_are_those_of_an_eager_tower_in_the_order_of_tokens() -> None:
    """Which patches a token joins is found by asking the projector which of them move it."""
    batch = dict(inputs(FAMILY, ["<image> and <image>?"], [[image(130, 60, seed=0), image(56, 84, seed=1)]]))
    target, expected = build(FAMILY, attn_implementation="eager")[0].model, []
    grids = batch["image_grid_thw"]
    assert len({tuple(grid) for grid in grids.tolist()}) == len(grids)
    for pixels, grid in zip(batch["pixel_values"].split(grids.prod(-1).tolist()), grids, strict=True):
        maps: list[torch.Tensor] = []
        attention = target.visual.vision_model.encoder.layers[-1].self_attn
        hook = attention.register_forward_hook(lambda m, a, out, maps=maps: maps.extend(out[1]))
        hidden = target.visual(pixels[None], grid_thw=grid[None]).last_hidden_state
        hook.remove()
        received = maps[0].double().mean((0, 1)).sum(0)
        plain, joined = target.projector(hidden, grid[None]), []
        for patch in range(len(received)):
            other = hidden.clone().flatten(0, -2)
            other[patch] = other[patch].flip(-1)
            joined.append(int((target.projector(other, grid[None]) - plain).abs().sum(-1).argmax()))
        own = torch.tensor(joined)
        expected.append(torch.stack([received[own == token].mean() for token in range(len(plain))]))
    close_pass(scores(batch), torch.cat(expected).float())


def test_videos_are_refused_as_transformers_has_no_call_for_them() -> None:
    assert list(vtokens.adapters.adapter_for(model(FAMILY, "plain")).towers) == ["image"]
