"""DeepSeek-VL: every patch of a square is a token, scored by the mean attention that it receives."""

from __future__ import annotations

import torch

import vtokens
from tests.engine.cases import model
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.strategies import Saliency

FAMILY = "deepseek_vl"


@torch.no_grad()
def test_scores_are_those_of_an_eager_tower() -> None:
    batch = dict(inputs(FAMILY, ["<image> and <image>?"], [[image(100, 60, seed=0), image(56, 84, seed=1)]]))
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=4)") as handle:
        output = target.model.get_image_features(batch["pixel_values"], return_dict=True)
        target(**batch)
        report = handle.report()
    tower = build(FAMILY, attn_implementation="eager")[0].model.vision_model
    expected = tower(batch["pixel_values"], output_attentions=True).attentions[-1].mean(1).sum(1)
    close_pass(output["_vtokens_tower_run"].run.saliency(Saliency()), expected.flatten())
    best = [sorted(row.topk(4).indices.tolist()) for row in expected]
    assert [part.kept[-1].tolist() for part in report.samples[0].pictures] == best
