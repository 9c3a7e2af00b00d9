"""The filter on videos: traces of a batch are those of its rows, reading is writing, views are plain passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

import vtokens
from tests.engine.masked import masking
from tests.engine.media import APART, FRAMES, PADDED, PATCHED, Part, clip, media
from tests.families import build, image
from tests.filter.test_families import Words
from tests.filter.test_passes import SAID, said
from tests.filter.traced import DEPTH, EVERYTHING, distances, fixed, mention
from tests.limits import close_pass
from vtokens import HallucinationFilter, video
from vtokens.adapters import adapter_for
from vtokens.filter.heatmap import heat, heatmap
from vtokens.filter.trace.passes import generate, score
from vtokens.filter.trace.trace import Parts
from vtokens.loading.media import Medium

QUESTIONS = ("Is there a red square?", "How many are there, please?", "What?")


class SeesVideos:
    """A processor put together from a family's tokenizer and image processor, which every frame goes through.

    transformers' own prepare videos with torchvision alone.
    """

    def __init__(self, family: str) -> None:
        self.family, genuine = family, build(family)[1]
        self.tokenizer, self.image_token = genuine.tokenizer, genuine.image_token
        self.image_processor = self.video_processor = genuine.image_processor
        self.video_token = genuine.tokenizer.video_token

    def __call__(self, text: list[str], images: Any = (), videos: Any = (), **options: Any) -> BatchFeature:
        """A batch of tensors, padded on the left."""
        assert options["padding_side"] == "left"
        stills, clips = iter([one for group in images for one in group]), iter(videos)
        rows: list[list[Part]] = []
        for row in text:
            parts: list[Part] = []
            for piece in row.replace(self.image_token, "\0i\0").replace(self.video_token, "\0v\0").split("\0"):
                if piece == "v":
                    parts.append([Image.fromarray(frame) for frame in next(clips)])
                else:
                    parts.append(next(stills) if piece == "i" else piece)
            rows.append(parts)
        return BatchFeature(media(self.family, rows))


def shown(family: str) -> list[list[Medium]]:
    """A video before an image, an image, a video; a call of a GLM takes one kind alone."""
    first, second = (video.read(np.stack([np.asarray(one) for one in clip(2, seed=seed)])) for seed in (1, 5))
    still: list[Medium] = [image(84, 84, seed=3)]
    return [[first], [second, first], [second]] if family in APART else [[first, *still], still, [second]]


@pytest.mark.parametrize("family", FRAMES)
@torch.no_grad()
def test_a_batch_is_read_as_its_rows_and_written_as_read(family: str) -> None:
    model, processor, groups = build(family)[0], SeesVideos(family), shown(family)
    written = generate(model, processor, groups, QUESTIONS, EVERYTHING, **fixed(processor))
    ids = [trace.ids.tolist() for trace in written]
    for row, (one, other) in enumerate(
        zip(written, score(model, processor, groups, QUESTIONS, ids, EVERYTHING), strict=True)
    ):
        assert max(distances(one, other).values()) < 2e-4
        [alone] = score(model, processor, [groups[row]], [QUESTIONS[row]], [ids[row]], EVERYTHING)
        assert max(distances(other, alone).values()) < 2e-4
        assert sorted({*one.picture.tolist()}) == list(range(len(groups[row]))) == list(range(len(one.pictures)))


def followed(batch: dict[str, Tensor], ids: list[int]) -> dict[str, Tensor]:
    """The inputs of one sample, its response behind."""
    more = torch.tensor([ids])
    batch = {**batch, "input_ids": torch.cat([batch["input_ids"], more], 1)}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if "mm_token_type_ids" in batch:
        batch["mm_token_type_ids"] = torch.nn.functional.pad(batch["mm_token_type_ids"], (0, len(ids)))
    return batch


@pytest.mark.parametrize("family", FRAMES)
@pytest.mark.parametrize("spec", ["none", "fastv(keep=0.4, layer=2)"])
@torch.no_grad()
def test_views_are_plain_passes(family: str, spec: str) -> None:
    """The whole, grey frames, the text alone, and the video's tokens that were dropped, or the ones looked at least."""
    model, processor, groups = build(family)[0], SeesVideos(family), shown(family)
    with vtokens.attach(model, spec):
        traces = score(model, processor, groups, QUESTIONS, SAID, EVERYTHING)
    for row, trace in enumerate(traces):
        ids = SAID[row]
        text = "\n".join([*(_mark(processor, one) for one in groups[row]), QUESTIONS[row]])
        stills = [one for one in groups[row] if isinstance(one, Image.Image)]
        clips = [one.frames for one in groups[row] if isinstance(one, video.Clip)]
        batch = dict(processor([text], [stills], clips, padding_side="left"))
        full = followed(batch, ids)
        if spec == "none":
            close_pass(trace.logprob, said(model, full, ids))
            mean = 0.5 if family in PADDED else 0.0  # the one colour that its tower takes for nothing
            grey = {name: torch.full_like(v, mean) if "pixel" in name else v for name, v in full.items()}
            close_pass(trace.contrasts["blank"], said(model, grey, ids))
        there = torch.stack([*adapter_for(model).placeholders(full).values()]).any(0)
        words = full["input_ids"][~there][None]
        alone = {"input_ids": words, "attention_mask": torch.ones_like(words)}
        close_pass(trace.contrasts["no_image"], said(model, alone, ids), passes=2)
        matters = ~trace.kept if spec == "none" else trace.kept
        if spec == "none":
            matters[trace.gaze.sum(0).topk(max(1, len(matters) // 4)).indices] = True
        assert 0 < matters.sum() < len(matters)
        places = there[0].nonzero()[:, 0]
        real = torch.cat([torch.from_numpy(picture.view >= 0) for picture in _in_sequence(trace, groups[row])])
        dropped = torch.zeros_like(there)
        dropped[0, places[real][matters]] = True
        with masking(model, [dropped] * DEPTH):
            close_pass(trace.contrasts["dropped"], said(model, full, ids), passes=2)


def _mark(processor: SeesVideos, one: Medium) -> str:
    return processor.video_token if isinstance(one, video.Clip) else processor.image_token


def _in_sequence(trace: Any, group: list[Medium]) -> list[Any]:
    """The pictures of a trace, which has images before videos, in the order of the prompt."""
    order = sorted(range(len(group)), key=lambda number: isinstance(group[number], video.Clip))
    return [trace.pictures[order.index(number)] for number in range(len(group))]


def test_a_check_of_a_video_and_its_heat_map() -> None:
    """Signals of a video in a batch with an image; the frame that is drawn is the one that was looked at."""
    family = PATCHED[0]
    model, processor, groups = build(family)[0], SeesVideos(family), shown(family)
    found = HallucinationFilter(model, processor, "full", Words())
    reports = found.check(groups, list(QUESTIONS), ["red square", "two", "a dog"])
    for row, report in enumerate(reports):
        alone = found.check(groups[row], QUESTIONS[row], report.response)
        for one, other in zip(report.mentions, alone.mentions, strict=True):
            assert one.signals == pytest.approx(other.signals, abs=1e-3, rel=1e-3)
    trace, number = reports[0].trace, 1  # the video stands first in the prompt, and second in the trace
    assert trace.pictures[number].modality == "video"
    inside = np.flatnonzero((trace.picture == number).numpy())
    trace.gaze = torch.zeros_like(trace.gaze)
    trace.gaze[0, inside[-1]] = 1.0
    grid = heat(trace, mention((0,)), number, relative=False)[0]
    assert grid[-1, -1, -1] == 1
    drawn = np.asarray(heatmap(trace, mention((0,)), groups[0], relative=False, scale=1), dtype=float)
    last = groups[0][0].frames[-1].astype(float)  # type: ignore[union-attr]
    cold = drawn[: last.shape[0] // 2, -last.shape[1] :][:, : last.shape[1] // 2]
    expected = last.mean(-1, keepdims=True)[: len(cold), : cold.shape[1]]
    dark = np.array([28, 28, 40])
    plain = (expected * 0.6 + last[: len(cold), : cold.shape[1]] * 0.4) * 0.85
    np.testing.assert_allclose(cold, plain + dark * 0.15, atol=1)
    assert reports[0].heatmap(0).size[0] > 0


def test_frames_are_pictures_where_a_model_sees_no_videos() -> None:
    """The same as the frames by themselves; a video in a batch with pictures is none of the others' business."""
    model, processor = build("llava")
    read, still = video.read(np.stack([np.asarray(one) for one in clip(3, seed=1)])), image(60, 60, seed=2)
    parts = Parts(layers=frozenset({1}))
    both = score(model, processor, [[read, still], [still]], ["What?", "Where?"], SAID[:2], parts)
    plain = score(model, processor, [[*read.images(), still], [still]], ["What?", "Where?"], SAID[:2], parts)
    for one, other in zip(both, plain, strict=True):
        assert max(distances(one, other).values()) == 0
    assert len(both[0].pictures) == 4
    sheet = heatmap(both[0], mention((1,)), [read, still], scale=1)
    assert sheet.size == heatmap(plain[0], mention((1,)), [*read.images(), still], scale=1).size


def test_a_processor_that_prepares_no_videos_is_named() -> None:
    """Frames as pictures would be another prompt."""
    model, processor = build("qwen2_vl")
    read = video.read(np.stack([np.asarray(one) for one in clip(2, seed=1)]))
    with pytest.raises(ImportError, match="Qwen2VLProcessor prepares videos with torchvision"):
        HallucinationFilter(model, processor).check(read, "What?", "red")
    with pytest.raises(ValueError, match=r"holds 1 '<\|video_pad\|>' for 0 video"):
        HallucinationFilter(model, processor).check(image(60, 60, seed=0), "<|image_pad|><|video_pad|> What?", "red")
