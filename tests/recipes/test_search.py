"""Frame search on files, with genuine scorers of tiny models, and prompts with the times of frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import vtokens
from tests.families import build, image
from tests.families.processors import tokenizer
from tests.limits import close
from tests.video import files
from vtokens import scenes, video
from vtokens.core.prompts import chat_text, encode_prompts, question_prompt
from vtokens.recipes import AnswerScorer, ClipScorer, search_frames, timed_parts

NEEDLE = 130


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty seconds of ten frames each, which show their numbers."""
    return files.write(tmp_path_factory.mktemp("search") / "clip.mp4", files.drawn(200))


def like(frames: Sequence[Image.Image], query: str) -> list[float]:
    """How near to a number in the query the numbers are that frames show."""
    return [1 / (1 + abs(n - int(query)) / 10) for n in files.numbers(np.stack([np.asarray(f) for f in frames]))]


@files.needs_av
@pytest.mark.parametrize("method", ["aks", "bolt", "date", "tstar"])
def test_the_needle_is_among_the_frames(clip: str, method: str) -> None:
    """Candidates at two a second; only chosen ones are in the clip, with their own numbers and times."""
    found = search_frames(clip, str(NEEDLE), like, 4, method, fps=2.0)
    assert NEEDLE in found.clip.indices
    assert files.numbers(found.clip.frames) == list(found.clip.indices) == sorted(set(found.clip.indices))
    assert len(found.clip.indices) == 4
    assert found.clip.seconds == tuple(at / 10 for at in found.clip.indices)
    assert len(found.scores) == len(found.seconds) == 40
    if method != "tstar":
        expected = [1 / (1 + abs(5 * at - NEEDLE) / 10) for at in range(40)]
        np.testing.assert_allclose(found.scores, expected)


@files.needs_av
def test_a_part_and_what_has_no_more_frames(clip: str) -> None:
    part = search_frames(clip, "80", like, 3, start=5.0, end=10.0, fps=1.0)
    assert all(5 <= second <= 10 for second in part.clip.seconds)
    assert len(part.seconds) == 6
    whole = search_frames(clip, "80", like, 50, fps=1.0)
    assert len(whole.clip.indices) == 20
    assert len(search_frames(clip, "80", like, 8).seconds) == 32  # four times as many as are chosen
    assert not len(whole.scores)


@files.needs_av
def test_what_cannot_be_searched_is_refused(clip: str) -> None:
    for asked, says in (
        ({"method": "aqs"}, "unknown method 'aqs'. Did you mean 'aks'?"),
        ({"treshold": 0.5}, "unknown setting of 'aks' 'treshold'. Did you mean 'threshold'?"),
        ({"method": "bolt", "power": -1, "scorer": lambda frames, query: []}, "power=-1 is out of range"),
        ({"cues": ["a"]}, "lead the search of 'tstar'"),
        ({"count": 0}, "frames=0 is not allowed"),
        ({"start": 99.0}, "lies behind the end of the video"),
        ({"scorer": lambda frames, query: [float("nan")] * len(frames)}, "not finite"),
        ({"scorer": lambda frames, query: [1.0]}, "one finite number for each frame"),
        ({"method": "tstar", "scorer": lambda frames, query: [7.0] * len(frames)}, "confidences from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            search_frames(clip, "3", **{"scorer": like, "count": 4, **asked})  # type: ignore[arg-type]


@files.needs_av
def test_frames_by_their_numbers(clip: str) -> None:
    assert files.numbers(video.read(clip, indices=[3, 50, 199]).frames) == [3, 50, 199]
    line = video.timeline(clip)
    assert len(line.times) == 200
    for indices, says in (([], "one or more"), ([4, 4], "rising"), ([200], "there is no frame 200")):
        with pytest.raises(ValueError, match=says):
            video.read(clip, indices=indices)
    with pytest.raises(ValueError, match="indices and fps=2"):
        video.read(clip, fps=2, indices=[1])
    with pytest.raises(ValueError, match="numbers of frames of a file"):
        video.read(np.zeros((3, 4, 4, 3), np.uint8), indices=[1])


@torch.no_grad()
def test_a_clip_scores_by_cosines() -> None:
    """In parts as at once; a query that it cannot read whole is refused."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = tokenizer("llava")
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": words.eos_token_id}
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 28, "patch_size": 14})
    side = {"height": 28, "width": 28}
    processor = CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side), words)
    model, frames = CLIPModel(config).eval(), [image(60, 40, seed=n) for n in range(5)]
    out = model(**processor(text=["a red fox"], images=frames, return_tensors="pt"))
    got = ClipScorer(model, processor, batch=2)(frames, "a red fox")
    close(torch.tensor(got), (out.logits_per_image / model.logit_scale.exp())[:, 0], terms=64, size=1.0)
    with pytest.raises(ValueError, match=r"has \d+ tokens, and the scorer reads 16"):
        ClipScorer(model, processor)(frames, "a red fox in the forest, far from here")


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_model_scores_by_its_answers(family: str) -> None:
    """P(yes) against P(no) of each frame alone."""
    model, processor = build(family)
    frames = [image(60, 40, seed=n) for n in range(3)]
    scorer = AnswerScorer(model, processor, batch=2, least=0)
    got = scorer(frames, "is there a fox?")
    prompt = question_prompt(processor, scorer.ask.replace("{query}", "is there a fox?"))
    yes, no = scorer._first("yes"), scorer._first("no")
    assert not yes & no
    for frame, score in zip(frames, got, strict=True):
        chance = model(**encode_prompts(processor, [prompt], [[frame]])).logits[0, -1].softmax(0)
        one, other = (float(chance[sorted(ids)].sum()) for ids in (yes, no))
        assert score == pytest.approx(one / (one + other), rel=1e-3)
    assert len(set(got)) == 3


@torch.no_grad()
def test_a_model_that_answers_neither_word_is_refused() -> None:
    """The embedded model says yes or no to what is there, and a number when it is asked for one."""
    model, processor = vtokens.load("scenes-llava")
    frames = [example.image for example in scenes.examples("test", n=3, kinds=["exist"])]
    assert len(AnswerScorer(model, processor)(frames, "is there a red triangle?")) == 3
    query = "how many objects are there?"
    scorer = AnswerScorer(model, processor, "{query}")
    prompt = question_prompt(processor, query)
    chance = model(**encode_prompts(processor, [prompt] * 3, [[one] for one in frames])).logits[:, -1].softmax(-1)
    share = float(chance[:, sorted(scorer._first("yes") | scorer._first("no"))].sum(1).max())
    says = f"neither yes nor no: P(yes) + P(no) is {share:.2g} at most on 3 frame(s), and least=0.1 is needed"
    with pytest.raises(ValueError, match=re.escape(says)):
        scorer(frames, query)
    assert len(replace(scorer, least=0.0)(frames, query)) == 3
    with pytest.raises(ValueError, match=re.escape("ask='Is it good?' leaves the query out")):
        AnswerScorer(model, processor, "Is it good?")
    with pytest.raises(ValueError, match="least=-1 is out of range"):
        AnswerScorer(model, processor, least=-1)


@torch.no_grad()
@pytest.mark.parametrize("contrast", ["vcd", "pai"])
def test_answers_are_scored_without_what_changes_logits(contrast: str) -> None:
    """A pruner beside it goes on acting, be they attached or run in a block."""
    model, processor = build("llava")
    scorer, frames = AnswerScorer(model, processor, least=0), [image(60, 40, seed=n) for n in range(3)]
    plain = scorer(frames, "is there a fox?")
    with vtokens.attach(model, contrast):
        assert scorer(frames, "is there a fox?") == plain
    with vtokens.attach(model, "cls(keep=2)") as handle:
        pruned = scorer(frames, "is there a fox?")
        assert handle.report().samples[0].average_tokens == 2
    assert pruned != plain
    with vtokens.attach(model, f"cls(keep=2)+{contrast}"):
        assert scorer(frames, "is there a fox?") == pruned
    with vtokens.attach(model, None) as handle, handle.using(f"cls(keep=2)+{contrast}"):
        assert scorer(frames, "is there a fox?") == pruned


@files.needs_av
def test_times_stand_before_frames(clip: str) -> None:
    """As text and picture by turns, in the order of `clip.images()`."""
    shown = video.read(clip, indices=[0, 125])
    parts = timed_parts(shown)
    assert [part.get("text", "") for part in parts] == ["0.0 s", "", "12.5 s", ""]
    _, processor = build("llava")
    text = chat_text(processor, [{"role": "user", "content": [*parts, {"type": "text", "text": "when?"}]}])
    assert text.index("0.0 s") < text.index("12.5 s") < text.index("when?")
    given = encode_prompts(processor, [text], [shown.images()])
    assert len(given["pixel_values"]) == 2
    with pytest.raises(ValueError, match="timestamps need a clip that was read of a file"):
        timed_parts(video.read(np.zeros((3, 4, 4, 3), np.uint8)))
