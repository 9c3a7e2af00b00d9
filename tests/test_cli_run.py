"""`vtokens run` on several pictures, videos, the standard input and further questions."""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import build, image
from tests.video import files
from vtokens import scenes, video
from vtokens.cli import main, run
from vtokens.cli.inputs import FRAMES, METHODS, opened
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.recipes import AnswerScorer, crop, search, search_frames
from vtokens.recipes.shrunk import grid, quotas

EXACT: dict[str, Any] = {"pix_fmt": "yuv444p", "options": {"crf": "1"}}
QUESTION = "how many objects are there?"
PICTURES = ("--model", "scenes-llava")  # which is shown frames as pictures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two scenes, as files."""
    folder = tmp_path_factory.mktemp("run")
    for number, example in enumerate(scenes.examples("test", n=2, kinds=["exist"])):
        example.image.save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(2)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second of a scene, and another second of another."""
    pictures = [np.asarray(example.image) for example in scenes.examples("test", n=2, kinds=["exist"])]
    path = tmp_path_factory.mktemp("run") / "clip.mp4"
    return files.write(path, [pictures[at // 10] for at in range(20)], pix_fmt="yuv444p", options={"crf": "1"})


def said(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[str, str]:
    main(["run", *line])
    return tuple(capsys.readouterr())


def failure(capsys: pytest.CaptureFixture[str], *line: str, command: str = "run") -> str:
    with pytest.raises(SystemExit) as stop:
        main([command, *line])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1
    return err


def given(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def asked(images: list[object], question: str) -> str:
    """What the embedded model answers, asked without the command."""
    model, processor = vtokens.load("scenes-llava")
    inputs = encode_prompts(processor, [question_prompt(processor, question, len(images))], [images])
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()


def test_several_pictures_in_their_order(capsys: pytest.CaptureFixture[str], drawn: list[str]) -> None:
    out, _ = said(capsys, *drawn, QUESTION, "--json", "--strategy", "cls", "--keep", "0.5")
    told = json.loads(out)
    assert [one["name"] for one in told["inputs"]] == drawn
    assert (told["visual_tokens"], told["visual_tokens_per_layer"]) == (288, 144.0)
    assert told["strategy"] == "cls(keep=0.5)"
    out, err = said(capsys, *drawn, QUESTION)
    assert out.strip() == asked([Image.open(one) for one in drawn], QUESTION)
    assert "288.0 of 288 visual tokens" in err
    assert "--overlay shows one picture, and 2 are given" in failure(capsys, *drawn, "what?", "--overlay", "a.png")
    assert "gone.png" in failure(capsys, drawn[0], "gone.png", "what?")


def test_pictures_take_no_frames(capsys: pytest.CaptureFixture[str], drawn: list[str]) -> None:
    assert "--frames: there is no video to take frames from" in failure(capsys, drawn[0], "what?", "--frames", "2")
    assert "--start and --end: there is no" in failure(capsys, drawn[0], "what?", "--start", "1", "--end", "2")
    assert "not allowed with argument" in failure(capsys, drawn[0], "what?", "--frames", "2", "--fps", "1")
    assert "argument --frames: '0' is not allowed" in failure(capsys, drawn[0], "what?", "--frames", "0")


@files.needs_av
def test_frames_of_a_video(capsys: pytest.CaptureFixture[str], clip: str, drawn: list[str]) -> None:
    """A model of pictures is shown them as pictures, with those that stand beside it in the written order."""
    out, err = said(capsys, clip, QUESTION, "--frames", "3", *PICTURES)
    frames = video.read(clip, frames=3).images()
    assert out.strip() == asked(frames, QUESTION)
    assert "3 frames of 2.00 s, from 0.00 to 1.90 s, by " in err
    told = json.loads(said(capsys, drawn[0], clip, QUESTION, "--fps", "2", "--end", "1", "--json", *PICTURES)[0])
    assert [one["kind"] for one in told["inputs"]] == ["image", "video"]
    assert (told["inputs"][1]["frames"], told["inputs"][1]["seconds"]) == ([0, 5, 10], [0.0, 0.5, 1.0])
    assert told["visual_tokens"] == 4 * 144
    says = failure(capsys, clip, QUESTION, *PICTURES)
    assert "the model's context holds 1,024" in says
    assert f"or take fewer than {FRAMES} frames (--frames)" in says
    assert "--overlay shows one picture, and a video" in failure(capsys, clip, "what?", "--overlay", "a.png", *PICTURES)
    assert "start=9.0 lies behind the end" in failure(capsys, clip, "what?", "--frames", "1", "--start", "9")


@files.needs_av
def test_a_video_is_asked_about_where_videos_are_seen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By the embedded model that sees them, its temporal and its spatial pruner sharing what is kept."""
    example = scenes.clips.examples("test", n=6, frames=16)[0]
    frames = [np.asarray(frame) for frame in example.video.frames]
    path = files.write(tmp_path / "clip.mp4", frames, rate=2, pix_fmt="yuv444p", options={"crf": "1"})
    told = json.loads(said(capsys, path, example.question, "--frames", "16", "--json")[0])
    assert (told["model"], told["inputs"][0]["kind"], told["visual_tokens"]) == ("scenes-qwen", "video", 8 * 64)
    line = ("--frames", "16", "--json", "--strategy", "evs+todre", "--keep", "0.25")
    told = json.loads(said(capsys, path, example.question, *line)[0])
    assert told["strategy"].startswith("evs(keep=0.5")
    assert told["visual_tokens_per_layer"] == pytest.approx(8 * 64 / 4, abs=2)


@files.needs_av
@pytest.mark.parametrize("method", ["aks", "tstar"])
def test_a_recipe_searches_for_frames(capsys: pytest.CaptureFixture[str], clip: str, method: str) -> None:
    """By the model's own answers to each frame; the frames are those that the recipe gives in Python."""
    seen = "is there a red triangle?"
    model, processor = vtokens.load("scenes-llava")
    found = search_frames(clip, seen, AnswerScorer(model, processor), 2, method)
    told = json.loads(said(capsys, clip, seen, "--frames", "2", "--recipe", method, "--json", *PICTURES)[0])
    assert told["recipe"] == method
    assert told["inputs"][0]["frames"] == list(found.clip.indices)
    assert told["answer"] == asked(found.clip.images(), seen)


@files.needs_av
def test_a_recipe_searches_for_the_first_question(
    capsys: pytest.CaptureFixture[str], clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat goes on about the frames that were found, and says so; without a chat there is nothing to say."""
    found = ("--frames", "2", "--recipe", "aks", "--max-new-tokens", "1", "--json")
    line = (clip, "is there a red triangle?", *found, *PICTURES)
    says = "--recipe searched for the frames that the first question needs: those that follow are shown no others"
    assert says not in said(capsys, *line)[1]
    given(monkeypatch, b"is there a blue circle?\n")
    out, err = said(capsys, *line, "--chat")
    first, second = (json.loads(answer)["inputs"][0]["frames"] for answer in out.splitlines())
    assert first == second
    assert err.count(says) == 1


@files.needs_av
def test_a_recipe_takes_its_frames_by_itself(clip: str) -> None:
    """Before the search one frame stands for the video, however many are wanted."""
    parser = argparse.ArgumentParser()
    run.add_to(parser.add_subparsers())
    for more, count in (([], 12), (["--recipe", "aks"], 1)):
        options = parser.parse_args(["run", clip, "what?", "--frames", "12", *more])
        [shown] = opened(options, options.image)
        assert shown.clip is not None
        assert len(shown.clip.frames) == count


@files.needs_av
@pytest.mark.parametrize("more", [(), ("--strategy", "uniform", "--keep", "0.5")])
def test_a_quota_for_each_frame(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, drawn: list[str], more: tuple[str, ...]
) -> None:
    """The tokens of the recipe in Python, each video by its own frames; other strategies prune what it leaves."""
    model, processor = vtokens.load("scenes-qwen", strategy="none")
    ask, keep, chances, names = "Is there a red triangle in the image?", 0.25, [], []
    for example in scenes.clips.examples("test", 2, kinds=["way"], frames=8):
        names.append(files.write(tmp_path / f"{len(names)}.mp4", [*example.video.frames], **EXACT))
        frames = video.read(names[-1], 8).images()
        scores = [round(one, 4) for one in AnswerScorer(model, processor, "{query}")(frames, ask)]
        chances.append([max(scores[at : at + 2]) for at in range(0, 8, 2)])
    line = ("--frames", "8", "--quota", str(keep), "--seek", ask, "--json", "--max-new-tokens", "1", *more)
    told = json.loads(said(capsys, *names, "Is there a red triangle in the video?", *line)[0])
    assert told["quota"] == keep
    assert told["strategy"].startswith("quota(")
    # A video of 256 tokens may keep 64, shared out by squares of the chances, as whole grids of at most 64.
    sizes = [quotas(one, 64, 64) for one in chances]
    left = [sum(math.prod(grid(size, 8, 8)) for size in one) for one in sizes]
    assert told["visual_tokens"] == 512
    if not more:
        assert told["visual_tokens_per_layer"] == sum(left)
        says = failure(capsys, drawn[0], names[0], "what?", "--quota", "0.5", "--model", "scenes-llava")
        assert "'quota' drops tokens of videos alone" in says
    else:
        assert told["visual_tokens_per_layer"] < sum(left)


@files.needs_av
def test_fewer_frames_than_asked_for(capsys: pytest.CaptureFixture[str], clip: str) -> None:
    err = said(capsys, clip, QUESTION, "--frames", "500", "--max-new-tokens", "1")[1]
    assert "--frames 500 is more than there are, so all are taken: 20" in err
    assert "more than there are" not in said(capsys, clip, QUESTION, "--frames", "20", "--max-new-tokens", "1")[1]


@files.needs_av
def test_timestamps_stand_before_frames(capsys: pytest.CaptureFixture[str], clip: str) -> None:
    plain, timed = (
        json.loads(said(capsys, clip, QUESTION, "--frames", "2", "--json", *more, *PICTURES)[0])
        for more in ([], ["--timestamps"])
    )
    assert timed["prompt_tokens"] > plain["prompt_tokens"]
    assert timed["visual_tokens"] == plain["visual_tokens"]


@files.needs_av
def test_timestamps_leave_temporal_strategies_nothing(
    capsys: pytest.CaptureFixture[str], clip: str, tmp_path: Path
) -> None:
    """On a model that takes videos: its frames would be images to it."""
    model, processor = build("qwen2_5_vl")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    capsys.readouterr()  # what saving says
    line = (clip, "what?", "--frames", "2", "--timestamps", "--model", str(tmp_path), "--strategy")
    for strategy, name in (("evs", "evs"), ("prunevid", "prunevid"), ("dycoke+fastv(keep=0.5)", "dycoke")):
        with pytest.raises(SystemExit):
            main(["run", *line, strategy])
        says = capsys.readouterr().err  # where torchvision is missing, behind a warning
        assert f"--timestamps shows a film as images, one for each frame, and '{name}' drops tokens of videos" in says
    assert said(capsys, *line, "uniform(keep=0.5)", "--max-new-tokens", "1")[1]


def test_what_a_recipe_cannot_do(capsys: pytest.CaptureFixture[str], drawn: list[str]) -> None:
    for line, says in (
        (["-", "what?", "--recipe", "aks"], "--recipe reads a video again and again, and - can be read once"),
        (["a.mp4", "what?", "--recipe", "aks", "--fps", "1"], "--fps and --recipe both say which frames are taken"),
        (["a.mp4", "what?", "--scorer", "x"], "--scorer is for --recipe"),
        (["a.mp4", "what?", "--seek", "x"], "--seek is for --recipe"),
        (["a.mp4", "what?", "--recipe", "quota(keep=0.5)"], "--recipe quota: as an option of its own, such as --quota"),
        ([drawn[0], "what?", "--quota", "0.5"], "--quota: there is no video"),
        ([drawn[0], "what?", "--recipe", "aks", "--timestamps"], "--recipe and --timestamps: there is no video"),
        ([drawn[0], "what?", "--recipe", "best"], "'best'"),
        ([drawn[0], "what?", "--recipe", "crpo"], "unknown recipe 'crpo'. Did you mean 'crop'? Allowed: aks, "),
        ([drawn[0], "what?", "--recipe", "crop(siz=3)"], "setting of the recipe 'crop': 'siz'. Did you mean 'size'?"),
        ([*drawn[:2], "what?", "--recipe", "crop"], "--recipe crop asks about one picture again, and 2 inputs are"),
        ([drawn[0], "what?", "--recipe", "crop", "--chat"], "--recipe crop and --chat: what is asked later"),
        ([drawn[0], "what?", "--recipe", "crop", "--overlay", "a.png"], "--recipe crop and --overlay: it shows"),
        ([drawn[0], "what?", "--recipe", "crop", "--scorer", "x"], "--scorer is for --recipe, where it searches"),
    ):
        assert says in failure(capsys, *line)


@pytest.mark.parametrize("more", [(), ("--strategy", "fastv", "--keep", "0.25")])
def test_a_recipe_asks_about_a_picture_again(
    capsys: pytest.CaptureFixture[str], drawn: list[str], more: tuple[str, ...]
) -> None:
    """As the function does in Python, whatever is attached; the report is that of the answer to both pictures."""
    line = (drawn[0], QUESTION, "--recipe", "crop(size=40)", *more, *PICTURES)
    told = json.loads(said(capsys, *line, "--json")[0])
    model, processor = vtokens.load("scenes-llava", strategy=more[1] if more else "none", keep=0.25 if more else None)
    found = crop(model, processor, Image.open(drawn[0]).convert("RGB"), QUESTION, size=40)
    assert told["answer"] == found.text
    assert told["boxes"] == [list(found.boxes[0])]
    assert (told["recipe"], told["passes"]) == ("crop(size=40)", 3)
    assert told["visual_tokens"] == 2 * 144
    assert (told["flops"] < told["flops_full"]) == bool(more)
    _, err = said(capsys, *line)
    assert f"crop(size=40): 3 passes, shown again: {found.boxes[0]}" in err


@files.needs_av
def test_a_recipe_that_asks_about_a_picture_takes_no_video(capsys: pytest.CaptureFixture[str], clip: str) -> None:
    assert "asks about a picture again, and" in failure(capsys, clip, "what?", "--recipe", "crop")


@files.needs_av
def test_an_animation_is_either(capsys: pytest.CaptureFixture[str], drawn: list[str], tmp_path: Path) -> None:
    first, second = (Image.open(one) for one in drawn)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    _, err = said(capsys, str(tmp_path / "a.gif"), QUESTION)
    assert "has several frames: only the first is looked at" in err
    assert f"moves: --frames {FRAMES} asks about it as about a video" in err
    told = json.loads(said(capsys, str(tmp_path / "a.gif"), QUESTION, "--frames", "2", "--json")[0])
    assert told["inputs"][0]["frames"] == [0, 1]


def test_the_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    """It holds a picture, or a question."""
    wanted = said(capsys, drawn[0], QUESTION)[0]
    given(monkeypatch, Path(drawn[0]).read_bytes())
    assert said(capsys, "-", QUESTION)[0] == wanted
    given(monkeypatch, QUESTION.encode() + b"\n")
    assert said(capsys, drawn[0], "-")[0] == wanted
    given(monkeypatch, b"")
    assert "the standard input is empty: a picture or a video is needed" in failure(capsys, "-", "what?")
    given(monkeypatch, b" \n")
    assert "the question is empty" in failure(capsys, drawn[0], "-")
    given(monkeypatch, Path(drawn[0]).read_bytes()[:500])
    assert "cannot read the image the standard input: " in failure(capsys, "-", "what?")
    for line in (["-", "-", "what?"], ["-", "-"], ["-", "what?", "--chat"]):
        assert "the standard input can be read once" in failure(capsys, *line)


@files.needs_av
def test_a_video_on_the_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clip: str
) -> None:
    given(monkeypatch, Path(clip).read_bytes())
    told = json.loads(said(capsys, "-", QUESTION, "--frames", "2", "--json")[0])
    assert told["inputs"][0]["frames"] == [0, 19]
    given(monkeypatch, b"nothing of that kind")
    assert "cannot read the video the standard input: " in failure(capsys, "-", "what?")


def test_questions_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, drawn: list[str]) -> None:
    """Each is asked behind the turns before it: the prompt is the whole conversation."""
    more = "is there a yellow circle in the image?"
    given(monkeypatch, f"\n{more}\n{QUESTION}".encode())
    told = [json.loads(line) for line in said(capsys, drawn[0], QUESTION, "--chat", "--json")[0].splitlines()]
    assert [one["question"] for one in told] == [QUESTION, more, QUESTION]
    model, processor = vtokens.load("scenes-llava")
    whole = question_prompt(processor, QUESTION)
    for before, after in pairwise(told):
        whole += f" {before['answer']}{processor.tokenizer.eos_token}USER: {after['question']} ASSISTANT:"
        inputs = encode_prompts(processor, [whole], [[Image.open(drawn[0])]])
        assert after["prompt_tokens"] == inputs["input_ids"].shape[1]
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        [answer] = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert after["answer"] == answer.strip()
    assert all(one["visual_tokens"] == 144 for one in told)


def test_every_way_to_search_frames_is_known_to_the_command_line() -> None:
    assert tuple(search.METHODS) == METHODS


def test_what_is_neither_picture_nor_video(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert "empty' is empty: a picture or a video is needed" in failure(capsys, str(tmp_path / "empty"), "what?")
    (tmp_path / "text.png").write_text("nothing")
    assert "cannot read the image " in failure(capsys, str(tmp_path / "text.png"), "what?")
    (tmp_path / "text.mp4").write_text("nothing")
    assert "text.mp4" in failure(capsys, str(tmp_path / "text.mp4"), "what?") or files.av is None
    says = "No such file or directory: '{}'. Did you mean 'text.mp4'?"
    assert says.format(tmp_path / "texts.mp4") in failure(capsys, str(tmp_path / "texts.mp4"), "what?")
    (tmp_path / "first.png").write_text("the text before the picture")
    says = "No such file or directory: 'what?'. Pictures and videos come first, the text behind them"
    for command in ("run", "compare", "check"):
        assert says in failure(capsys, "what?", str(tmp_path / "first.png"), command=command)
        told = failure(capsys, "A red ring. " * 400, str(tmp_path / "first.png"), command=command)
        assert told.startswith("vtokens: error: No such file or directory: 'A red ring. ")
        assert told.endswith(". Pictures and videos come first, the text behind them\n")
        assert len(told) < 400


def test_what_cannot_be_drawn_is_refused_before_the_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A picture that was cut into tiles: nothing is said or drawn; without --overlay it is answered."""
    for part in build("idefics3"):
        part.save_pretrained(tmp_path / "model")
    image(160, 60, seed=1).save(tmp_path / "wide.png")
    capsys.readouterr()  # saving shows its progress
    asking = [str(tmp_path / "wide.png"), "what?", "--model", str(tmp_path / "model"), "--strategy", "uniform"]
    says = failure(capsys, *asking, "--overlay", str(tmp_path / "kept.png"))
    assert re.search(r"cut this image into \d tiles", says)
    assert not (tmp_path / "kept.png").exists()
    assert said(capsys, *asking, "--max-new-tokens", "2")


def test_an_overlay_is_drawn_after_each_question_was_answered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, drawn: list[str], tmp_path: Path
) -> None:
    """Looking at what can be drawn changes no answer."""
    given(monkeypatch, QUESTION.encode())
    plain = said(capsys, drawn[0], QUESTION, "--chat", "--strategy", "cls")[0]
    given(monkeypatch, QUESTION.encode())
    shown = said(capsys, drawn[0], QUESTION, "--chat", "--strategy", "cls", "--overlay", str(tmp_path / "kept.png"))[0]
    assert shown == plain
    assert Image.open(tmp_path / "kept.png").width >= 96
