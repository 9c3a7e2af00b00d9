"""Caches that hold merged tokens under what `generate`, chat loops and callers do to caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, one, ragged
from tests.engine.test_cache import MERGED, ROWS, step
from tests.engine.unmerged import before_and_with, copies, gone, unmerged
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

SPECS = [MERGED, "cls(keep=0.7)+dymu(thresholds=(0.5, 0.4, 0.4))+fastv(keep=0.6, layer=2)"]

pytestmark = [pytest.mark.parametrize("family", FAMILIES), pytest.mark.usefixtures("no_grad")]


def oracle_of(family: str, batch: dict[str, Any], spec: str) -> tuple[Any, Any, Any]:
    """Numbers of copies, what is gone by layer, and the features, of one batch."""
    target = model(family, "pruned")
    before, report, features = before_and_with(target, spec, batch)
    numbers = copies(target, batch, features, before)
    return numbers, gone(report, numbers, batch["attention_mask"]), (batch, features)


@pytest.mark.parametrize("how", ROWS)
def test_rows_move_with_their_copies(family: str, how: str) -> None:
    """Rows with different numbers of tokens in different places."""
    target, reference, batch = model(family, "pruned"), model(family, "plain"), ragged(family)
    order, change = ROWS[how]
    numbers, dropped, features = oracle_of(family, batch, SPECS[1])
    with vtokens.attach(target, SPECS[1]):
        mine = returned_cache(target(**batch, use_cache=True))
        change(mine)
        then = step(family, batch["attention_mask"][order])
        got = target(**then, **as_cache(target, mine)).logits
    with unmerged(reference, numbers, dropped, [features]):
        theirs = returned_cache(reference(**batch, use_cache=True))
        change(theirs)
    with unmerged(reference, numbers[order], [keys[order] for keys in dropped], []):
        expected = reference(**then, **as_cache(reference, theirs)).logits
    close_pass(got, expected)


def test_the_cache_holds_unique_unrotated_tokens(family: str) -> None:
    """As many rows as tokens are left, in every layer; keys of copies' tokens are projections, not turned ones."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, MERGED) as handle:
        cache = returned_cache(target(**batch, use_cache=True))
        report = handle.report()
        rows = [len(positions) for positions in report.samples[0].positions]
        assert [layer.keys.shape[2] for layer in cache.layers] == rows
        assert rows[0] < batch["input_ids"].shape[1]
        item = cache.layers[0].keys.element_size()
        assert report.kv_bytes == sum(2 * layer.keys.numel() * item for layer in cache.layers)
        layer = target.model.language_model.layers[0]
        held = []
        # Qwen3's keys are normed behind their projection.
        last = getattr(layer.self_attn, "k_norm", layer.self_attn.k_proj)
        hook = last.register_forward_hook(lambda _, __, output: held.append(output))
        keys = returned_cache(target(**batch, use_cache=True)).layers[0].keys
        hook.remove()
    torch.testing.assert_close(keys, held[0].view(1, rows[0], keys.shape[1], -1).transpose(1, 2))


@pytest.mark.parametrize("spec", SPECS)
def test_turns_with_new_pictures_and_without(family: str, spec: str) -> None:
    """Three turns of a ragged batch: pictures, other pictures beside the cached ones, then text and single steps."""
    target, reference = model(family, "pruned"), model(family, "plain")
    turns = [
        dict(inputs(family, ["Is there a cat?", "<image> or <image>", "hi"], [[image(100, 60, seed=0)], [
            image(84, 112, seed=1), image(60, 60, seed=2)], []])),
        dict(inputs(family, ["Yes, and <image>?", "No", "But <image> then"], [[image(60, 130, seed=4)], [], [
            image(57, 112, seed=5)]])),
        dict(inputs(family, ["And so?", "x", "Which of them is red?"])),
        dict(inputs(family, ["a", "b", "c"])),
    ]  # fmt: skip
    valid = torch.cat([turn["attention_mask"] for turn in turns], dim=1)
    places = (valid.cumsum(1) - 1).clamp(min=0)
    mine: Any = None
    theirs: Any = None
    numbers, start = torch.zeros(3, 0, dtype=torch.long), 0
    dropped = [torch.zeros(3, 0, dtype=torch.bool)] * 4
    for number, turn in enumerate(turns):
        width = turn["input_ids"].shape[1]
        part, features = slice(start, start + width), []
        new, lost = torch.full((3, width), -1), [torch.zeros(3, width, dtype=torch.bool)] * 4
        if "pixel_values" in turn:
            new, _, given = oracle_of(family, turn, spec)
            features = [given]
        # One numbering for both models; three equal rows are M-RoPE's own way to number text.
        ids = places[:, part].expand(3, -1, -1) if family.startswith("qwen") else places[:, part]
        call = {**turn, "attention_mask": valid[:, : part.stop], "position_ids": ids, "use_cache": True}
        with vtokens.attach(target, spec) as handle:
            got = target(**call, **as_cache(target, mine))
            if features:  # what FastV keeps depends on what is cached
                lost = gone(handle.report(), new, turn["attention_mask"])
        numbers = torch.cat([numbers, torch.where(new < 0, -1, new + 1000 * number)], 1)
        dropped = [torch.cat(pair, 1) for pair in zip(dropped, lost, strict=True)]
        with unmerged(reference, numbers, dropped, features):
            expected = reference(**call, **as_cache(reference, theirs))
        mine, theirs, start = returned_cache(got), returned_cache(expected), part.stop
        for row in range(3):
            fed = turn["attention_mask"][row].bool() & ~dropped[-1][row, part]
            close_pass(got.logits[row, fed], expected.logits[row, fed])
        assert {layer.get_seq_length() for layer in mine.layers} == {part.stop}
    assert mine.layers[0].keys.shape[2] < theirs.layers[0].keys.shape[2]


@pytest.mark.parametrize("spec", SPECS)
def test_generate_goes_on_from_the_cache(family: str, spec: str) -> None:
    """A second turn through `generate`, as chat loops do it: the whole text again, with the cache."""
    target, reference, batch = model(family, "pruned"), model(family, "plain"), one(family)
    numbers, dropped, features = oracle_of(family, batch, spec)
    more = inputs(family, ["And why is it so?"])["input_ids"]
    with vtokens.attach(target, spec):
        first = target.generate(**batch, **GREEDY, **DETAILS)
        ids = torch.cat([first.sequences, more], 1)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        got = target.generate(**text, **GREEDY, **DETAILS, **as_cache(target, returned_cache(first)))
    with unmerged(reference, numbers, dropped, [features]):
        other = reference.generate(**batch, **GREEDY, **DETAILS)
        expected = reference.generate(**text, **GREEDY, **DETAILS, **as_cache(reference, returned_cache(other)))
    assert torch.equal(got.sequences, expected.sequences)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits))


def test_speculation_and_no_cache_give_the_greedy_tokens(family: str) -> None:
    """Candidates that are refused are cropped again; without a cache every step is a prefill."""
    target, batch = model(family, "pruned"), one(family)
    longer = {**GREEDY, "max_new_tokens": 12, "min_new_tokens": 12}
    with vtokens.attach(target, MERGED):
        plain = target.generate(**batch, **longer)
        assert torch.equal(target.generate(**batch, **longer, prompt_lookup_num_tokens=3), plain)
        assert torch.equal(target.generate(**batch, **longer, use_cache=False), plain)


def test_a_cache_with_merged_tokens_needs_its_strategy(family: str) -> None:
    """Others do not know how to read it, and say so; attached again, it goes on."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, MERGED):
        cache = returned_cache(target(**batch, use_cache=True))
    then = step(family, batch["attention_mask"])
    with vtokens.attach(target, "fastv"), pytest.raises(ValueError, match="this cache holds merged tokens"):
        target(**then, **as_cache(target, cache))
    with vtokens.attach(target, MERGED):
        assert target(**then, **as_cache(target, cache)).logits.isfinite().all()


def test_a_text_prompt_behind_a_picture_prompt(family: str) -> None:
    """No picture, nothing merged: the very bits of the plain model, whatever ran before."""
    target, plain = model(family, "pruned"), model(family, "plain")
    text = inputs(family, ["hello there, what is this?", "a"])
    with vtokens.attach(target, MERGED):
        target.generate(**one(family), **GREEDY)
        assert torch.equal(target.generate(**text, **GREEDY), plain.generate(**text, **GREEDY))
        assert torch.equal(target(**text).logits, plain(**text).logits)
