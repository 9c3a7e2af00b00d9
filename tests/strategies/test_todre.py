"""`todre`: stage 1 against a naive loop on the model's own features, stage 2 against eager attention maps."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.families import FAMILIES, build, image, inputs
from tests.kernels.test_farthest_point import order_of
from tests.strategies import invariants
from tests.strategies.helpers import kept, pair, probe, report, three_rows
from tests.strategies.test_fastv import batch_of, maps, text_after, visual_positions
from vtokens.strategies import Saliency

OFF = "exit_threshold=none"


@torch.no_grad()
def features(model: Any, batch: Any) -> list[Tensor]:
    """The projected features of each picture, newline tokens left out."""
    names = ("pixel_values", "image_sizes", "image_grid_thw", "batch_num_images")
    given = {name: batch[name] for name in names if name in batch}
    out = model.model.get_image_features(**given, return_dict=True).pooler_output
    parts = [part.picture for s in report(model, batch, "random(keep=1)").samples for part in s.pictures]
    return [f[torch.from_numpy(p.view >= 0)] for f, p in zip(out, parts, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", ["maxsum", "kcenter"])
@pytest.mark.parametrize("keep", [1, 4, 7])
def test_stage_one_is_the_greedy_loop(family: str, objective: str, keep: int) -> None:
    """From the most salient token on (of the thumbnail where there is one), the least similar is added each time."""
    model, batch = pair(family)[0], three_rows(family)
    saliency = probe(model, batch, Saliency((-1,)))[Saliency((-1,))]
    samples = report(model, batch, "random(keep=1)").samples
    pictures = [part.picture for sample in samples for part in sample.pictures]
    expected = []
    for tokens, scores, picture in zip(features(model, batch), saliency, pictures, strict=True):
        first = int(np.prod(picture.grids[0]))
        start = int(scores[:first].argmax())
        expected.append(sorted(order_of(tokens.double().numpy(), keep, start, objective)))
    assert kept(model, batch, f"todre(keep={keep}, objective={objective}, {OFF})") == expected


def test_the_pivot_comes_from_the_thumbnail() -> None:
    """Some image's most salient token lies in a tile; the one kept token is of the thumbnail all the same."""
    model, processor = pair("llava_next")
    elsewhere = 0
    for seed in range(12):
        batch = inputs(processor, ["x"], [[image(112, 112, seed=seed)]])
        (scores,) = probe(model, batch, Saliency((-1,)))[Saliency((-1,))]
        ((only,),) = kept(model, batch, f"todre(keep=1, {OFF})")
        assert only == int(scores[:16].argmax())
        elsewhere += int(scores.argmax()) >= 16
    assert elsewhere > 0


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_stage_one_after_another_strategy(family: str) -> None:
    """It chooses among what is left, from the most salient of these, also where no thumbnail token is left."""
    model, batch = pair(family)[0], three_rows(family)
    left = kept(model, batch, "random(keep=8)")
    both = kept(model, batch, f"random(keep=8)+todre(keep=3, {OFF})")
    saliency = probe(model, batch, Saliency((-1,)))[Saliency((-1,))]
    for survivors, ranks, scores, tokens in zip(left, both, saliency, features(model, batch), strict=True):
        thumbnail = [i for i, rank in enumerate(survivors) if rank < 16] or list(range(len(survivors)))
        start = max(thumbnail, key=lambda i: float(scores[survivors[i]]))
        order = order_of(tokens[survivors].double().numpy(), 3, start, "maxsum")
        assert ranks == sorted(survivors[i] for i in order)


def alphas(family: str, batch: Any, layer: int) -> list[tuple[float, float] | None]:
    """(text to visual, visual to text) of each row from an eager copy's map of `layer`; None without pictures."""
    attention = maps(family, batch)[layer]
    out: list[tuple[float, float] | None] = []
    for b, pictures in enumerate(visual_positions(family, batch)):
        visual = [place for own in pictures for place in own]
        if not visual:
            out.append(None)
            continue
        text = text_after(family, batch, b, visual[0])
        one, two = attention[b][text], attention[b][visual]
        out.append((float(one[:, visual].sum() / one.sum()), float(two[:, text].sum() / two.sum())))
    return out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_stage_two_leaves_where_both_shares_are_below_the_threshold(family: str, side: str) -> None:
    """Measured at the 7/8-th of 4 layers (the third), acted on before the fourth, row by row."""
    model, batch = pair(family)[0], batch_of(family, side)
    shares = alphas(family, batch, 2)
    assert shares[1][1] > 0  # the second picture's rows see the text between the two
    for threshold in {max(pair_) * factor for pair_ in shares[:2] for factor in (0.999, 1.001)}:
        samples = report(model, batch, f"todre(keep=0.999, exit_threshold={threshold})").samples
        for share, sample in zip(shares, samples, strict=True):
            gone = share is not None and max(share) < threshold
            assert len(set(sample.visual_tokens[:3])) == 1
            assert sample.visual_tokens[3] == (0 if gone else sample.visual_tokens[2])


def test_visual_rows_can_hold_the_tokens_back() -> None:
    """Both shares must be below: with text between pictures the visual rows' share can be the larger one."""
    model, processor = pair("llava")
    text = "red and blue and green, yes or no: what is on the left, and what is to the right of it? "
    batch = inputs(processor, [f"<image> {text * 3} <image> ?"], [[image(60, 60, seed=0), image(60, 60, seed=3)]])
    ((to_visual, to_text),) = alphas("llava", batch, 2)
    assert to_text > to_visual
    between = (to_text + to_visual) / 2
    stays = report(model, batch, f"todre(keep=0.999, exit_threshold={between})").samples[0]
    assert stays.visual_tokens == (32, 32, 32, 32)
    leaves = report(model, batch, f"todre(keep=0.999, exit_threshold={to_text * 1.001})").samples[0]
    assert leaves.visual_tokens == (32, 32, 32, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_never_leaves_and_a_high_threshold_always_does(family: str) -> None:
    """tau = 0 (strictly below), none (stage 2 off), and above any share."""
    model, batch = pair(family)[0], three_rows(family)
    for setting in ("0", "0.0", "none"):
        for sample in report(model, batch, f"todre(keep=3, exit_threshold={setting})").samples:
            assert set(sample.visual_tokens) == {3 * len(sample.pictures)}
    for sample in report(model, batch, "todre(keep=3, exit_threshold=1.5)").samples:
        assert sample.visual_tokens == (3 * len(sample.pictures),) * 3 + (0,)
        assert len(sample.positions[3]) == len(sample.positions[2]) - 3 * len(sample.pictures)


@pytest.mark.parametrize(("depth", "share", "layer"), [(8, 0.875, 7), (4, 0.5, 2), (4, 0.3, 1), (12, 0.875, 10)])
def test_depth_of_the_exit(depth: int, share: float, layer: int) -> None:
    """Layers up to floor(share * depth), counted from one, see the tokens; those after do not."""
    model, processor = build("llava", text_config={"num_hidden_layers": depth})
    batch = inputs(processor, ["x"], [[image(60, 60, seed=0)]])
    sample = report(model, batch, f"todre(keep=5, exit_threshold=1.5, exit_depth={share})").samples[0]
    assert sample.visual_tokens == (5,) * layer + (0,) * (depth - layer)


@torch.no_grad()
def test_keep_everything_switches_both_stages_off() -> None:
    """keep=1.0 is the identity bit for bit, even with a threshold that would always exit."""
    for family in FAMILIES:
        model, batch = pair(family)[0], three_rows(family)
        plain = model(**batch).logits
        with vtokens.attach(model, "todre(keep=1.0, exit_threshold=1.5)"):
            assert torch.equal(model(**batch).logits, plain)


@torch.no_grad()
def test_newline_tokens_are_no_text() -> None:
    """Without text between pictures the visual rows' share is zero, however much they attend to newline tokens."""
    # Tiles of 2 x 2 tokens in one column: every third token of the canvas is a newline.
    strip = {"vision_config": {"image_size": 28}, "image_grid_pinpoints": [[84, 28], [28, 84]]}
    (model, processor), (eager, _) = (build("llava_next", attn_implementation=a, **strip) for a in ("sdpa", "eager"))
    batch = inputs(processor, ["yes or no, " * 60], [[image(28, 84, seed=1)]])
    attention = eager(**batch, output_attentions=True).attentions[2][0].mean(0)
    run = (batch["input_ids"][0] == model.config.image_token_id).nonzero().flatten()
    real = torch.tensor([True] * 4 + [True, True, False] * 6)
    visual, newlines, text = run[real], run[~real], slice(int(run[-1]) + 1, None)
    to_newlines = float(attention[visual][:, newlines].sum(1).mean())
    to_visual = float(attention[text, visual].sum(1).mean())
    assert to_newlines > 1.05 * to_visual
    sample = report(model, batch, f"todre(keep=0.999, exit_threshold={(to_newlines + to_visual) / 2})").samples[0]
    assert sample.visual_tokens == (16, 16, 16, 0)


@pytest.mark.parametrize("objective", ["maxsum", "kcenter"])
def test_invariants(objective: str) -> None:
    invariants.hold(f"todre(keep=5, objective={objective}, {OFF})")
    invariants.spoilt_go_first(f"todre(objective={objective}, {OFF})", invariants.drawn(6, 19))
    invariants.keeps_all("todre", objective=objective)
