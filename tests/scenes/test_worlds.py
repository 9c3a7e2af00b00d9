"""Harder worlds: photographs, printed words, two pictures and captions of several sentences, with exact truth."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest

from vtokens.core.errors import MissingExtra
from vtokens.eval.hallucination import grade
from vtokens.filter.calibrators.labels import label_scenes
from vtokens.filter.mentions import get_extractor
from vtokens.scenes import CLASSES, COMPARE, KINDS, READING, SPLITS, STORIES, WORLDS, draw_scene, examples, score
from vtokens.scenes import claims as reading
from vtokens.scenes.letters import ALPHABET, INK
from vtokens.scenes.lexicon import words
from vtokens.scenes.model import WORDS
from vtokens.scenes.photographs import PHOTOGRAPHS, check_photographs, cut, pixels
from vtokens.scenes.questions import ask
from vtokens.scenes.render import render
from vtokens.scenes.sentences import spoken
from vtokens.scenes.signs import NO_LETTER, patch_letters
from vtokens.scenes.world import CELL, IMAGE, NUMBERS, PATCH
from vtokens.scenes.worlds import furnish

photographs = pytest.mark.skipif(find_spec("skimage") is None, reason="the extra worlds is not installed")
# SHA-256 over the pixels, questions and answers of 20 examples; the same on every machine.
WORDS_HASH = "6d6af1835027e379fb94cd00f38404e3213920d5aa2eeab3177e5ba0d0e1868c"
PHOTOGRAPHS_HASH = "24b3d6c244f1d3ff9d58144d204c3c582bd5860243464339d5f89cac5a0a7eaa"


def scenes_in(world, split="test", count=30, seed=2):
    return [furnish(draw_scene(split, seed, index), world) for index in range(count)]


def digest(sample):
    found = hashlib.sha256()
    for e in sample:
        for image in e.images:
            found.update(np.asarray(image).tobytes())
        found.update(f"{e.question}|{e.answer}".encode())
    return found.hexdigest()


def test_harder_examples_are_the_same_on_every_machine():
    assert digest(examples("test", 20, kinds=READING + COMPARE + STORIES)) == WORDS_HASH


@photographs
def test_photographs_are_cut_the_same_on_every_machine():
    """Splits whose photographs are PNG files."""
    found = [*examples("calibration", 10, world="photographs"), *examples("partner-removed", 10, world="photographs")]
    assert digest(found) == PHOTOGRAPHS_HASH


# --- printed words


def test_no_two_splits_share_a_word_and_training_has_every_letter():
    train, calibration, test = ({*words(split)} for split in ("train", "calibration", "test"))
    assert not train & calibration | train & test | calibration & test
    assert all({*words(split)} == test for split in ("hard", "decorrelated", "partner-removed"))
    assert {*"".join(train)} == {*"".join(test)} == {*ALPHABET}
    assert not (train | calibration | test) & {*WORDS}
    assert len(train) > 200 < 4 * len(test)


@pytest.mark.parametrize("split", SPLITS)
def test_words_stand_in_free_cells_apart_from_each_other(split):
    for index in range(150):
        bare = draw_scene(split, 4, index)
        scene = furnish(bare, "signs")
        assert dataclasses.replace(scene, signs=()) == bare
        strips = [{(s.row, s.column + n) for n in range(s.cells)} for s in scene.signs]
        things = {(t.row, t.column) for t in (*scene.objects, *scene.digits)}
        assert len({s.word for s in scene.signs}) == len(scene.signs) <= 3
        for number, (sign, strip) in enumerate(zip(scene.signs, strips, strict=True)):
            assert sign.word in words(split)
            assert not strip & things
            assert sign.start + len(sign.word) <= 3 * sign.cells <= 12 - 3 * sign.column
            for other in strips[:number]:
                assert not {(r, c + d) for r, c in strip for d in (-1, 0, 1)} & other


def test_every_letter_can_be_read_back_from_its_patch():
    """By the nearest letter of the font, from the rendered pixels alone."""
    font = {letter: INK[n] for n, letter in enumerate(ALPHABET)}
    assert len({ink.tobytes() for ink in font.values()}) == 26
    scenes = scenes_in("signs")
    for scene, picture, letters in zip(scenes, render(scenes), patch_letters(scenes), strict=True):
        assert (letters != NO_LETTER).sum() == sum(len(s.word) for s in scene.signs)
        grey = picture.astype(float).mean(-1)
        for sign in scene.signs:
            read = ""
            for n in range(len(sign.word)):
                y, x = sign.row * 3 + sign.line, sign.column * 3 + sign.start + n
                assert ALPHABET[letters[y, x]] == sign.word[n]
                patch = grey[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
                patch = patch if sign.dark else -patch
                # wherever the letter stands in its patch
                fits = {
                    letter: max(
                        np.corrcoef(patch[dy : dy + 7, dx : dx + 5].ravel(), ink.ravel())[0, 1]
                        for dy in (0, 1)
                        for dx in range(4)
                    )
                    for letter, ink in font.items()
                }
                read += max(fits, key=fits.__getitem__)
            assert read == sign.word


def test_what_is_printed_where():
    for e in examples("test", 120, 3, READING):
        at = {f"row{s.row + 1} column{s.column + 1}": s.word for s in e.scene.signs}
        if e.kind in ("sign", "spell"):
            (word,) = at.values()
            assert e.answer == (word if e.kind == "sign" else " ".join(word))
        elif e.kind == "sign_at":
            assert at[re.search(r"row\d column\d", e.question)[0]] == e.answer
        else:
            word = e.question.removesuffix("?").split()[-1]
            assert at.get(e.answer) == (word if word in at.values() else None)
            assert (e.answer == "nowhere") == (word not in at.values())
    sought = [e.answer == "nowhere" for e in examples("test", 300, kinds=["sign_where"])]
    assert 110 < sum(sought) < 190


def test_a_place_with_a_word_is_not_empty():
    for e in examples("test", 200, kinds=["at"], world="signs"):
        if e.answer == "nothing":
            row, column = (int(n) - 1 for n in re.findall(r"\d", e.question))
            assert row * 4 + column not in e.scene.taken
            (claim,) = get_extractor("scenes")(e.answer, e.question)
            assert label_scenes(e, [claim]) == [False]
    scene = next(s for s in scenes_in("signs") if s.signs)
    sign = scene.signs[0]
    place = f"row{sign.row + 1} column{sign.column + sign.cells}"
    (claim,) = get_extractor("scenes")("nothing", f"What is at {place}?")
    assert label_scenes(scene, [claim]) == [True]


# --- photographs


def test_each_photograph_belongs_to_one_split_and_every_split_has_one():
    assert {p.split for p in PHOTOGRAPHS.values()} == {*SPLITS}
    assert len({p.sha256 for p in PHOTOGRAPHS.values()}) == len(PHOTOGRAPHS)


@photographs
@pytest.mark.parametrize("split", SPLITS)
def test_scenes_stand_on_photographs_of_their_split_and_stay_what_they_are(split):
    check_photographs(split)
    scenes = [draw_scene(split, 1, index) for index in range(20)]
    there = [furnish(scene, "photographs") for scene in scenes]
    assert [dataclasses.replace(scene, crop=None) for scene in there] == scenes
    assert {PHOTOGRAPHS[scene.crop.name].split for scene in there} == {split}
    bare = render([dataclasses.replace(scene, objects=(), digits=()) for scene in scenes]).astype(int)
    pictures = zip(there, render(there).astype(int), render(scenes).astype(int), bare, strict=True)
    for scene, on, plain, ground in pictures:
        # Things, and a pixel all around them as far as their cells go, are what they are on plain ground.
        cells = (np.abs(plain - ground).max(-1) > 1).reshape(4, CELL, 4, CELL).swapaxes(1, 2)
        wide = np.pad(cells, ((0, 0), (0, 0), (1, 1), (1, 1)))
        shown = wide[..., 1:-1, 1:-1] | wide[..., 2:, 1:-1] | wide[..., :-2, 1:-1] | wide[..., 1:-1, 2:]
        shown = (shown | wide[..., 1:-1, :-2]).swapaxes(1, 2).reshape(IMAGE, IMAGE)
        assert (on[shown] == plain[shown]).all()
        near = np.zeros((IMAGE, IMAGE), dtype=bool)
        for t in (*scene.visible, *scene.digits):
            left, top, right, bottom = t.box
            near[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6] = True
        # Away from them it is the photograph, and the camera's noise of at most eight levels.
        assert np.abs(on - cut(scene.crop))[~near].max() <= 8.5


@photographs
def test_a_crop_is_the_mean_of_squares_of_the_photograph():
    for scene in scenes_in("photographs", "train"):
        crop, whole = scene.crop, pixels(scene.crop.name).astype(float)
        y, x = 17, 80
        column = IMAGE - 1 - x if crop.mirrored else x
        top, left = crop.top + y * crop.scale, crop.left + column * crop.scale
        block = whole[top : top + crop.scale, left : left + crop.scale]
        assert np.abs(cut(crop)[y, x] - block.mean((0, 1))).max() <= 0.5


@photographs
def test_worlds_ask_the_same_of_the_same_scenes():
    for plain, on in zip(examples("test", 22), examples("test", 22, world="photographs"), strict=True):
        assert (plain.question, plain.answer, plain.scene.objects) == (on.question, on.answer, on.scene.objects)
        assert plain.image.tobytes() != on.image.tobytes()


def test_without_the_package_the_error_has_the_command(monkeypatch):
    pixels.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"scikit-image, which is not installed: pip install 'vtokens\[worlds\]'"):
        examples("calibration", 1, world="photographs")
    assert examples("calibration", 1, world="plain")


def test_another_photograph_under_the_same_name_is_refused(tmp_path, monkeypatch):
    pixels.cache_clear()
    (tmp_path / "skimage" / "data").mkdir(parents=True)
    (tmp_path / "skimage" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"cell\.png is not there.*pip install scikit-image=="):
        check_photographs("partner-removed")
    (tmp_path / "skimage" / "data" / "cell.png").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"cell\.png is not the photograph"):
        check_photographs("partner-removed")


def test_an_unknown_world_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown world 'photograph'.*'photographs'"):
        examples("test", 1, world="photograph")
    assert WORLDS[0] == "plain"


# --- two pictures


def compared(question, first, second):
    """The right answer, from the words of the question and what is visible."""

    def count(things, what):
        word = what.removesuffix(" objects")
        word = {"crosses": "cross"}.get(word, word.removesuffix("s"))
        return sum(word in ("object", t.colour, t.shape) for t in things)

    if found := re.fullmatch(r"Which picture has more (.+)\?", question):
        one, other = count(first, found[1]), count(second, found[1])
        return "first" if one > other else "second" if other > one else "neither"
    if found := re.fullmatch(r"Do both pictures show equally many (.+)\?", question):
        return "yes" if count(first, found[1]) == count(second, found[1]) else "no"
    if found := re.fullmatch(r"Is the (\w+) of the same colour in both pictures\?", question):
        (one,), (other,) = ([t.colour for t in things if t.shape == found[1]] for things in (first, second))
        return "yes" if one == other else "no"
    if found := re.fullmatch(r"Is the (\w+) object of the same shape in both pictures\?", question):
        (one,), (other,) = ([t.shape for t in things if t.colour == found[1]] for things in (first, second))
        return "yes" if one == other else "no"
    assert question == "Which object do both pictures show?"
    (name,) = {t.name for t in first} & {t.name for t in second}
    return name


@pytest.mark.parametrize("kind", COMPARE)
def test_comparisons_are_exact_and_their_answers_balanced(kind):
    sample = examples("test", 150, 6, [kind])
    for e in sample:
        assert e.answer == compared(e.question, e.scene.visible, e.scene2.visible)
        assert len(e.images) == 2
        assert np.array_equal(np.asarray(e.image2), render([e.scene2])[0])
        assert e.answer in spoken(kind, e.question, e.answer)[1].lower()
    often = Counter(e.answer for e in sample)
    if kind != "in_both":
        assert all(0.7 < often[a] * len(often) / 150 < 1.3 for a in often)
        assert len(often) == (3 if kind == "more" else 2)


def test_one_picture_is_the_rule_and_two_are_refused_where_one_is_asked_about():
    (e,) = examples("test", 1)
    assert (e.image2, e.scene2, e.images) == (None, None, (e.image,))
    with pytest.raises(ValueError, match="kind 'more' is about two pictures"):
        ask(draw_scene("test", 0, 0), "more", np.random.default_rng(0))


# --- captions of several sentences


@pytest.mark.parametrize("split", SPLITS)
def test_stories_are_true_and_name_everything(split):
    for e in examples(split, 60, 7, STORIES, world="signs"):
        assert set(reading.named(e.answer)) == {t.name for t in e.scene.visible}
        assert score(e.answer, e)
        told = Counter(claim.kind for claim in reading.claims(e.answer))
        assert told["sign"] == len(e.scene.signs)
        assert told["count"] >= 1
        assert e.answer.count(".") == sum(told.values())  # every sentence was read
        # The filter's own reader finds nothing made up, and CHAIR neither.
        mentions = get_extractor("scenes")(e.answer, e.question)
        assert not any(label_scenes(e, mentions)), [m.name for m in mentions]
        chair = grade([e], [e.answer], resamples=2).chair
        assert (chair.chair_i.value, chair.recall.value) == (0, 1)


def test_a_story_with_one_wrong_word_is_wrong():
    """Each statement is spoilt in turn: another object, place, relation, number or word."""
    wrong = Counter()
    for e in examples("test", 40, 8, STORIES, world="signs"):
        for claim in reading.claims(e.answer):
            assert reading.holds(claim, e.scene)
        for kind, spoilt in spoil(e):
            assert not score(spoilt, e), (kind, spoilt)
            wrong[kind] += 1
    assert set(wrong) == {"name", "place", "relation", "count", "sign", "left out"}


def spoil(e):
    absent = next(name for name in CLASSES if name not in e.answer)
    name = reading.named(e.answer)[-1]
    yield "name", e.answer.replace(name, absent)
    yield "count", re.sub(rf"\b({'|'.join(NUMBERS)})(?= object)", "nine", e.answer, count=1)
    place = re.search(rf"({'|'.join(CLASSES)}) is at (row\d column\d)", e.answer)
    if place:
        moved = place[0].replace(place[2], f"row{int(place[2][3]) % 4 + 1} column{place[2][-1]}")
        yield "place", e.answer.replace(place[0], moved)
    if "Below" in e.answer:
        yield "relation", e.answer.replace("Below", "Above")
    if "says" in e.answer:
        yield "sign", re.sub(r"says \w+", "says zzz", e.answer)
    if len(e.scene.visible) > 1:
        kept = [s for s in e.answer.split(". ") if name not in s]
        yield "left out", ". ".join(kept)


def test_other_ways_to_say_it_are_read():
    text = (
        "There is no red ring. The red circle is left of the blue square. Row1 column2 is a red circle, I see one ring."
    )
    assert reading.named(text) == ["red circle", "blue square", "red circle"]
    assert [(c.kind, *c.parts) for c in reading.claims(text)] == [
        ("place", "red circle", "row1 column2"),
        ("relation", "red circle", "left of", "blue square"),
        ("count", "one", "ring"),
    ]


def test_the_kinds_that_were_there_are_asked_as_before_in_every_world():
    for e in examples("test", 2 * len(KINDS), world="signs"):
        assert e.scene.signs or len(e.scene.taken) > 10
        assert e.kind in KINDS
