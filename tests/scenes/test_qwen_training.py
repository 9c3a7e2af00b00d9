"""The recipe of scenes-qwen: its fast passes compute what transformers computes, and a run that was stopped goes on."""

from __future__ import annotations

import csv
import dataclasses

import pytest
import torch

import vtokens
from vtokens import scenes
from vtokens.scenes import clips
from vtokens.scenes.model import WORDS as OLDER
from vtokens.scenes.qwen.model import SIDE, WORDS, build_model, build_tokenizer, save
from vtokens.scenes.render import BACKGROUND
from vtokens.scenes.train import packed
from vtokens.scenes.train.data import tokens
from vtokens.scenes.train.qwen import run as runs
from vtokens.scenes.train.qwen.command import main
from vtokens.scenes.train.qwen.course import COURSE
from vtokens.scenes.train.qwen.data import ClipBatch, make_clips, make_pictures
from vtokens.scenes.train.qwen.export import export
from vtokens.scenes.train.qwen.pupil import Pupil, answered, places, symbolic, twice
from vtokens.scenes.train.qwen.tower import features
from vtokens.scenes.train.smol import saved

STAGES = {stage.name: stage for stage in COURSE}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model whose biases and norms are drawn too, from a folder, with its processor."""
    model = build_model(0)
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return vtokens.load(save(model, tmp_path_factory.mktemp("qwen")))


def asked(processor, sample):
    """The processor's inputs for examples of clips."""
    video = {"type": "video"}
    chats = [[{"role": "user", "content": [video, {"type": "text", "text": e.question}]}] for e in sample]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    shown = {"videos": [e.video.frames for e in sample], "video_metadata": [e.video.metadata for e in sample]}
    return processor(
        text=texts, padding=True, do_sample_frames=False, add_special_tokens=False, return_tensors="pt", **shown
    )


@torch.no_grad()
def test_tower_pass_equals_transformers(loaded):
    model, processor = loaded
    sample = clips.examples("test", 2, frames=8)
    inputs = asked(processor, sample)
    wanted = model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output
    frames = torch.stack([torch.from_numpy(e.video.frames) for e in sample]).view(8, 2, 96, 96, 3)
    torch.testing.assert_close(features(model.model.visual, frames), torch.cat(wanted).view(8, 64, -1))
    picture = scenes.examples("test", 1)[0].image
    shown = processor.image_processor([picture], return_tensors="pt")
    [wanted] = model.get_image_features(shown["pixel_values"], shown["image_grid_thw"]).pooler_output
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, 96, 96, 3)
    torch.testing.assert_close(features(model.model.visual, twice(pixels))[0], wanted)


@torch.no_grad()
def test_packed_questions_equal_the_model_asked_one_by_one(loaded):
    """What training takes for the logits of an answer is what the genuine model gives for the processor's inputs."""
    model, processor = loaded
    pupil = Pupil(0)
    pupil.qwen = model
    sample = clips.examples("test", 3, frames=8)
    batch = make_clips(0, 0, 3, count=1, frames=8, pixels=False)
    frames = torch.stack([torch.from_numpy(e.video.frames) for e in sample])
    visual = pupil.seen(frames.view(12, 2, 96, 96, 3)).view(3, 256, -1)
    for row, example in enumerate(sample):
        ids = tokens(example.question)
        batch.ids[row] = 0
        batch.ids[row, 0, : len(ids) + 1] = torch.tensor([*ids, WORDS.index("ASSISTANT:")])
        inputs = asked(processor, [example])
        logits = model(**inputs).logits[0, -1]
        batch.labels[row] = -100
        batch.labels[row, 0, len(ids)] = int(logits.argmax())
        where = places(4, visual.device)[:, None]
        one = ClipBatch(**{name: value[row : row + 1] for name, value in vars(batch).items()})
        loss, _ = answered(pupil, visual[row : row + 1], where, one)
        torch.testing.assert_close(loss, -logits.log_softmax(-1).max(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_packed_layers_know_shared_keys_and_biases(loaded):
    text = loaded[0].model.language_model
    prefix = 0.3 * torch.randn(2, 20, 128)
    where = torch.stack([torch.arange(20) // 8, torch.arange(20) % 8, torch.arange(20) % 5])[:, None].expand(-1, 2, -1)
    ids = torch.randint(7, 60, (2, 3, 6))
    found = packed.hidden_states(text, prefix, where, [(ids, 9)])[0]
    for row in range(2):
        for number in range(3):
            x = torch.cat((prefix[row], text.embed_tokens(ids[row, number])))[None]
            positions = torch.cat((where[:, row], (9 + torch.arange(6)).expand(3, -1)), 1)[:, None]
            mask = torch.full((26, 26), float("-inf")).triu(1)[None, None]
            wanted = text(inputs_embeds=x, position_ids=positions, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(found[row, number], wanted[0, 20:], atol=1e-5, rtol=1e-4)


def test_words_of_the_first_model_keep_their_numbers():
    assert [new for old, new in zip(OLDER, WORDS, strict=False) if old != new] == ["<|image_pad|>"]
    tokenizer = build_tokenizer()
    for example in clips.examples("test", 12, frames=8):
        for text in (example.question, example.answer):
            assert tokens(text) == tuple(tokenizer(text).input_ids)
            assert tokenizer.unk_token_id not in tokens(text)


def test_answers_fit_into_what_is_trained():
    batch = make_clips(3, 0, 24, count=12, frames=16, pixels=False)
    assert (batch.labels != -100).any(-1).all()
    assert set(batch.kinds.flatten().tolist()) == set(range(len(clips.KINDS)))


def test_symbols_of_a_clip_keep_every_object_of_every_step():
    pupil, batch = Pupil(0), make_clips(0, 0, 2, count=6, frames=32, pixels=False)
    generator = torch.Generator().manual_seed(0)
    _, where = symbolic(pupil, batch, generator)
    assert where.shape == (3, 2, 256)
    time, row, column = where
    for clip in range(2):
        kept = batch.patches[clip, time[clip], row[clip] * SIDE + column[clip]]
        for step in range(16):
            there = set(batch.patches[clip, step].tolist()) - {BACKGROUND}
            assert there <= set(kept[time[clip] == step].tolist())
            things = (batch.patches[clip, step] != BACKGROUND).sum()
            assert (kept[time[clip] == step] != BACKGROUND).sum() == min(16, things)


def test_symbols_carry_names_and_places():
    pupil, batch = Pupil(0), make_pictures(1, 0, 2, count=1, pixels=False)
    pupil.qwen.get_input_embeddings().weight.data = torch.eye(len(WORDS), 128)
    patch = int((batch.patches[0] < 36).nonzero()[0])
    names = {WORDS[int(i)] for i in pupil.symbols(batch.patches)[0, patch].nonzero()}
    assert {f"row{patch // SIDE // 2 + 1}", f"column{patch % SIDE // 2 + 1}"} < names
    assert len(names) == 4


def short():
    """The recipe with four steps a stage, of two scenes each."""
    made = {
        "look": lambda seed, step: (
            make_pictures(seed, step * 2, 2, count=1, pixels=True),
            make_clips(seed, step, 1, count=1, frames=8, pixels=True),
        ),
        "symbols": lambda seed, step: (
            (make_clips if step % 2 else make_pictures)(
                seed, step * 2, 2, count=3, pixels=False, **({"frames": 8} if step % 2 else {})
            ),
        ),
        "together": lambda seed, step: (
            (make_clips if step % 2 else make_pictures)(
                seed, step * 2, 2, count=3, pixels=True, **({"frames": 8} if step % 2 else {})
            ),
        ),
    }
    return tuple(dataclasses.replace(stage, steps=4, make=made.get(stage.name, made["look"])) for stage in COURSE)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
    course = short()
    more = {"workers": 0, "dtype": torch.float32, "course": course}
    stage = course[1]
    assert runs.run(stage, whole, 0, **more)
    assert not runs.run(stage, parted, 0, until=2, **more)
    assert runs.run(stage, parted, 0, **more)
    one, other = (saved.tensors(folder / "symbols.safetensors") for folder in (whole, parted))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_chain_runs_and_leaves_a_model_that_answers(tmp_path):
    course = short()
    with pytest.raises(ValueError, match=r"run the stage 'look' first: .*look.safetensors is at step 0 of 4"):
        main(["--out", str(tmp_path), "--stage", "regression", "--workers", "0"], course)
    main(["--out", str(tmp_path), "--workers", "0", "--dtype", "float32"], course)
    rows = list(csv.DictReader((tmp_path / "training.csv").open()))
    assert [(row["stage"], row["step"]) for row in rows] == [(name, "4") for name in STAGES]
    kept = saved.tensors(tmp_path / "look.safetensors")
    first, last = (saved.tensors(tmp_path / f"{name}.safetensors") for name in ("regression", "together"))
    key = "qwen.model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[key], saved.tensors(tmp_path / "symbols.safetensors")[key])
    assert not torch.equal(first[key], last[key])
    assert not torch.equal(first["head.weight"], kept["head.weight"])
    export(tmp_path, tmp_path / "model")
    model, processor = vtokens.load(tmp_path / "model")
    assert torch.equal(model.model.language_model.layers[0].mlp.up_proj.weight, last[key])
    sample = [*clips.examples("test", 6, frames=8), *scenes.examples("test", 3), *clips.examples("test", 1, frames=10)]
    assert set(scenes.evaluate(model, processor, sample)) == {e.kind for e in sample} | {"overall"}


def test_steps_draw_what_no_other_step_or_stage_does():
    found = [
        (int(made.ids.sum()), made.kinds.flatten().tolist())
        for name, number in (("symbols", 2), ("together", 4))
        for step in (1, 3)
        for made in STAGES[name].make(1000 * number, step)
    ]
    assert len({str(one) for one in found}) == 4
