"""pixelprune: the release's choice, pixels that come back, and a tower that attends to what it is shown alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import AttentionInterface

import vtokens
from tests.engine.media import media
from tests.engine.state import snapshot
from tests.families import build, inputs
from tests.limits import close_pass
from tests.strategies.helpers import pair
from vtokens.strategies import parse
from vtokens.strategies.prune.pixelprune import predicted, repeated

STORED = np.load(Path(__file__).parent / "parity" / "pixelprune.npz")
SETTINGS = [name for name in STORED.files if not name.endswith("cells")]
CLIP, ROWS = ("llava", "vipllava", "llava_next", "video_llava"), ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


def page(width: int, height: int, seed: int, side: int = 28) -> Image.Image:
    """A white page with a few flat boxes on a grid of `side` pixels, and noise in some of its cells."""
    rng, high, wide = np.random.default_rng(seed), height // side, width // side
    cells = np.full((high, wide, 3), 255)
    for _ in range(3):
        y, x = rng.integers(0, high), rng.integers(0, wide)
        cells[y : y + 2, x : x + 3] = rng.integers(0, 255, 3)
    pixels = cells.repeat(side, 0).repeat(side, 1)
    for _ in range(max(1, high * wide // 4)):
        y, x = side * rng.integers(0, high), side * rng.integers(0, wide)
        pixels[y : y + side, x : x + side] = rng.integers(0, 255, (side, side, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def shown_of(family: str, batch: dict[str, Any], index: int = 0) -> Tensor:
    """bool (h, w): of the picture of a call, what a numpy loop over tokens keeps."""
    pixels = batch["pixel_values"]
    if family in CLIP:
        planes = pixels.flatten(0, -4)[index].unfold(1, 14, 14).unfold(2, 14, 14)  # (3, h, w, 14, 14)
        return kept_by_hand(planes.permute(1, 2, 0, 3, 4).flatten(2).double().numpy())
    _, h, w = batch["image_grid_thw"][index].tolist()
    return kept_by_hand(pixels.view(h // 2, w // 2, -1).double().numpy())


def kept_by_hand(cells: np.ndarray) -> Tensor:
    """bool (h, w): exact predictive coding, token by token."""
    high, wide = cells.shape[:2]
    keep = np.ones((high, wide), bool)
    for y in range(high):
        for x in range(wide):
            if y == x == 0:
                continue
            above, left = (y - 1, x), (y, x - 1)
            source = above if x == 0 else left
            if x and y:
                corner = cells[y - 1, x - 1]
                if np.array_equal(corner, cells[left]) and not np.array_equal(corner, cells[above]):
                    source = above
            keep[y, x] = not np.array_equal(cells[y, x], cells[source])
    return torch.from_numpy(keep)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_release_shows_the_same_tokens(name: str) -> None:
    """`methods/pred_2d.py` of OPPO-Mente-Lab/PixelPrune at 0bf89f3, which was run on these grids of tokens.

    A few levels in blocks, 15% of tokens changed, noise of 0 to 0.03; numpy's generator 0; (h, w, 12) float32 each.
    """
    number, metric, threshold = name.split("_")
    cells = torch.from_numpy(STORED[f"{number}_cells"])[None]
    into = predicted(cells, float(threshold), "max" if metric == "exact" else metric)  # type: ignore[arg-type]
    own = torch.arange(into.numel()).view_as(into)
    assert np.array_equal((into == own)[0].numpy(), STORED[name])
    if not float(threshold):
        assert torch.equal(repeated(cells), into)


def tokens() -> st.SearchStrategy[Tensor]:
    """(1, h, w, 2) of two values, so that repeats are everywhere."""
    sides = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**20))
    return sides.map(
        lambda drawn: torch.randint(0, 2, (1, *drawn[:2], 2), generator=torch.Generator().manual_seed(drawn[2])).float()
    )


@pytest.mark.fuzz
@given(tokens())
def test_pixels_that_stay_tell_all_others(cells: Tensor) -> None:
    """Exact: what stands in for a token has its pixels, is shown, and comes before it; both ways of looking agree."""
    into = repeated(cells).flatten()
    assert torch.equal(cells.flatten(1, 2)[:, into].view_as(cells), cells)
    assert torch.equal(into[into], into)
    assert (into <= torch.arange(len(into))).all()
    assert torch.equal(predicted(cells, 0.0, "max").flatten(), into)


@pytest.mark.fuzz
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**20), st.sampled_from(["max", "mae", "rmse"]))
def test_no_pixel_is_put_back_further_off_than_allowed(high: int, wide: int, seed: int, metric: Any) -> None:
    """Tolerant: errors do not add up from token to token."""
    cells = torch.rand((2, high, wide, 5), generator=torch.Generator().manual_seed(seed)).double() * 0.4
    into = predicted(cells.float(), 0.1, metric)
    for frame, places in zip(cells, into.flatten(1), strict=True):
        assert torch.equal(places[places], places)
        apart = (frame.flatten(0, 1)[places] - frame.flatten(0, 1)).abs()
        far = {"max": apart.amax(-1), "mae": apart.mean(-1), "rmse": apart.square().mean(-1).sqrt()}[metric]
        assert (far <= 0.1 + 1e-6).all()


def hidden_keys(shown: Tensor) -> Any:
    """An attention function, in float64, whose keys are those that are `shown`, call by call and block by block."""
    at = [0]

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any = None, scaling: float = 1.0, **more: Any
    ) -> Any:
        part = shown[at[0] : at[0] + key.shape[2]]
        at[0] = (at[0] + key.shape[2]) % len(shown)
        scores = (query.double() @ key.double().mT) * scaling
        shares = scores.masked_fill(~part, -torch.inf).softmax(-1).nan_to_num(0)
        return (shares @ value.double()).to(query).transpose(1, 2), None

    return attend


@contextmanager
def seeing_only(tower: Any, shown: Tensor) -> Iterator[None]:
    """Let a plain tower, which computes all tokens, attend to some alone."""
    before = tower.config._attn_implementation
    AttentionInterface.register("only_shown", hidden_keys(shown))
    tower.config._attn_implementation = "only_shown"
    try:
        yield
    finally:
        tower.config._attn_implementation = before


@pytest.mark.parametrize("family", ROWS)
@torch.no_grad()
def test_shown_tokens_see_each_other_at_their_places(family: str) -> None:
    """Features, deeper ones too, are those of a tower that computes all tokens and attends to those shown alone."""
    model, plain = pair(family)[0], build(family)[0]
    batch = dict(inputs(pair(family)[1], ["What? <image>"], [[page(168, 140, seed=1)]]))
    shown = shown_of(family, batch).flatten()
    assert 4 < shown.sum() < 0.8 * len(shown)
    visual, call = plain.model.visual, (batch["pixel_values"], batch["image_grid_thw"])
    patches = shown.repeat_interleave(4)
    if family == "qwen2_5_vl":  # which works window by window
        patches = patches.view(-1, 4)[in_windows(batch)].flatten()
    with seeing_only(visual, patches):
        expected = plain.model.get_image_features(*call, return_dict=True)
    with vtokens.attach(model, "pixelprune") as handle:
        got = model.model.get_image_features(*call, return_dict=True)
        model(**batch)
        kept = handle.report().samples[0].pictures[0].kept[-1]
    assert kept.tolist() == shown.nonzero().flatten().tolist()
    features = got.pooler_output[0]
    close_pass(features[shown], expected.pooler_output[0][shown])
    assert len(features[shown].unique(dim=0)) == len(features.unique(dim=0))
    deeper = [output.get("deepstack_features") or () for output in (got, expected)]
    for mine, theirs in zip(*deeper, strict=True):
        close_pass(mine[0][shown], theirs[0][shown])


def in_windows(batch: dict[str, Any]) -> Tensor:
    """Tokens in the order in which the tower of Qwen2.5-VL works: windows of 2 x 2 of them."""
    h, w = (batch["image_grid_thw"][0, 1:] // 2).tolist()
    own = np.arange(h * w).reshape(h, w)
    parts = [own[y : y + 2, x : x + 2].ravel() for y in range(0, h, 2) for x in range(0, w, 2)]
    return torch.from_numpy(np.concatenate(parts))


@pytest.mark.parametrize("family", ["llava", "vipllava", "video_llava"])
@torch.no_grad()
def test_rows_of_clip_see_those_that_are_shown(family: str) -> None:
    """A batch of pictures that keep different numbers: each is what it is where all is computed and the rest masked."""
    model, plain = pair(family)[0], build(family)[0].model
    batch = dict(inputs(pair(family)[1], ["<image> What? <image>"], [[page(56, 56, seed=s, side=14) for s in (1, 2)]]))
    shown = torch.stack([shown_of(family, batch, number).flatten() for number in range(2)])
    assert shown[0].sum() != shown[1].sum()
    tower = plain.image_tower if family == "video_llava" else plain.vision_tower
    wanted = []
    for pixels, part in zip(batch["pixel_values"], shown, strict=True):
        with seeing_only(tower, torch.cat([torch.ones(1, dtype=torch.bool), part])):
            states = tower(pixels[None], output_hidden_states=True).hidden_states
        layers = plain.config.vision_feature_layer
        layers = [layers] if isinstance(layers, int) else layers
        wanted.append(plain.multi_modal_projector(torch.cat([states[layer][:, 1:] for layer in layers], -1))[0])
    with vtokens.attach(model, "pixelprune") as handle:
        got = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
        model(**batch)
        pictures = handle.report().samples[0].pictures
    for features, expected, part, picture in zip(got, wanted, shown, pictures, strict=True):
        close_pass(features[part], expected[part])
        assert picture.kept[-1].tolist() == part.nonzero().flatten().tolist()


@pytest.mark.parametrize("family", [*CLIP, *ROWS])
@torch.no_grad()
def test_nothing_repeats_nothing_changes(family: str) -> None:
    """Where no token repeats its prediction, as in photographs, logits are the model's own."""
    model, processor = pair(family)
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3)).astype(np.uint8)
    batch = inputs(processor, ["What? <image>"], [[Image.fromarray(noise)]])
    plain = model(**batch).logits
    before = snapshot(model)
    with vtokens.attach(model, "pixelprune") as handle:
        close_pass(model(**batch).logits, plain)
        assert all(len(part.kept[-1]) == part.picture.tokens for part in handle.report().samples[0].pictures)
    assert snapshot(model) == before


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_a_row_of_a_batch_is_what_it_is_alone(family: str) -> None:
    """With other pages beside it, in float32 and bfloat16; and `generate` goes on from it."""
    model, processor = pair(family)
    side = 14 if "llava" in family else 28
    pages = [[page(112, 56, 1, side)], [page(56, 56, 2, side), page(84, 140, 3, side)]]
    prompts = ["Is there a cat?", "<image> or, rather, <image>?"]
    both = inputs(processor, prompts, pages)
    with vtokens.attach(model, "pixelprune") as handle:
        got = model(**both).logits
        kept = [[part.kept[-1].tolist() for part in sample.pictures] for sample in handle.report().samples]
        assert sum(sample.visual_tokens[-1] for sample in handle.report().samples) < sum(
            part.picture.tokens for sample in handle.report().samples for part in sample.pictures
        )
        for row in range(2):
            alone = model(**inputs(processor, [prompts[row]], [pages[row]])).logits[0]
            assert [part.kept[-1].tolist() for part in handle.report().samples[0].pictures] == kept[row]
            close_pass(got[row, -1:], alone[-1:])
        text = model.generate(**both, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        assert torch.equal(text[:, -3], got[:, -1].argmax(-1))
    half = build(family)[0].to(torch.bfloat16)
    with vtokens.attach(half, "pixelprune") as handle:
        half(**both)
        again = [[part.kept[-1].tolist() for part in sample.pictures] for sample in handle.report().samples]
    assert again == kept


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "video_llava"])
@torch.no_grad()
def test_frames_of_a_video_are_looked_at_one_by_one(family: str) -> None:
    """What repeats from one frame to the next is not asked, as in the release: the first token of each stays."""
    model = pair(family)[0]
    frame = page(56, 56, 5, 14) if family == "video_llava" else page(112, 84, 5)
    batch = media(family, [["Look: ", [frame, frame, frame], " What?"]])
    with vtokens.attach(model, "pixelprune") as handle:
        model(**batch)
        (part,) = handle.report().samples[0].pictures
    picture = part.picture
    at = [(picture.t[i], picture.y[i], picture.x[i]) for i in part.kept[-1]]
    frames = [sorted((y, x) for t, y, x in at if t == number) for number in range(3)]
    assert frames[0] == frames[1] == frames[2]
    assert frames[0][0] == (0, 0)
    assert len(frames[0]) < picture.grids[0][1] * picture.grids[0][2]


@torch.no_grad()
def test_a_threshold_counts_in_the_units_that_std_says() -> None:
    """0.02 of pixels in [0, 1] is 0.02 / std of what the tower is given; more tolerance keeps no more tokens here."""
    model, processor = pair("qwen3_vl")
    rng = np.random.default_rng(0)
    flat = np.full((112, 112, 3), 128) + rng.integers(-3, 4, (112, 112, 3))  # at most 6 / 255 = 0.0235 apart
    batch = inputs(processor, ["What? <image>"], [[Image.fromarray(flat.astype(np.uint8))]])
    std = float(processor.image_processor.image_std[0])
    left = {}
    for threshold, unit in ((0.0, 1.0), (0.03, std), (0.03, 1.0), (0.03 / std, 1.0)):
        with vtokens.attach(model, "pixelprune", threshold=threshold, std=unit) as handle:
            model(**batch)
            left[threshold, unit] = len(handle.report().samples[0].pictures[0].kept[-1])
    assert left[0.0, 1.0] == left[0.03, 1.0] == 16
    assert left[0.03, std] == left[0.03 / std, 1.0] == 1


def test_what_it_cannot_do_is_refused() -> None:
    """Towers that cannot leave tokens out, thresholds below 0, no unit, unknown metrics."""
    for family in ("gemma3", "glm4v", "idefics3"):
        with pytest.raises(ValueError, match=r"pictures without some of their tokens.*is shown whole ones"):
            vtokens.attach(pair(family)[0], "pixelprune")
    for text, words in (
        ("pixelprune(threshold=-0.1)", "threshold=-0.1 is out of range"),
        ("pixelprune(std=0.0)", "std=0.0 is out of range"),
        ("pixelprune(metric=maximum)", "unknown metric 'maximum'. Did you mean 'max'"),
    ):
        with pytest.raises(ValueError, match=words):
            parse(text)
    with (
        pytest.raises(ValueError, match="pooled as squares"),
        vtokens.attach(pair("llava_next_video")[0], "pixelprune"),
    ):
        pair("llava_next_video")[0](**media("llava_next_video", [[[page(56, 56, 0)] * 2, " What?"]]))
