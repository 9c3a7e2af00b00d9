"""Molmo 2: pooled tokens, pictures that see each other across text, features that are added, layers that turn apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.masked import dropped_keys, masking
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import probe
from vtokens.engine.attention.apart import pooled_apart
from vtokens.engine.attention.observe import _pooled
from vtokens.kernels import attention_colmax, attention_colmean
from vtokens.strategies import Attention, Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "molmo2"
WIDE, TALL = image(130, 60, seed=0), image(56, 84, seed=1)  # two crops and the whole; one and the whole


def both() -> dict[str, Any]:
    return dict(inputs(FAMILY, ["<image> and then <image>?"], [[WIDE, TALL]]))


def test_scores_are_those_of_an_eager_tower_of_the_patches_that_a_token_is_pooled_from() -> None:
    batch = both()
    names = ("pixel_values", "image_token_pooling", "image_grids")
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=0.5)"):
        output = target.model.get_image_features(**{name: batch[name] for name in names})
        got = output["_vtokens_tower_run"].run.saliency(Saliency())
    eager = build(FAMILY, attn_implementation="eager")[0].model
    maps = eager.vision_tower(batch["pixel_values"], output_attentions=True).attentions[-1]
    received = maps.double().mean(1).sum(1).flatten().tolist()
    expected = []
    for named in batch["image_token_pooling"].tolist():
        own = [received[patch] for patch in named if patch >= 0]
        expected.append(sum(own) / len(own))
    assert min(len([1 for patch in named if patch >= 0]) for named in batch["image_token_pooling"].tolist()) == 1
    close_pass(got, torch.tensor(expected))


def test_an_image_and_its_crops_are_one_picture() -> None:
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, "cls(keep=3)") as handle:
        target(**both())
        report = handle.report()
    shown = [part.picture for part in report.samples[0].pictures]
    assert [picture.grids for picture in shown] == [((1, 3, 3), (1, 3, 5)), ((1, 3, 3), (1, 3, 3))]
    assert [len(part.kept[-1]) for part in report.samples[0].pictures] == [3, 3]


def test_pictures_see_each_other_across_the_text_between() -> None:
    """The first one moves with the second, as in the masked model, and text between does not see what follows it."""
    target, plain = model(FAMILY, "pruned"), model(FAMILY, "plain")
    batch = both()
    other = dict(batch)
    other["pixel_values"] = batch["pixel_values"].clone()
    other["pixel_values"][3:] *= -1  # those of the second picture
    ids = batch["input_ids"][0]
    with vtokens.attach(target, "fastv(keep=0.5, layer=2)") as handle:
        pruned, moved = target(**batch).logits, target(**other).logits
        report = handle.report()
    first = int((ids == target.config.image_token_id).nonzero()[0])
    assert not torch.allclose(pruned[0, first], moved[0, first], atol=1e-2)
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        expected = plain(**other).logits
    close_pass(moved[0, report.samples[0].positions[-1]], expected[0, report.samples[0].positions[-1]])


def frames(config: Any) -> dict[str, Any]:
    """A clip of three frames with words between, 3 x 3 tokens each, of patches that are named one to four at a time."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(75).view(3, 5, 5)
    named = torch.nn.functional.pad(numbers, (0, 1, 0, 1), value=-1).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    patch = config.image_patch_id
    frame = [config.frame_start_token_id, *[patch] * 9, config.frame_end_token_id]
    ids = torch.tensor([[7, *frame, 20, *frame, 21, *frame, 22, 23, 24]])
    kinds = torch.isin(ids, torch.tensor([patch, config.frame_start_token_id, config.frame_end_token_id]))
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds.long(),
        "pixel_values_videos": torch.randn(3, 25, 588, generator=generator),
        "video_token_pooling": named.flatten(0, 2), "video_grids": torch.tensor([[3, 3, 3]]),
    }  # fmt: skip


@pytest.mark.parametrize("spec", ["cls(keep=0.4)", "fastv(keep=0.4, layer=2)", "evs(keep=0.5)", "random(keep=0.3)"])
def test_a_video_is_one_picture_of_frames(spec: str) -> None:
    target, plain = model(FAMILY, "pruned"), model(FAMILY, "plain")
    batch = frames(target.config)
    with vtokens.attach(target, spec) as handle:
        logits = target(**batch).logits
        report = handle.report()
        said = target.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    (part,) = report.samples[0].pictures
    assert (part.picture.modality, part.picture.grids) == ("video", ((3, 3, 3),))
    kept = report.samples[0].positions[-1]
    assert len(kept) < batch["input_ids"].shape[1]
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        close_pass(logits[0, kept], plain(**batch).logits[0, kept])
        assert torch.equal(said, plain.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False))


def test_strategies_that_act_inside_of_attention_are_refused() -> None:
    target = model(FAMILY, "plain")
    with pytest.raises(ValueError, match=r"'vhr' acts inside of attention.* see each other across the text between"):
        vtokens.attach(target, "vhr")
    assert vtokens.attachment(target) is None


@pytest.mark.parametrize("rows", ["last", "after", "text", "visual", "all"])
def test_attention_that_is_read_is_the_eager_models(rows: Any) -> None:
    """Two rows of a batch, of two pictures and one, in a layer; what each key receives from the rows asked for."""
    batch = dict(inputs(FAMILY, ["Oh <image> and then <image>, is it?", "<image> so?"], [[WIDE, TALL], [WIDE]]))
    signal, target = Attention(2, rows), model(FAMILY, "pruned")
    got = probe(target, batch, signal)[signal]
    eager = build(FAMILY, attn_implementation="eager")[0](**batch, output_attentions=True).attentions[2].double()
    visual, real = batch["input_ids"] == target.config.image_token_id, batch["attention_mask"].bool()
    for row in range(2):
        places = visual[row].nonzero().flatten()
        asked = {
            "last": [visual.shape[1] - 1],
            "after": [int(places[-1]) + 1],
            "text": [n for n in range(int(places[0]), visual.shape[1]) if not visual[row, n]],
            "visual": places.tolist(),
            "all": real[row].nonzero().flatten().tolist(),
        }[rows]
        maps = eager[row, :, asked]
        close_pass(got[row], maps.mean((0, 1)).float())


@pytest.mark.parametrize("pool", [attention_colmean, attention_colmax])
@pytest.mark.parametrize("heads", [1, 2])  # biases of keys, or of each head's keys
def test_attention_is_pooled_over_what_rows_see(pool: Any, heads: int) -> None:
    """Against loops over rows and keys: three keys of before, stretches apart, keys that nobody may attend to."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 4, 8, generator=generator), torch.randn(2, 2, 10, 8, generator=generator)
    ids = torch.tensor([[-1, 0, 0, -1, 0, -1, -1], [0, -1, -1, 0, -1, -1, -1]])
    where, past = torch.tensor([[1, 3, 4, 6], [0, 2, 3, 6]]), 3
    weight = torch.tensor([[True, True, True, False], [True, False, False, False]])
    allowed = torch.rand(2, 10, generator=generator) > 0.2
    bias = torch.randn(2, 10, generator=generator) if heads == 1 else torch.randn(2, 2, 10, generator=generator)
    got = pooled_apart(
        pool, _pooled, ids, where, past, query, key, weight, allowed, bias, {"scaling": 0.4, "softcap": None}
    )
    for row in range(2):
        maps = []
        for number, column in enumerate(where[row].tolist()):
            if not weight[row, number]:
                continue
            sees = [
                bool(allowed[row, k]) and (
                    k <= past + column or (ids[row, column] >= 0 and ids[row, k - past] == ids[row, column])
                )
                for k in range(10)
            ]  # fmt: skip
            for head in range(4):
                scores = 0.4 * key[row, head // 2].double() @ query[row, head, number].double()
                scores += (bias[row] if heads == 1 else bias[row, head // 2]).double()
                maps.append(scores.masked_fill(~torch.tensor(sees), -torch.inf).softmax(-1))
        stacked = torch.stack(maps)
        close_pass(got[row], (stacked.mean(0) if pool is attention_colmean else stacked.amax(0)).float())


def test_layers_that_turn_otherwise_are_told_apart() -> None:
    """Two of the tiny model's layers do not scale their positions; each gets its own angles in a second sequence."""
    from vtokens.adapters import adapter_for

    adapter = adapter_for(model(FAMILY, "plain"))
    assert [spec.rope for spec in adapter.specs] == ["scaled", "unscaled", "scaled", "unscaled"]
    hidden, positions = torch.zeros(1, 5, 64), torch.arange(5)[None]
    plain, scaled = (adapter.rotary(hidden, positions, rope)[0] for rope in ("unscaled", "scaled"))
    torch.testing.assert_close(scaled[:, 4], plain[:, 2])
