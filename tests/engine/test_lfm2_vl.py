"""LFM2-VL: a padded tower, tiles with words between, short convolutions whose last rows can be cropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.strategies import Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "lfm2_vl"
WIDE, SMALL = image(200, 60, seed=0), image(56, 84, seed=1)  # two tiles and the whole; one tile


def features(target: Any, batch: dict[str, Any]) -> Any:
    """The output of the feature call."""
    names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    return target.model.get_image_features(**{name: batch[name] for name in names}, return_dict=True)


def scores(batch: dict[str, Any]) -> torch.Tensor:
    """(tokens,): the saliency of all tokens, as strategies read it."""
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=0.5)"):
        return features(target, batch)["_vtokens_tower_run"].run.saliency(Saliency())


def test_scores_are_those_of_an_eager_tower_in_the_order_of_tokens() -> None:
    """Token i of the projector is made of four patches, found here by asking it for their numbers."""
    batch = dict(inputs(FAMILY, ["<image> and <image>?"], [[WIDE, SMALL]]))
    target, expected = build(FAMILY, attn_implementation="eager")[0].model, []
    for pixels, (high, wide) in zip(batch["pixel_values"], batch["spatial_shapes"].tolist(), strict=True):
        real = high * wide  # each picture without its padding
        alone = target.vision_tower(
            pixel_values=pixels[None, :real],
            pixel_attention_mask=torch.ones(1, real),
            spatial_shapes=torch.tensor([[high, wide]]),
            output_attentions=True,
        )
        maps = alone.attentions[-1].mean(1)[0].sum(0)
        numbers = torch.arange(real).float().view(1, high, wide, 1)
        joined = target.multi_modal_projector.pixel_unshuffle(numbers).flatten(0, 2).long()
        expected.append(maps[joined].mean(-1))
    close_pass(scores(batch), torch.cat(expected))


def test_neither_padding_nor_other_pictures_move_scores() -> None:
    both = scores(dict(inputs(FAMILY, ["<image> and <image>?"], [[WIDE, SMALL]])))
    alone = [scores(dict(inputs(FAMILY, ["<image>?"], [[one]]))) for one in (WIDE, SMALL)]
    close_pass(both, torch.cat(alone))


def test_a_budget_is_that_of_an_image_not_of_its_tiles() -> None:
    """In a batch of several images; the tiles and the whole are views of one picture."""
    batch = dict(inputs(FAMILY, ["<image> or <image>?", "<image>?"], [[WIDE, SMALL], [WIDE]]))
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=3)") as handle:
        target(**batch)
        report = handle.report()
    shown = [[part.picture for part in sample.pictures] for sample in report.samples]
    assert [[picture.tokens for picture in row] for row in shown] == [[18, 6], [18]]
    assert [sorted({*picture.view.tolist()}) for picture in shown[0]] == [[0, 1, 2], [0]]
    assert [[len(part.kept[-1]) for part in sample.pictures] for sample in report.samples] == [[3, 3], [3]]


@pytest.mark.parametrize("spec", ["cls(keep=0.5)", "fastv(keep=0.4, layer=2)"])
def test_speculation_gives_what_decoding_does(spec: str, caplog: pytest.LogCaptureFixture) -> None:
    """Candidates of another model: what was wrong is cropped from keys, and from what convolutions look back over."""
    target, batch = model(FAMILY, "pruned"), dict(inputs(FAMILY, ["is it is it is <image> is it?"], [[WIDE]]))
    caplog.set_level("ERROR", "transformers.generation.utils")  # it calls itself in a way that it calls deprecated
    longer = {**GREEDY, "max_new_tokens": 12, "min_new_tokens": 12}
    with vtokens.attach(target, spec):
        expected = target.generate(**batch, **longer)
        got = target.generate(**batch, **longer, assistant_model=build(FAMILY, seed=1)[0])
    assert torch.equal(got, expected)
