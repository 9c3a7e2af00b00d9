"""PINE against an untouched model whose every row has its prompt written out anew, in float64; and what it promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch

import vtokens
from tests.engine.cases import model, refused
from tests.engine.compare import GREEDY, check_programs
from tests.engine.contrasted import check_answers
from tests.engine.dense import attending
from tests.engine.edited import generated
from tests.engine.masked import dropped_keys, masking
from tests.engine.media import clip, media
from tests.engine.reordered import Reordered
from tests.families import ALL, build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.strategies.attend import pine

TEXTS = ["<image> or <image>, which?", "Is there a cat?", "A <image> one, <image> two <image> three"]
SHOWN: tuple[tuple[tuple[int, int], ...], ...] = (
    ((100, 60), (84, 112)),
    ((60, 60),),
    ((84, 84), (57, 112), (60, 130)),
)
QUICK = ("llava_next", "qwen3_vl", "internvl", "ovis2")
FITS = [
    family if family in QUICK else pytest.param(family, marks=pytest.mark.slow)
    for family in ALL
    if refused(family, "pine") is None
]


def batch(family: str, rows: Sequence[int] = (0, 1, 2)) -> Any:
    """Prompts with two pictures, one, and three."""
    pictures = [[image(*size, seed=10 * row + at) for at, size in enumerate(SHOWN[row])] for row in rows]
    return dict(inputs(family, [TEXTS[row] for row in rows], pictures))


def traded(family: str, order: Sequence[int], same: bool = False) -> Any:
    """One prompt with three pictures, in some order."""
    sizes = [(84, 84)] * 3 if same else [(100, 60), (60, 130), (84, 84)]
    pictures = [image(*sizes[number], seed=number) for number in order]
    return dict(inputs(family, ["A <image> or <image> and <image>, which?"], [pictures]))


def segments(target: Any, prompts: Any) -> list[list[list[list[int]]]]:
    """Of each sample the columns of its pictures, each from the first to the last one."""
    ids = prompts["input_ids"]
    placeholder = torch.stack([ids == token for token in adapter_for(target).placeholder_ids.values()]).any(0)
    with vtokens.attach(target, "none") as handle:
        target(**prompts)
        report = handle.report()
    found = []
    for row, sample in enumerate(report.samples):
        places, own = placeholder[row].nonzero()[:, 0].tolist(), []
        for kept in sample.pictures:
            mine, places = places[: len(kept.picture)], places[len(kept.picture) :]
            own.append([*range(mine[0], mine[-1] + 1)])
        found.append([own] if own else [])
    return found


@contextmanager
def reordered(family: str, prompts: Any, pictures: Any = None) -> Iterator[Any]:
    """An untouched model whose rows have pictures in their own order."""
    target = model(family, "plain")
    pictures = segments(model(family, "branch"), prompts) if pictures is None else pictures
    oracle = Reordered(pictures, prompts["attention_mask"].bool(), adapter_for(target).language_model.config)
    with attending(target, cast(Any, oracle)):
        hook = oracle.noting(target)
        yield target
        hook.remove()


@pytest.mark.parametrize(("family", "rows"), [("llava", (0, 1, 2)), ("qwen2_vl", (0, 1)), ("smolvlm", (0,))])
@torch.no_grad()
def test_generation_is_that_of_reordered_pictures(family: str, rows: tuple[int, ...]) -> None:
    """In a ragged batch, whose prompt of one picture is left alone bit for bit."""
    prompts, target = batch(family, rows), model(family, "pruned")
    with reordered(family, prompts) as reference:
        wanted = generated(reference, prompts, 2, do_sample=False)
    plain = generated(target, prompts, 2, do_sample=False)
    with vtokens.attach(target, "pine"):
        got = generated(target, prompts, 2, do_sample=False)
    check_answers(got, wanted)
    for mine, other in zip(got.logits, plain.logits, strict=True):
        assert [not torch.equal(*pair) for pair in zip(mine, other, strict=True)] == [row != 1 for row in rows]


@pytest.mark.parametrize("family", FITS)
@torch.no_grad()
def test_nothing_changes_when_pictures_trade_places(family: str) -> None:
    """As it does without; where a processor writes each picture's size around it, they are of one size."""
    target, same = model(family, "pruned"), family == "ovis2"
    one, other = (traded(family, order, same) for order in ((0, 1, 2), (2, 0, 1)))
    plain = [target(**prompt).logits[0, -1] for prompt in (one, other)]
    with vtokens.attach(target, "pine"):
        got = [target(**prompt).logits[0, -1] for prompt in (one, other)]
    close_pass(got[0], got[1], 2)
    assert not torch.allclose(plain[0], plain[1], atol=0.1)


@torch.no_grad()
def test_nor_when_videos_do_in_half_precision_too() -> None:
    """The text behind a video is numbered from before its last frame."""
    prompts = [
        media("qwen2_5_vl", [["Look ", *order, "what?"]])
        for one in ((clip(2, 84, 56, 1), " and ", clip(3, 100, 60, 2), " and "),)
        for order in (one, (one[2], " and ", one[0], " and "))
    ]
    target = model("qwen2_5_vl", "pruned")
    plain = [target(**prompt).logits[0, -1] for prompt in prompts]
    with vtokens.attach(target, "pine"):
        got = [target(**prompt).logits[0, -1] for prompt in prompts]
    close_pass(got[0], got[1], 2)
    assert not torch.allclose(plain[0], plain[1], atol=0.1)
    half, one = build("llava")[0].half(), batch("llava", (0,))
    with vtokens.attach(model("llava", "pruned"), "pine"), vtokens.attach(half, "pine"):
        whole = model("llava", "pruned")(**one).logits
        close_pass(half(**{**one, "pixel_values": one["pixel_values"].half()}).logits, whole)


@pytest.mark.parametrize("spec", ["cls(keep=0.5)+pine", "uniform(keep=0.4)+m3id+pine"])
@torch.no_grad()
def test_nor_behind_a_pruner_that_looks_at_each_picture_alone(spec: str) -> None:
    target = model("llava_next", "pruned")
    with vtokens.attach(target, spec):
        one, other = (
            generated(target, traded("llava_next", order), 2, do_sample=False) for order in ((0, 1, 2), (1, 2, 0))
        )
    close_pass(torch.stack(one.logits), torch.stack(other.logits), 2)


@torch.no_grad()
def test_pruned_pictures_and_beams_are_those_of_the_oracle() -> None:
    """What is dropped is given to nobody and measured by nobody, and the rest stays where it was in its picture."""
    prompts, target = batch("llava", (0,)), model("llava", "pruned")
    with vtokens.attach(target, "uniform(keep=0.5)+pine") as handle:
        got = generated(target, prompts, 2, do_sample=False, num_beams=2)
        target(**prompts)
        dropped = dropped_keys(handle.report(), prompts["attention_mask"])
    with reordered("llava", prompts) as reference, masking(reference, [one.repeat(2, 1) for one in dropped]):
        wanted = generated(reference, prompts, 2, do_sample=False, num_beams=2)
    check_answers(got, wanted, beams=True)


@pytest.mark.parametrize("few", [pine._FEW, 0])
@torch.no_grad()
def test_later_turns_order_all_pictures_and_the_new_ones_among_themselves(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text turn by one pass of several rows, few or many; a cache that was begun without is refused."""
    monkeypatch.setattr(pine, "_FEW", few)
    target = model("llava", "pruned")
    first, second, third = batch("llava", (0,)), batch("llava", (2,)), inputs("llava", ["And why?"])
    own, new = segments(model("llava", "branch"), first)[0], segments(model("llava", "branch"), second)[0]
    before = first["input_ids"].shape[1]
    pictures = [[*own, *([[column + before for column in one] for one in turn] for turn in new)]]

    def turns(served: Any) -> list[torch.Tensor]:
        logits, cache, mask = [], None, torch.ones(1, 0, dtype=torch.long)
        for turn in (first, second, third):
            mask = torch.cat([mask, torch.ones_like(turn["input_ids"])], 1)
            given = {name: part for name, part in turn.items() if name != "attention_mask"}
            out = served(**given, attention_mask=mask, past_key_values=cache, use_cache=True)
            logits.append(out.logits)
            cache = out.past_key_values
        return logits

    with reordered("llava", first, pictures) as reference:
        wanted = turns(reference)
    with vtokens.attach(target, "pine"):
        got = turns(target)
    for mine, theirs in zip(got, wanted, strict=True):
        close_pass(mine, theirs)
    with vtokens.attach(target, "vaf"):
        cache = target(**first, use_cache=True).past_key_values
    with vtokens.attach(target, "pine"), pytest.raises(ValueError, match="read without 'pine': begin with an empty"):
        target(**third, past_key_values=cache)


@torch.no_grad()
def test_rows_have_their_own_and_a_static_cache_does_as_well() -> None:
    target, _ = build("llava")
    check_programs(
        target,
        batch("llava"),
        ["pine", "pine", "cls(keep=0.5)+pine"],
        **{**GREEDY, "max_new_tokens": 2, "min_new_tokens": 2},
    )
    with vtokens.attach(target, "pine"):
        moving, fixed = (
            generated(target, batch("llava", (0,)), 3, do_sample=False, **kind)
            for kind in ({}, {"cache_implementation": "static", "disable_compile": True})
        )
    close_pass(torch.stack(fixed.logits), torch.stack(moving.logits))


@pytest.mark.parametrize(
    ("family", "spec", "why"),
    [
        ("gemma3", "pine", "those of a Gemma3ForConditionalGeneration see themselves both ways"),
        ("qwen3_5", "pine", "has no attention, but keeps a state in place of keys"),
        ("aya_vision", "pine", "has layers of kind 'sliding', to which it goes on mattering"),
        ("glm4v", "pine", "'pine' moves rotates dimension d of a head with d [+] D/2"),
        ("llava", "vaf+pine", "would weigh attention twice"),
        ("llava", "divprune(keep=0.5, positions='compact')+pine", "'divprune' numbers positions anew"),
        ("llava", "shortv+pine", "'shortv' lets visual tokens pass layers without queries"),
        ("llava", "pine+pine", "names 'pine' twice"),
    ],
)
def test_what_it_cannot_do_is_refused(family: str, spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        vtokens.attach(model(family, "branch"), spec)


def test_angles_that_change_with_the_length_are_refused() -> None:
    target, _ = build("llava")
    rope = adapter_for(target).language_model.config.rope_parameters
    for change, why in (({"rope_type": "dynamic"}, "rope_type='dynamic'"), ({"llama_4_scaling_beta": 0.1}, "scales")):
        kept = dict(rope)
        rope.update(change)
        with pytest.raises(ValueError, match=why):
            vtokens.attach(target, "pine")
        rope.clear()
        rope.update(kept)
