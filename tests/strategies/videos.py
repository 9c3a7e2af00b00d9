"""Videos for the tests of temporal strategies: as tensors alone, and as batches for genuine models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import model, share
from tests.engine.compare import GREEDY, both, check_tokens
from tests.limits import close, close_pass
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Facts, Needs, Saliency, Strategy, Visuals

Shape = tuple[int, int, int]
FAMILIES = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SHAPES: list[Shape] = [(5, 2, 3), (1, 3, 2), (3, 4, 2)]
"""Frames, rows and columns of tokens."""


def visuals(rows: Sequence[Sequence[tuple[str, Tensor]]], width: int = 8) -> Visuals:
    """Prompts of ("video" or "image", tokens (T, h, w, width)), a word in front of each, padded on the left."""
    pictures = {
        kind: [
            Picture.of([cast(Shape, tuple(x.shape[:3]))], [False], kind) for row in rows for k, x in row if k == kind
        ]
        for kind in ("image", "video")
    }
    states, kinds = [], []
    for row in rows:
        parts = [part for kind, x in row for part in (torch.zeros(1, width), x.reshape(-1, width))]
        states.append(torch.cat([torch.zeros(1, width), *parts]))
        kinds.append([0, *(k for kind, x in row for k in (0, *[1 + (kind == "video")] * x[..., 0].numel()))])
    most = max(map(len, kinds))
    hidden = torch.stack([torch.cat([torch.zeros(most - len(x), width), x]) for x in states])
    kind = torch.tensor([[-1] * (most - len(x)) + x for x in kinds])
    layout = Layout.build({"image": kind == 1, "video": kind == 2}, pictures, kind >= 0)
    return Visuals(hidden, layout, "image", cast(Any, None))


def kept(strategy: Strategy, rows: Sequence[Sequence[tuple[str, Tensor]]]) -> list[list[int]]:
    """For each picture, images first: the numbers of the tokens that stay; counts that are told must be true."""
    seen = visuals(rows)
    found = strategy.at_prompt(seen)
    if found is None:
        return [list(range(count)) for count in seen.counts]
    assert found.counts is None or list(found.counts) == (found.keep & seen.valid).sum(1).tolist()
    return [(keep & valid).nonzero().flatten().tolist() for keep, valid in zip(found.keep, seen.valid, strict=True)]


def video(shape: Shape, seed: int, still: float = 0.0, width: int = 8) -> Tensor:
    """float32 (T, h, w, width): tokens of a video, of which a share repeats the frame before."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, width, generator=generator) + torch.randn(width, generator=generator)
    for before, frame in pairwise(x.unbind(0)):
        frame[:] = torch.where(torch.rand(*shape[1:], 1, generator=generator) < still, before, frame)
    return x


def check_beside_images(
    strategy: Strategy,
    shapes: Sequence[tuple[Shape, bool]],
    expected: Callable[[Tensor], list[int]],
    seed: int,
    still: float = 0.0,
) -> None:
    """Of prompts of a video each, some beside an image, the image stays whole and of the video what is expected."""
    rows = [
        [("video", video(shape, seed + n, still)), *([("image", video((1, 2, 2), seed + 50 + n))] if also else [])]
        for n, (shape, also) in enumerate(shapes)
    ]
    found, images = kept(strategy, rows), sum(also for _, also in shapes)
    assert found[:images] == [[0, 1, 2, 3]] * images
    assert found[images:] == [expected(row[0][1]) for row in rows]


def batch(family: str, shapes: Sequence[Shape], seed: int = 0) -> dict[str, Any]:
    """A prompt with a video each, padded on the left; frames drift, so that neighbours are alike. OneVision's have one
    size, that of the first."""
    config, generator = model(family, "plain").config, torch.Generator().manual_seed(seed)
    text, rows, pixels = torch.arange(65, 75), [], []
    for t, h, w in [shapes[0]] * len(shapes) if family == "llava_onevision" else shapes:
        size = (3, 56, 56) if family == "llava_onevision" else (2 * h * 2 * w, 3 * 2 * 14 * 14)
        steps = torch.randn(t, *size, generator=generator) * torch.rand(t, *[1] * len(size), generator=generator)
        pixels.append(steps.cumsum(0))
        run = torch.full((4 * t + 1 if family == "llava_onevision" else t * h * w,), config.video_token_id)
        # Qwen3-VL writes the time between frames.
        runs = run.chunk(t if family == "qwen3_vl" else 1)
        rows.append(torch.cat([text[:3], *(part for one in runs for part in (text[4:5], one)), text[4:]]))
    most = max(map(len, rows))
    pad = model(family, "plain").generation_config.pad_token_id
    ids = torch.stack([torch.cat([torch.full((most - len(row),), pad), row]) for row in rows])
    mask = torch.stack([(torch.arange(most) >= most - len(row)).long() for row in rows])
    if family == "llava_onevision":
        return {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": torch.stack(pixels)}
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": 2 * (ids == config.video_token_id).int(),
        "pixel_values_videos": torch.cat([part.flatten(0, 1) for part in pixels]),
        "video_grid_thw": torch.tensor([(t, 2 * h, 2 * w) for t, h, w in shapes]),
    }


@torch.no_grad()
def check_pruned_equals_masked(family: str, spec: str) -> vtokens.Report:
    """The answers of a ragged batch of videos are those of a full-length model that masks what was dropped."""
    got, expected, report = both(family, batch(family, SHAPES), spec, **GREEDY)
    check_tokens(got, expected, GREEDY["max_new_tokens"])
    return report


@torch.no_grad()
def check_batch_equals_alone(family: str, spec: str) -> None:
    """Each video of a ragged batch keeps the tokens, and has the logits, that it has alone."""
    target = model(family, "pruned")

    def run(shapes: Sequence[Shape], cut: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> tuple[Tensor, Any]:
        with vtokens.attach(target, spec) as handle:
            logits = target(**cut(batch(family, shapes))).logits[:, -1]
            return logits, [sample.pictures[0].kept[-1].tolist() for sample in handle.report().samples]

    together, found = run(SHAPES)
    for row in range(len(SHAPES)):
        alone, own = run(SHAPES, lambda whole, row=row: one_row(family, whole, row))
        close_pass(together[row], alone[0])
        assert found[row] == own[0]


def one_row(family: str, whole: dict[str, Any], row: int) -> dict[str, Any]:
    """A row of a batch by itself, without its padding."""
    real = whole["attention_mask"][row].bool()
    found = {
        k: v[row : row + 1, real] for k, v in whole.items() if k in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    if family == "llava_onevision":
        return {**found, "pixel_values_videos": whole["pixel_values_videos"][row : row + 1]}
    sizes = whole["video_grid_thw"].prod(1).tolist()
    return {
        **found,
        "pixel_values_videos": whole["pixel_values_videos"].split(sizes)[row],
        "video_grid_thw": whole["video_grid_thw"][row : row + 1],
    }


@dataclass(frozen=True)
class Seen(Strategy):
    """Keeps everything, and notes the tokens of each picture and what the tower attends to."""

    name: ClassVar[str] = "seen"
    log: dict[str, Any] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def at_prompt(self, visuals: Visuals) -> None:
        parts = zip(visuals.tokens, visuals.saliency(), visuals.valid, strict=True)
        self.log["seen"] = [(tokens[real], scores[real]) for tokens, scores, real in parts]


@torch.no_grad()
def seen(family: str, given: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """For each picture of a batch: its tokens (n, D) as they enter the decoder, and their saliency (n,)."""
    spy = Seen()
    with vtokens.attach(model(family, "pruned"), spy):
        model(family, "pruned")(**given)
    return cast(list[tuple[Tensor, Tensor]], spy.log["seen"])


@torch.no_grad()
def entered(family: str, given: dict[str, Any], spec: str | Strategy) -> list[tuple[list[int], Tensor]]:
    """For the picture of each row: the tokens that a strategy keeps, and their states (n, D) that enter layer 0."""
    target, caught = model(family, "pruned"), []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])

    hook = target.model.language_model.layers[0].register_forward_pre_hook(look, with_kwargs=True)
    with vtokens.attach(target, spec) as handle:
        target(**given)
        report = handle.report()
    hook.remove()
    found = []
    for row, sample in enumerate(report.samples):
        (part,) = sample.pictures
        fed = (given["input_ids"][row] == target.config.video_token_id).nonzero().flatten()
        where = {int(place): number for number, place in enumerate(fed)}  # newlines are counted too
        lead = caught[0].shape[1] - len(sample.positions[0])
        columns = [lead + n for n, at in enumerate(sample.positions[0]) if where.get(int(at)) in part.kept[0].tolist()]
        found.append((part.kept[0].tolist(), caught[0][row, columns]))
    return found


def moved(family: str, spec: str) -> list[tuple[int, int, float]]:
    """For each video of a batch: its tokens, how many stay, and the most by which what enters layer 0 is changed."""
    whole = batch(family, SHAPES)
    pairs = zip(seen(family, whole), entered(family, whole, spec), strict=True)
    return [
        (len(tokens), len(found), float((states - tokens[found]).abs().max())) for (tokens, _), (found, states) in pairs
    ]


Reference = Callable[[Tensor, Tensor, Any], tuple[list[int], Tensor]]
"""What stays of a video's tokens (T, P, D), given saliency (T, P) and a strategy, and the states that go on."""


def check_merged(family: str, shapes: Sequence[Shape], strategy: Strategy, expected: Reference, seed: int = 0) -> None:
    """What stays of each video of a batch, and the states that enter the decoder for it, are as a reference says."""
    whole = batch(family, shapes, seed)
    for (tokens, salience), shape, (found, states) in zip(
        seen(family, whole), shapes, entered(family, whole, strategy), strict=True
    ):
        places = (shape[0], shape[1] * shape[2])
        stays, merged = expected(tokens.view(*places, -1), salience.view(places), strategy)
        assert found == stays
        close(states, merged, terms=math.prod(shape), size=tokens)


def by_hand(strategies: st.SearchStrategy[Any], expected: Reference, frames: int = 7) -> Callable[[], None]:
    """A test: of one or two drawn videos of so many frames at most, what `check_merged` says, for drawn settings."""
    sizes = st.tuples(st.integers(1, frames), st.integers(1, 3), st.integers(1, 3))

    @pytest.mark.fuzz
    @settings(max_examples=share(2))
    @given(st.lists(sizes, min_size=1, max_size=2), strategies, st.integers(0, 99))
    def test(shapes: list[Shape], strategy: Strategy, seed: int) -> None:
        check_merged("qwen2_vl", shapes, strategy, expected, seed)

    return test
