"""What the look into hallucinations on scenes relies on: watching changes nothing and is exact, covering covers."""

import math
from collections import deque

import pytest
import torch
from transformers import AutoModelForImageTextToText

import vtokens
from benchmarks.hallucination_causes import causes, missing
from benchmarks.hallucination_look import heads, sinks_and_mass, watch
from benchmarks.watching import Hide, Other, Seen, Watch, patches
from vtokens import scenes
from vtokens.scenes.world import PATCH
from vtokens.strategies import parse


@pytest.fixture(scope="module")
def shipped():
    """The shipped model and its processor."""
    model, processor = vtokens.load("scenes-llava", strategy="none", dtype=torch.float32)
    return model.eval(), processor


def batch(processor, examples):
    texts = [scenes.prompt(processor, e.question) for e in examples]
    return processor(images=[e.image for e in examples], text=texts, padding=True, return_tensors="pt")


def test_patches_of_a_cell_are_where_its_thing_is_drawn():
    for example in scenes.examples("test", 30, seed=3):
        for thing in example.scene.visible:
            left, top, right, bottom = thing.box
            touched = {y // PATCH * 12 + x // PATCH for x in range(left, right) for y in range(top, bottom)}
            assert touched <= set(patches(thing.cell))
    assert sorted(p for cell in range(16) for p in patches(cell)) == list(range(144))


def test_watching_is_exact_and_changes_nothing(shipped):
    """The rows are those of eager attention, padding and all, and the logits keep their bits."""
    model, processor = shipped
    examples = [scenes.examples("test", 1, seed=4, kinds=[kind])[0] for kind in ("exist", "at", "caption")]
    inputs = batch(processor, examples)
    assert not inputs["attention_mask"].all()
    eager = AutoModelForImageTextToText.from_pretrained(
        scenes.embedded_path("scenes-llava"), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        right, plain = eager(**inputs, output_attentions=True), model(**inputs).logits
        log = deque[Seen]()
        with vtokens.attach(model, Watch(log)):
            watched = model(**inputs).logits
    assert torch.equal(watched, plain)
    assert [seen.layer for seen in log] == list(range(8))
    for seen, attention in zip(log, right.attentions, strict=True):
        torch.testing.assert_close(seen.weights, attention[:, :, -1], atol=1e-5, rtol=1e-4)
        assert torch.equal(seen.visual, inputs["input_ids"] == model.config.image_token_id)
        assert torch.equal(seen.valid, inputs["attention_mask"].bool())


def test_covering_takes_away_one_cell(shipped):
    model, processor = shipped
    examples = scenes.examples("test", 2, seed=5, kinds=["where"])
    with vtokens.attach(model, Hide(((3,), ()))) as handle, torch.no_grad():
        model(**batch(processor, examples))
        first, second = (sample.pictures[0].kept[0].tolist() for sample in handle.report().samples)
    assert sorted({*range(144)} - {*first}) == patches(3)
    assert second == list(range(144))


def test_other_heads_are_those_that_vhr_leaves(shipped):
    model, processor = shipped
    inputs, taken = batch(processor, scenes.examples("test", 4, seed=6, kinds=["exist"])), {}
    for name, strategy in (
        ("vhr", parse("vhr(layers=(2,))")[0]),
        *((w, Other(layers=(2,), which=w)) for w in ("left", "all")),
    ):
        log = deque[Seen]()
        with vtokens.attach(model, [strategy, Watch(log)]), torch.no_grad():
            model(**inputs)
        assert [seen.layer for seen in log if seen.chosen is not None] == [2]
        taken[name] = next(seen.chosen for seen in log if seen.chosen is not None)
    assert torch.equal(taken["left"], ~taken["vhr"])
    assert taken["all"].all()
    assert taken["vhr"].sum(1).tolist() == [2, 2, 2, 2]


def seen(weights, visual, phi, chosen=None):
    """One layer of one sample, from lists."""
    mask = torch.tensor([visual], dtype=torch.bool)
    states = torch.tensor([phi], dtype=torch.float32)
    picked = None if chosen is None else torch.tensor([chosen])
    dims = torch.arange(states.shape[1])[None]
    return Seen(0, torch.tensor([weights]), mask, torch.ones_like(mask), states, dims, picked)


def test_figures_of_a_layer_counted_by_hand():
    """Five positions, the middle three visual; head 0 puts .6 on them and head 1 puts .2."""
    layer = seen(
        [[0.1, 0.4, 0.15, 0.05, 0.3], [0.5, 0.1, 0.06, 0.04, 0.3]], [0, 1, 1, 1, 0], [21.0, 2.0, 25.0, 3.0, 4.0]
    )
    (row,) = sinks_and_mass([[layer]])
    assert row["mass_visual"] == pytest.approx(0.4)
    assert row["mass_visual_by_head"] == pytest.approx([0.6, 0.2])
    assert row["mass_first_token"] == pytest.approx(0.3)
    assert (row["phi_first_token"], row["phi_visual_median"], row["phi_visual_max"]) == (21, 3, 25)
    assert (row["phi_text_max"], row["above_20"], row["tokens"]) == (21, 2, 5)
    assert row["visual_tokens_for_half"] == 1
    assert sorted(dim for dim, _ in row["largest_dims"]) == [1, 2, 3]


def test_heads_are_compared_with_the_other_way_of_choosing(shipped):
    model, processor = shipped
    asks = [e for e in missing("partner-removed", questions=40, captions=1, seed=2) if e.kind != "caption"]
    assert all(e.answer == "no" for e in asks)
    single = watch(model, processor, asks, "vhr(layers=(0, 3))")
    same = heads(single, single, asks)
    assert [row["layer"] for row in same] == [0, 3]
    for row in same:
        assert row["same_set_as_two_branch"] == 1
        assert sum(row["taken"]) == pytest.approx(2, abs=1e-3)
        assert 0 < row["trigger_of_visual_taken"] < 1
    # Before layer 0 nothing has read the picture; what differs is how far the words before it are away.
    double = watch(model, processor, asks, "vhr(layers=(0,), divergence='two_branch')")
    assert heads(watch(model, processor, asks, "vhr(layers=(0,))"), double, asks)[0]["same_set_as_two_branch"] > 0.8
    assert not math.isnan(same[0]["trigger_of_visual_left"])


@pytest.mark.slow
def test_the_missing_partner_is_seen_because_of_its_trigger(shipped):
    """With the trigger's tokens taken away nobody sees its partner; with an empty cell's, as many as before."""
    row = causes(*shipped, missing("partner-removed", questions=100, captions=60, seed=8))[-1]
    shares = {name: found["value"] for name, found in row["questions"].items()}
    assert shares["nothing covered"] > 0.4 > 0.1 > shares["trigger covered"]
    assert abs(shares["empty cell covered"] - shares["nothing covered"]) < 0.2
    assert row["captions"]["trigger named"]["n"] == row["captions"]["nothing covered"]["n"] > 5
    assert row["captions"]["trigger named"]["value"] > 0.1 > row["captions"]["trigger named, covered"]["value"]
