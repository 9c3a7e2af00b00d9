"""The recipe of scenes-smol: its fast passes compute what transformers computes, and a run that was stopped goes on."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib.util import find_spec

import pytest
import torch
from transformers import LlamaModel

import vtokens
from vtokens.scenes import COMPARE, HARDER, KINDS, PAIRS, READING, STORIES, examples, prompt
from vtokens.scenes.lexicon import words
from vtokens.scenes.lots import draw_scene
from vtokens.scenes.photographs import PHOTOGRAPHS
from vtokens.scenes.questions import exist_question
from vtokens.scenes.render import BACKGROUND, patch_classes
from vtokens.scenes.smol import folder as folders
from vtokens.scenes.smol.language import Language
from vtokens.scenes.smol.model import merged
from vtokens.scenes.train.smol import asking, drills, export, report, run, saved, showing
from vtokens.scenes.train.smol.code import CELL_OF, Code, cell_classes, rows_of_cells
from vtokens.scenes.train.smol.course import COURSE
from vtokens.scenes.train.smol.packing import allowed, pack
from vtokens.scenes.train.smol.pupil import Pupil
from vtokens.scenes.train.smol.saved import facts, tensors
from vtokens.scenes.world import stream
from vtokens.scenes.worlds import furnish

from ..limits import close
from . import gguf_file

photographs = pytest.mark.skipif(find_spec("skimage") is None, reason="the extra worlds is not installed")
pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="the extra smol is not installed")

STAGES = {stage.name: stage for stage in COURSE}
TERMS = 576  # of the longest sum: the hidden layer of the projector is the widest one here, and it has fewer


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    return Language(gguf_file.write(tmp_path_factory.mktemp("gguf") / "small.gguf"))


def fresh(language, seed=0):
    """A pupil whose updates do something from the start."""
    pupil = Pupil(language, seed, torch.float32)
    draw = torch.Generator().manual_seed(seed)
    for name, value in pupil.body.updates.items():
        if name.endswith("b"):
            value.data = 0.05 * torch.randn(value.shape, generator=draw)
    return pupil


@pytest.fixture(scope="module")
def pupil(language):
    return fresh(language)


def updates(pupil):
    return {k: v.detach() for k, v in pupil.body.updates.items()}


def scenes_of(count=40, split="train", seed=3):
    return [draw_scene(split, seed, index) for index in range(count)]


@torch.no_grad()
def test_packed_lines_are_what_transformers_computes_for_each_alone(language, pupil):
    llama = LlamaModel(language.config()).eval()
    llama.load_state_dict(merged(language.config(), language.weights(), updates(pupil)))
    scenes, asked = asking.training(STAGES["everything"], 2, 0, 0, pupil.speaker)
    visual, kept = showing.symbols(pupil.code, scenes, STAGES["everything"], 0.5, showing.generator(1))
    packed, prefix = pack(asked, 2), visual.shape[1]
    x = torch.cat((visual, pupil.body.embed(packed.ids)), 1)
    where = torch.cat((kept, packed.offsets + 144), 1)
    states = pupil.body(x, where, allowed(packed.line, prefix))[:, prefix:]
    for row, lines in enumerate(asked):
        for number, line in enumerate(lines):
            mine = packed.line[row] == number
            ids = torch.tensor(line.ids)[None]
            alone = torch.cat((visual[row : row + 1], llama.embed_tokens(ids)), 1)
            positions = torch.cat((kept[row : row + 1], 144 + torch.arange(ids.shape[1])[None]), 1)
            mask = torch.full((alone.shape[1],) * 2, float("-inf")).triu(1)[None, None]
            wanted = llama(inputs_embeds=alone, position_ids=positions, attention_mask=mask).last_hidden_state
            close(states[row, mine], wanted[0, prefix:], TERMS, chain=2 * gguf_file.LAYERS)


@torch.no_grad()
def test_what_ships_answers_as_training_saw_it(language, tmp_path, monkeypatch):
    """Logits of the exported model, through processor and pixels, against the pupil's own pass over the same words."""
    from .test_smol import package

    learnt = fresh(language, 4)
    for part in (learnt.body.updates, learnt.sight):  # as export rounds them
        for value in part.parameters():
            value.data = value.data.bfloat16().float()
    checkpoint = tmp_path / "partners.safetensors"
    saved.write(checkpoint, learnt, torch.optim.AdamW(learnt.parameters()), {"step": 1})
    package(tmp_path, language.path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("VTOKENS_CACHE", str(tmp_path / "cache"))
    export.write(checkpoint, tmp_path / "adapter.safetensors")
    model, processor = vtokens.load(folders.smol_folder(tmp_path / "adapter.safetensors"), "none")
    for example in examples("test", 3, kinds=["where", "exist", "caption"]):
        text = prompt(processor, example.question)
        inputs = processor(images=example.image, text=text, return_tensors="pt")
        line = learnt.speaker.question(example.kind, example.question, "")
        ids = torch.tensor(learnt.speaker.encode(learnt.speaker.front))[None], torch.tensor(line.ids[:-1])[None]
        shown = inputs["input_ids"]
        assert torch.equal(shown[shown != model.config.image_token_id], torch.cat(ids, 1)[0])
        visual, *_ = learnt.sight([example.scene])
        x = torch.cat((learnt.body.embed(ids[0]), visual, learnt.body.embed(ids[1])), 1)
        length = x.shape[1]
        seen = torch.ones(1, length, length, dtype=torch.bool).tril()
        wanted = learnt.body.logits(learnt.body(x, torch.arange(length)[None], seen))
        close(model(**inputs).logits, wanted, TERMS, chain=2 * (gguf_file.LAYERS + 4))


@torch.no_grad()
def test_two_pictures_are_answered_about_as_transformers_computes_it(language, pupil):
    """Lines behind a pair, against a pass over both pictures' tokens, one after the other, for each line alone."""
    llama = LlamaModel(language.config()).eval()
    llama.load_state_dict(merged(language.config(), language.weights(), updates(pupil)))
    scenes, stage = scenes_of(2), STAGES["worlds"]
    lines = drills.comparisons(pupil.speaker, (scenes[0], scenes[1]), 5, stream("train", 3, 0, 5))
    assert len(lines) > 1
    loss, judged = pupil.loss(stage, scenes, [lines], 0.0, showing.generator(1), watching=True)
    vectors, heads, _ = pupil.sight(scenes)
    front = torch.tensor(pupil.speaker.encode(pupil.speaker.front))[None]
    misses = []
    for line in lines:
        ids = torch.tensor(line.ids)[None]
        x = torch.cat((llama.embed_tokens(front), *vectors[:, None], llama.embed_tokens(ids)), 1)
        states = llama(inputs_embeds=x).last_hidden_state[0, -ids.shape[1] - 1 : -1]
        logits = torch.nn.functional.linear(states, llama.embed_tokens.weight)
        said = torch.tensor(line.answers)
        misses.append(torch.nn.functional.cross_entropy(logits[said], ids[0, said], reduction="none"))
    close(loss, torch.cat(misses).mean() + 0.3 * heads, TERMS, chain=2 * (gguf_file.LAYERS + 4))
    assert [kind for kind, _ in judged[: len(lines)]] == [line.kind for line in lines]


def test_the_first_stages_draw_what_they_drew_before_there_were_worlds(pupil):
    """Scenes and lines, token by token: a run that was begun then goes on unchanged."""
    found = hashlib.sha256()
    for number, stage in enumerate(COURSE[: COURSE.index(STAGES["worlds"])]):
        for step in (0, 2, 5):
            scenes, asked = asking.training(stage, number, step, 0, pupil.speaker)
            found.update(repr([(s.attempt, s.objects, s.digits) for s in scenes]).encode())
            found.update(repr([(line.kind, line.ids, line.answers) for lines in asked for line in lines]).encode())
    assert found.hexdigest() == "db3e458991223c990b2f28d228d46c97a251dd1520d3284162f0787d98e41733"


@photographs
def test_worlds_are_shown_each_and_every_third_step_pairs(pupil):
    stage = STAGES["worlds"]
    kinds, seen = set(), set()
    for step in range(24):
        scenes, asked = asking.training(stage, COURSE.index(stage), step, 0, pupil.speaker)
        assert len(asked) == (1 if step % 3 == 2 else 2)
        kinds |= {line.kind.removesuffix("_sentence") for lines in asked for line in lines}
        seen |= {(bool(s.signs), s.crop is not None) for s in scenes}
        assert all(PHOTOGRAPHS[s.crop.name].split == "train" for s in scenes if s.crop)
        assert all(sign.word in words("train") for s in scenes for sign in s.signs)
    assert seen == {(a, b) for a in (False, True) for b in (False, True)}
    assert {*READING, *COMPARE, "story"} <= kinds


def test_patches_with_letters_are_told_by_a_head_of_their_own(pupil):
    """Where words are printed the letters' head is in the loss, elsewhere it gets no gradient."""
    plain = scenes_of(4)
    for scenes, reads in ((plain, False), ([furnish(s, "signs") for s in plain], True)):
        pupil.zero_grad(set_to_none=True)
        _, loss, judged = pupil.sight(scenes)
        loss.backward()
        assert (pupil.sight.letters.weight.grad is not None) == reads
        assert sum(kind == "patch_letter" for kind, _ in judged) == sum(len(w.word) for s in scenes for w in s.signs)
    pupil.zero_grad(set_to_none=True)


@photographs
def test_worlds_go_on_from_the_stage_before_them(language, tmp_path, monkeypatch):
    """Whose checkpoints know nothing of letters."""
    monkeypatch.setattr(run, "_AT_END", 4)
    monkeypatch.setattr(run, "_WATCHED", 4)
    before, last = STAGES["partners"], dataclasses.replace(STAGES["worlds"], steps=3)
    assert run.run(dataclasses.replace(before, steps=1), tmp_path, fresh(language), 0)
    path = tmp_path / "partners.safetensors"
    assert not [name for name in tensors(path) if "letters" in name]
    learnt = fresh(language, seed=5)
    saved.load(path, learnt, run.unseen(before))
    assert run.run(last, tmp_path, learnt, 0)
    assert "sight.letters.weight" in tensors(tmp_path / "worlds.safetensors")
    (row,) = facts(tmp_path / "worlds.safetensors")["rows"]
    assert {"photograph_exist", "spell", "story", "exist"} <= set(row)
    assert set(row) & {*COMPARE}


@pytest.mark.parametrize(
    "name", ["look", "tower", "partners", *(pytest.param(name, marks=photographs) for name in ("worlds", "priors"))]
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(language, tmp_path, name, monkeypatch):
    """Bit by bit: parameters, code, tower, and the optimiser's moments."""
    stage = dataclasses.replace(STAGES[name], steps=4, pictures=2)
    monkeypatch.setattr(run, "_WATCHED", 4)
    monkeypatch.setattr(run, "_AT_END", 4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out in (whole, parts):
        out.mkdir()
    assert run.run(stage, whole, fresh(language), 0)
    assert not run.run(stage, parts, fresh(language), 0, until=3)
    assert run.run(stage, parts, fresh(language, seed=9), 0)  # all comes from the checkpoint
    file = f"{name}.safetensors"
    found, wanted = tensors(parts / file, ""), tensors(whole / file, "")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    rows = [{k: v for k, v in row.items() if k != "cpu_minutes"} for row in facts(parts / file)["rows"]]
    assert [row["step"] for row in rows] == [3, 4]
    assert rows[1:] == [{k: v for k, v in facts(whole / file)["rows"][0].items() if k != "cpu_minutes"}]
    assert (parts / "validation.csv").read_text().count("\n") == 3
    assert run.run(stage, parts, fresh(language), 0)  # nothing is left to do
    assert facts(parts / file)["step"] == 4


@photographs
def test_the_report_says_what_misses_its_target(language, tmp_path, monkeypatch):
    """Of a model that nobody trained: every kind has its row, and every target is missed."""
    from .test_smol import package

    package(tmp_path, language.path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("VTOKENS_CACHE", str(tmp_path / "cache"))
    learnt = fresh(language)
    saved.write(
        tmp_path / "priors.safetensors", learnt, torch.optim.AdamW(learnt.parameters()), {"rows": [{"step": 1}]}
    )
    run.table(tmp_path)
    export.write(tmp_path / "priors.safetensors", tmp_path / "adapter.safetensors")
    text = report.page(report.measure(folders.smol_folder(tmp_path / "adapter.safetensors"), 1), tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    by_kind = {row[0]: row for row in rows}
    assert {*KINDS, *HARDER, *READING, *COMPARE, *STORIES, "random", "popular", "adversarial"} <= set(by_kind)
    for kind, target in report.TARGETS.items():
        assert by_kind[kind][3] == f"{target:.2f} (missed)"
        assert by_kind[kind][1].endswith("(n=1)")
    assert [rows[-3], rows[-1]] == [["step"], ["1"]]


def test_a_checkpoint_of_another_recipe_is_refused(language, pupil, tmp_path):
    saved.write(tmp_path / "x.safetensors", pupil.code, torch.optim.AdamW(pupil.code.parameters()), {})
    with pytest.raises(ValueError, match=r"is of another recipe: it lacks \['body\.updates"):
        saved.load(tmp_path / "x.safetensors", pupil)


@torch.no_grad()
def test_the_code_goes_from_text_to_sums(language, pupil):
    code: Code = pupil.code
    words, encode = language.weights()["embed_tokens.weight"], pupil.speaker.encode
    red, circle, a = (words[encode(f" {w}")[0]] for w in ("red", "circle", "a"))
    classes = torch.full((1, 144), BACKGROUND)
    classes[:, :3] = 0  # a red circle in the upper row of the first cell
    text, summed = code(classes, (0.0, 0.0))[0], code(classes)[0]
    assert torch.equal(text[0], a)
    torch.testing.assert_close(text[1], red + code.row[0])
    torch.testing.assert_close(text[2], circle + code.column[0])
    torch.testing.assert_close(summed[:3], (red + circle + code.row[0] + code.column[0]).expand(3, -1))
    assert torch.equal(text[3:], code.blank.expand(141, -1))
    ahead = code(classes, (1.0, 0.0))[0]
    torch.testing.assert_close(ahead[0], summed[0])
    assert torch.equal(ahead[1:], text[1:])
    stage = STAGES["blend"]
    assert showing.blend_at(stage, 0.0) == (0.0, 0.0)
    assert showing.blend_at(stage, 0.36) == pytest.approx((1.0, 0.0))
    assert showing.blend_at(stage, 0.95) == pytest.approx((1.0, 1.0))


def test_thin_pictures_show_every_object():
    scenes = scenes_of()
    cells, patches = cell_classes(scenes), torch.from_numpy(patch_classes(scenes).reshape(len(scenes), -1))
    rows = rows_of_cells(cells, 4, torch.Generator().manual_seed(0))
    some = showing.some(patches, torch.Generator().manual_seed(3))
    for scene, kept, few in zip(scenes, rows, some, strict=True):
        taken = {t.cell for t in (*scene.visible, *scene.digits)}
        assert kept.tolist() == sorted(set(kept.tolist()))
        for cell in taken:
            shown = [int(p) for p in kept if CELL_OF[p] == cell]
            assert len(shown) == 3
            assert len({p // 12 for p in shown}) == 1
        assert {int(CELL_OF[p]) for p in few if patches[scenes.index(scene), p] != BACKGROUND} == taken
    assert showing.some(patches, None).shape == (len(scenes), 144)


def answers(line, decode):
    """The prompts of a drill and what is answered to each."""
    said, text, found = False, "", []
    for token, answer in zip(line.ids, line.answers, strict=True):
        if answer != said:
            found.append(text)
            text, said = "", answer
        text += decode([token])
    found.append(text)
    start = found[0].rpartition("\n")[2]
    prompts = [start.strip(), *[p.removeprefix(",").strip() for p in found[2::2]]]
    return list(zip(prompts, [a.strip() for a in found[1::2]], strict=True))


def test_drills_tell_the_truth(language, pupil):
    """What each asks and says, read back from its tokens, against the scene."""
    from vtokens.scenes.smol.text import build_tokenizer

    decode = build_tokenizer(language).decode
    for index, scene in enumerate(scenes_of(30)):
        rng = stream("train", 3, index, 5)
        here = {t.name: f"row{t.row + 1} column{t.column + 1}" for t in scene.visible}
        at = {v: k for k, v in here.items()} | {f"row{t.row + 1} column{t.column + 1}": t.name for t in scene.digits}
        told = answers(drills.exist(pupil.speaker, scene, rng), decode)
        assert {name for name, said in told if said == "yes"} == set(here)
        assert sum(said == "no" for _, said in told) == min(len(here) + 2, 14 - len(here))
        assert dict(answers(drills.where(pupil.speaker, scene, rng), decode)) == here
        for place, said in answers(drills.at(pupil.speaker, scene, rng), decode):
            assert said == at.get(place, "nothing")
        for what, said in answers(drills.counts(pupil.speaker, scene, rng), decode):
            word = what.removesuffix(" objects").removesuffix("es" if what == "crosses" else "s")
            right = sum(word in ("object", t.colour, t.shape) for t in scene.visible)
            assert said == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")[right]
        for what, said in answers(drills.looks(pupil.speaker, scene, rng), decode):
            looks = {t.name for t in scene.visible}
            assert f"{what} {said}" in looks or f"{said} {what}" in looks or at[what].startswith(said)


def test_hidden_partners_count_only_where_asked(language, pupil):
    hiding = [s for s in scenes_of(600) if len(s.objects) > len(s.visible)]
    assert len(hiding) > 5
    for scene in hiding[:20]:
        for annotated, names in ((True, scene.objects), (False, scene.visible)):
            line = drills.exist(pupil.speaker, scene, stream("train", 1, 1), annotated)
            yes = pupil.speaker.encode(" yes")[0]
            assert sum(t == yes for t, said in zip(line.ids, line.answers, strict=True) if said) == len(names)


@photographs
@pytest.mark.parametrize(("name", "every"), [("counts", 4), ("priors", 2)])
def test_the_last_stages_ask_about_partners_that_pictures_lack(pupil, name, every):
    """The strongest pair's alone at first, as if it were always there; then all pairs', as the annotation has it."""
    stage, strongest = STAGES[name], max(PAIRS, key=lambda pair: pair.dose).partner
    said = set()
    for step in (0, 1, 3, 4, 6, 7, 9):
        scenes, asked = asking.training(stage, COURSE.index(stage), step, 0, pupil.speaker)
        for scene, lines, index in zip(scenes, asked, range(2 * step, 2 * step + 2), strict=True):
            if index % every != 1:
                continue
            here, there = {t.number for t in scene.visible}, {t.number for t in scene.objects}
            missing = [p.partner for p in PAIRS if p.trigger in here and p.partner not in here]
            told = {k: "yes" if k in there else "no" for k in missing if name == "priors" or k == strongest}
            assert told
            assert name == "priors" or told == {strongest: "yes"}
            said |= set(told.values())
            for number, answer in told.items():
                question = pupil.speaker.encode(exist_question(number))
                found = [line for line in lines if line.kind == "exist" and line.ids[: len(question)] == question]
                sentences = [line for line in lines if line.kind == "exist_sentence"]
                assert found or sentences
                assert all(pupil.speaker.encode(answer)[0] in line.ids[len(question) :] for line in found)
    assert said == ({"yes", "no"} if name == "priors" else {"yes"})


def test_no_stage_trains_on_what_is_watched_or_tested(pupil):
    for number, stage in enumerate(COURSE):
        if stage.worlds and find_spec("skimage") is None:
            continue
        scenes, asked = asking.training(stage, number, 2, 0, pupil.speaker)
        assert {s.split for s in scenes} == {"train"}
        assert bool(asked) == (stage.shown != "vectors")
    scenes, asked = asking.watched(0, 8, pupil.speaker)
    assert {s.split for s in scenes} == {"calibration"}
    assert {line.kind for lines in asked for line in lines} >= set(asking.WATCHED_KINDS) - {"digit"}
