"""A pruned cache under what callers do to caches: rows reordered, selected, repeated; the end cropped; all reset.

The last two also where tokens were merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import SPEC, one, ragged
from tests.engine.masked import dropped_keys, masking
from tests.families import FAMILIES
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

pytestmark = [pytest.mark.parametrize("family", FAMILIES), pytest.mark.usefixtures("no_grad")]
MERGED = "dymu(thresholds=(0.5, 0.4, 0.4))"
ROWS = {
    "reorder": ([2, 0, 1], lambda cache: cache.reorder_cache(torch.tensor([2, 0, 1]))),
    "select": ([1, 1], lambda cache: cache.batch_select_indices(torch.tensor([1, 1]))),
    "repeat": ([0, 0, 1, 1, 2, 2], lambda cache: cache.batch_repeat_interleave(2)),
}


def step(family: str, valid: torch.Tensor, count: int = 1) -> dict[str, Any]:
    """The next `count` tokens after sequences whose cached positions are `valid` (B, N)."""
    ids = 65 + torch.arange(len(valid) * count).view(len(valid), count)
    places = valid.sum(1, keepdim=True) + torch.arange(count)
    if family.startswith("qwen"):  # any numbering will do, if both models get the same
        places = places.expand(3, -1, -1)
    mask = torch.nn.functional.pad(valid, (0, count), value=1)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": places, "use_cache": True}


@pytest.mark.parametrize("how", ROWS)
def test_rows_move_with_their_padding(family: str, how: str) -> None:
    """Rows of different lengths, so that each brings the padding of its own layers along."""
    pruned, reference, batch = model(family, "pruned"), model(family, "plain", "eager"), ragged(family)
    order, change = ROWS[how]
    with vtokens.attach(pruned, SPEC) as handle:
        mine = returned_cache(pruned(**batch, use_cache=True))
        dropped = dropped_keys(handle.report(), batch["attention_mask"])
        change(mine)
        then = step(family, batch["attention_mask"][order])
        got = pruned(**then, **as_cache(pruned, mine)).logits
    with masking(reference, dropped):
        theirs = returned_cache(reference(**batch, use_cache=True))
        change(theirs)
    with masking(reference, [keys[order] for keys in dropped]):
        expected = reference(**then, **as_cache(reference, theirs)).logits
    close_pass(got, expected)


@pytest.mark.parametrize("spec", [SPEC, MERGED])
def test_the_end_can_be_cropped(family: str, spec: str) -> None:
    """Tokens after the pictures go and come again; the pictures themselves cannot be cut into."""
    target, batch = model(family, "pruned"), one(family)
    length = batch["attention_mask"].shape[1]
    with vtokens.attach(target, spec):
        cache = returned_cache(target(**batch, use_cache=True))
        stored = [layer.keys.shape[2] for layer in cache.layers]
        first = target(**step(family, batch["attention_mask"], 4), **as_cache(target, cache)).logits
        cache.crop(-4)
        assert [layer.keys.shape[2] for layer in cache.layers] == stored
        assert torch.equal(target(**step(family, batch["attention_mask"], 4), **as_cache(target, cache)).logits, first)
        cache.crop(-6)
        assert [layer.keys.shape[2] for layer in cache.layers] == [count - 2 for count in stored]
        assert {layer.get_seq_length() for layer in cache.layers} == {length - 2}
        back = step(family, batch["attention_mask"][:, :-2], 2)
        target(**{**back, "input_ids": batch["input_ids"][:, -2:]}, **as_cache(target, cache))
        assert [layer.keys.shape[2] for layer in cache.layers] == stored
        if not family.startswith("qwen"):  # `step` numbers text on, which M-RoPE does not
            then = target(**step(family, batch["attention_mask"], 4), **as_cache(target, cache)).logits
            close_pass(then, first)
        with pytest.raises(ValueError, match=r"cannot crop 30 positions: only .* come after the pruned visual tokens"):
            cache.crop(-30)


@pytest.mark.parametrize("spec", [SPEC, MERGED])
def test_a_reset_cache_serves_another_prompt(family: str, spec: str) -> None:
    """As good as a new one, for a batch of another size too."""
    target, batch = model(family, "pruned"), ragged(family)
    with vtokens.attach(target, spec):
        cache = returned_cache(target(**one(family), use_cache=True))
        cache.reset()
        assert cache.get_seq_length() == 0
        assert torch.equal(target(**batch, **as_cache(target, cache)).logits, target(**batch).logits)
        assert {layer.get_seq_length() for layer in cache.layers} == {batch["input_ids"].shape[1]}
