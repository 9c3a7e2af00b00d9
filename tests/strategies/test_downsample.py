"""downsample: tower and decoder see a smaller picture, each token at its place; what that does not fit is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.media import clip, media
from tests.engine.state import snapshot
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import Probe, pair
from vtokens.core.budget import budget
from vtokens.strategies import Saliency, parse
from vtokens.strategies.prune.downsample import smaller

PATCH, MERGE = 14, 2
KEEP = 0.3
SQUARE = ("llava", "vipllava", "video_llava")
ROWS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")


def shrink(plane: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(plane[None], size, mode="bicubic", antialias=True)[0]


def small_rows(rows: Tensor, grid: tuple[int, int, int], size: tuple[int, int]) -> Tensor:
    """Rows of patches of a picture resized to `size` tokens, put together patch by patch."""
    t, h, w = grid
    side, two = PATCH * MERGE, range(MERGE)
    order = [(f, MERGE * by + y, MERGE * bx + x) for f in range(t) for by in range(h // 2) for bx in range(w // 2)
             for y in two for x in two]  # fmt: skip
    planes = torch.zeros(t, rows.shape[1] // PATCH**2, h * PATCH, w * PATCH)
    for row, (f, y, x) in zip(rows, order, strict=True):
        planes[f, :, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] = row.view(-1, PATCH, PATCH)
    small = [shrink(plane, (size[0] * side, size[1] * side)) for plane in planes]
    return torch.stack([
        small[f][:, (2 * by + y) * PATCH : (2 * by + y + 1) * PATCH, (2 * bx + x) * PATCH : (2 * bx + x + 1) * PATCH]
        .reshape(-1) for f in range(t) for by in range(size[0]) for bx in range(size[1]) for y in two for x in two
    ])  # fmt: skip


def upper_left(high: int, wide: int, size: tuple[int, int]) -> list[int]:
    """The first of the tokens, in raster order, that show each token of a picture of `size`."""
    seen: dict[tuple[int, int], int] = {}
    for y in range(high):
        for x in range(wide):
            seen.setdefault((y * size[0] // high, x * size[1] // wide), y * wide + x)
    return sorted(seen.values())


@pytest.mark.parametrize(
    ("grid", "keep", "wanted"),
    [((24, 24), 0.25, (12, 12)), ((24, 24), 0.1, (8, 7)), ((10, 40), 0.25, (5, 20)), ((3, 3), 0.1, (1, 1)),
     ((1, 30), 0.5, (1, 15)), ((30, 1), 0.5, (15, 1)), ((27, 27), 0.99, (27, 26))],
)  # fmt: skip
def test_the_largest_grid_of_nearly_that_shape(grid: tuple[int, int], keep: float, wanted: tuple[int, int]) -> None:
    """Worked by hand: 58 of 576 tokens are 8 rows of 7."""
    assert smaller(*grid, keep) == wanted


def test_no_grid_is_over_the_budget() -> None:
    """Whatever its shape, it has a token at least, no side is longer, and a row more would not fit."""
    for high in range(1, 12):
        for wide in range(1, 30):
            for keep in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0):
                rows, columns = smaller(high, wide, keep)
                assert 1 <= rows <= high
                assert 1 <= columns <= wide
                most = budget(high * wide, keep)
                assert rows * columns <= most
                assert columns == wide or rows * (columns + 1) > most


@pytest.mark.parametrize("family", ROWS)
@torch.no_grad()
def test_it_is_a_smaller_picture(family: str) -> None:
    """Logits are those of transformers for resized pictures, whose tokens stand at the upper left of what they show."""
    model, processor = pair(family)
    plain = build(family)[0]
    batch = dict(inputs(processor, ["<image> What? <image> And?"], [[image(170, 112, seed=0), image(84, 84, seed=1)]]))
    with vtokens.attach(model, "downsample", keep=KEEP) as handle:
        got = model(**batch).logits
        sample = handle.report().samples[0]
    stay, rows, grids, at = list[int](), list[Tensor](), list[tuple[int, int, int]](), 0
    runs = (batch["input_ids"][0] == model.config.image_token_id).nonzero().flatten()
    for grid in batch["image_grid_thw"].tolist():
        size = smaller(grid[1] // MERGE, grid[2] // MERGE, KEEP)
        count = grid[1] * grid[2]
        part = batch["pixel_values"][sum(g[1] * g[2] for g in batch["image_grid_thw"].tolist()[: len(rows)]) :][:count]
        rows.append(small_rows(part, (1, grid[1], grid[2]), size))
        grids.append((1, size[0] * MERGE, size[1] * MERGE))
        stay += [int(runs[at + one]) for one in upper_left(grid[1] // MERGE, grid[2] // MERGE, size)]
        at += count // MERGE**2
    text = set(range(batch["input_ids"].shape[1])) - set(runs.tolist())
    columns = torch.tensor(sorted(text | set(stay)))
    assert sample.positions[0].tolist() == columns.tolist()
    positions = met(plain, batch)[..., columns]
    small = {name: value[:, columns] for name, value in batch.items() if value.shape == batch["input_ids"].shape}
    more = {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(grids), "position_ids": positions}
    close_pass(got[:, columns], plain(**small, **more).logits)


def met(model: Any, batch: dict[str, Any]) -> Tensor:
    """The rotary positions of a plain call, as its decoder is given them."""
    found: list[Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(kwargs["position_ids"]), with_kwargs=True
    )
    model(**batch)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("family", SQUARE)
@torch.no_grad()
def test_a_square_tower_has_its_positions_fitted(family: str, positions: str) -> None:
    """CLIP's are interpolated as transformers does it; compact ones number a smaller picture as transformers would."""
    model, processor = pair(family)
    plain = build(family)[0].model
    batch = inputs(processor, ["<image> What? <image> And?"], [[image(60, 60, seed=0), image(100, 60, seed=1)]])
    with vtokens.attach(model, "downsample", keep=KEEP, positions=positions) as handle:
        got = model(**batch).logits
        columns = torch.from_numpy(handle.report().samples[0].positions[0])
    pixels = torch.stack([shrink(picture, (2 * PATCH, 2 * PATCH)) for picture in batch["pixel_values"]])
    tower = plain.image_tower if family == "video_llava" else plain.vision_tower
    states = tower(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    layers = plain.config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else layers
    features = plain.multi_modal_projector(torch.cat([states[layer][:, 1:] for layer in layers], -1))
    ids = batch["input_ids"]
    inside = ids == model.config.image_token_id
    embeds, own = plain.language_model.embed_tokens(ids.masked_fill(inside, 0)), inside.nonzero()[:, 1].view(2, 16)
    first = own[:, torch.tensor(upper_left(4, 4, (2, 2)))].flatten()
    assert set(columns.tolist()) == set((~inside).nonzero()[:, 1].tolist()) | set(first.tolist())
    embeds[0, first] = features.flatten(0, 1)
    at = columns if positions == "original" else torch.arange(len(columns))
    states = plain.language_model(inputs_embeds=embeds[:, columns], position_ids=at[None]).last_hidden_state
    close_pass(got[:, columns], build(family)[0].lm_head(states))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v", "video_llava"])
@torch.no_grad()
def test_frames_of_a_video_are_resized_one_by_one(family: str) -> None:
    """Each frame keeps as many tokens as a picture of its size would, in its own place."""
    model = pair(family)[0]
    batch = media(family, [["Look: ", clip(3), " What?"]])
    with vtokens.attach(model, "downsample", keep=KEEP) as handle:
        model(**batch)
        (part,) = handle.report().samples[0].pictures
    frames, high, wide = part.picture.grids[0]
    size = smaller(high, wide, KEEP)
    wanted = [t * high * wide + one for t in range(frames) for one in upper_left(high, wide, size)]
    places = (part.picture.t * high + part.picture.y) * wide + part.picture.x
    assert places[part.kept[-1]].tolist() == wanted if family == "video_llava" else part.kept[-1].tolist() == wanted


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_scores_of_the_tower_are_those_of_the_smaller_picture(family: str) -> None:
    """Each token has the score of the one that shows it, in windows too; beside pruners it is what they look at."""
    model, processor = pair(family)
    batch = inputs(processor, ["What? <image>"], [[image(170, 112, seed=0)]])
    spy = Probe(wanted=(Saliency(),))
    with vtokens.attach(model, [parse("downsample(keep=0.3)")[0], spy]) as handle:
        model(**batch)
        kept = handle.report().samples[0].pictures[0].kept[-1]
        (scores,) = spy.log[Saliency()]
    assert len(scores) == len(kept)
    assert len(scores.unique()) > len(scores) // 2
    if "qwen" in family:
        _, h, w = batch["image_grid_thw"][0].tolist()
        size = smaller(h // 2, w // 2, KEEP)
        alone = Probe(wanted=(Saliency(),))
        grid = {"image_grid_thw": torch.tensor([[1, 2 * size[0], 2 * size[1]]])}
        pixels = small_rows(batch["pixel_values"], (1, h, w), size)
        ids = torch.tensor([[45, *[model.config.image_token_id] * (size[0] * size[1]), 46]])
        more = {"mm_token_type_ids": (ids == model.config.image_token_id).int()}
        with vtokens.attach(model, alone):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, **grid, **more)
        torch.testing.assert_close(scores, alone.log[Saliency()][0])


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen3_vl"])
@torch.no_grad()
def test_a_row_of_a_batch_is_what_it_is_alone(family: str) -> None:
    """Pictures of other sizes beside it, padding and beams change nothing; in bfloat16 the same tokens stay."""
    model, processor = pair(family)
    pictures = [[image(170, 112, seed=0)], [image(84, 84, seed=1), image(60, 130, seed=2)]]
    prompts = ["Is there a cat?", "<image> or, rather, <image>?"]
    both = inputs(processor, prompts, pictures)
    model(**both)  # transformers puts hooks of its own on a tower at its first pass
    before = snapshot(model)
    with vtokens.attach(model, "downsample", keep=KEEP) as handle:
        got = model(**both).logits
        kept = [[part.kept[-1].tolist() for part in sample.pictures] for sample in handle.report().samples]
        for row in range(2):
            one = inputs(processor, [prompts[row]], [pictures[row]])
            alone = model(**one).logits[0]
            assert [part.kept[-1].tolist() for part in handle.report().samples[0].pictures] == kept[row]
            close_pass(got[row, -1:], alone[-1:])
        greedy = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
        assert len(model.generate(**both, **greedy, num_beams=2)) == 2
        text = model.generate(**both, **greedy)
        assert torch.equal(text[:, -3], got[:, -1].argmax(-1))
    assert snapshot(model) == before
    half = build(family)[0].to(torch.bfloat16)
    with vtokens.attach(half, "downsample", keep=KEEP) as handle:
        half(**{name: v.bfloat16() if v.is_floating_point() else v for name, v in both.items()})
        again = [[part.kept[-1].tolist() for part in sample.pictures] for sample in handle.report().samples]
    assert again == kept


@torch.no_grad()
def test_all_of_it_is_the_picture_itself() -> None:
    """keep=1.0 changes no bit, and neither does a share that leaves the grid as it is."""
    for family in ("llava", "qwen3_vl"):
        model, processor = pair(family)
        batch = inputs(processor, ["What? <image>"], [[image(84, 84, seed=0)]])
        plain = model(**batch).logits
        for keep in (1.0, 0.99):
            with vtokens.attach(model, "downsample", keep=keep):
                assert torch.equal(model(**batch).logits, plain)


def test_what_no_smaller_picture_fits_is_refused() -> None:
    """A count, families whose features are joined as squares, two that change the tower's tokens, some rows alone."""
    with pytest.raises(ValueError, match=r"keep=4 counts tokens.*a share in \(0, 1\]"):
        parse("downsample(keep=4)")
    for family in ("gemma3", "idefics3", "internvl"):
        with pytest.raises(
            ValueError, match=r"shows the vision tower smaller pictures.*is shown whole ones.*'uniform'"
        ):
            vtokens.attach(pair(family)[0], "downsample")
    llava, before = pair("llava")[0], snapshot(pair("llava")[0])
    for other in ("pixelprune", "dymu(thresholds=(0.5,))"):
        with pytest.raises(ValueError, match="show it fewer, twice: keep one of them"):
            vtokens.attach(llava, f"downsample+{other}")
    with pytest.raises(ValueError, match="done for some rows of a batch only"), vtokens.attach(llava, "none") as handle:
        handle.using(["downsample", "none"]).__enter__()
    with pytest.raises(ValueError, match="positions='original' is allowed"):
        vtokens.attach(pair("qwen2_vl")[0], "downsample(positions=compact)")
    assert snapshot(llava) == before


@torch.no_grad()
def test_what_is_pooled_or_blended_behind_the_tower_is_refused_when_it_comes() -> None:
    """Videos of the families that pool frames, and a call whose tuple could not say what is a copy."""
    for family, words in (("llava_onevision", "blends"), ("llava_next_video", "pooled as squares")):
        model = pair(family)[0]
        with vtokens.attach(model, "downsample"), pytest.raises(ValueError, match=words):
            model(**media(family, [[clip(2), " What?"]]))
    model, processor = pair("qwen3_vl")
    batch = inputs(processor, ["What?"], [[image(84, 84, seed=0)]])
    with vtokens.attach(model, "downsample"), pytest.raises(ValueError, match="return_dict=False is not allowed"):
        model.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=False)


def test_its_settings_are_its_fields() -> None:
    """Frozen, with defaults that the card shows."""
    strategy = parse("downsample")[0]
    assert dataclasses.asdict(strategy) == {"keep": 0.25, "positions": "original"}
    assert vtokens.describe("downsample").stages == ("pixels", "prompt")
