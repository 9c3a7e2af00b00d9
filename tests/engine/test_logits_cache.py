"""The negative prompt in the cache: rows reordered, repeated, cropped, copied; later turns; speculative decoding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, one, ragged
from tests.engine.contrasted import contrasted, extended, guided, ruled_out, without_pictures
from tests.engine.test_cache import ROWS, step
from tests.engine.test_logits import GREEDY, TEXT_ONLY, noised
from tests.engine.test_multiturn import followed_by
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

pytestmark = [pytest.mark.parametrize("family", FAMILIES), pytest.mark.usefixtures("no_grad")]
SPECS = ["pai(gamma=2.0, beta=0)", "damro(beta=0, k=3)", "cls(keep=0.5)+vcd(beta=0)"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("how", ROWS)
def test_rows_move_with_their_branch(family: str, spec: str, how: str) -> None:
    """The next token of moved rows is that of rows which were fed in that order."""
    target, batch = model(family, "pruned"), ragged(family)
    order, change = ROWS[how]
    with vtokens.attach(target, spec):
        cache = returned_cache(target(**batch, use_cache=True))
        still = target(**step(family, batch["attention_mask"]), **as_cache(target, copy.deepcopy(cache))).logits
        change(cache)
        ids = step(family, batch["attention_mask"])
        moved = {k: v[..., order, :] if k == "position_ids" else v[order] for k, v in ids.items() if k != "use_cache"}
        got = target(**moved, **as_cache(target, cache)).logits
    close_pass(got, still[order])


@pytest.mark.parametrize("spec", SPECS)
def test_the_end_can_be_cropped(family: str, spec: str) -> None:
    """Tokens go and come again in both, down to the pictures and no further."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, spec):
        cache = returned_cache(target(**batch, use_cache=True))
        after = step(family, batch["attention_mask"], 4)
        first = target(**after, **as_cache(target, cache)).logits
        cache.crop(-4)
        close_pass(target(**after, **as_cache(target, cache)).logits, first)
        cache.crop(-6)  # two tokens of the prompt
        short = {name: value[:, :-2] for name, value in batch.items() if name in ("input_ids", "attention_mask")}
        same = returned_cache(target(**{**batch, **short, **kinds(batch, 2)}, use_cache=True))
        again = step(family, short["attention_mask"], 3)
        expected = target(**again, **as_cache(target, same)).logits
        close_pass(target(**again, **as_cache(target, cache)).logits, expected)
        lengths = [layer.get_seq_length() for layer in cache.layers]
        with pytest.raises(
            ValueError, match=r"cannot crop 40 .*(are those of the negative prompt|come after the pruned)"
        ):
            cache.crop(-40)
        assert [layer.get_seq_length() for layer in cache.layers] == lengths


def kinds(batch: dict[str, Any], less: int) -> dict[str, Any]:
    """`mm_token_type_ids` without its end, where a batch has them."""
    return {name: batch[name][:, :-less] for name in ("mm_token_type_ids",) if name in batch}


def test_a_copy_and_a_fresh_start(family: str) -> None:
    """A copied cache goes its own way; a reset one serves another prompt."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, "pai(gamma=2.0)"):
        cache = returned_cache(target(**batch, use_cache=True))
        other = copy.deepcopy(cache)
        after = step(family, batch["attention_mask"])
        first = target(**after, **as_cache(target, cache)).logits
        assert torch.equal(target(**after, **as_cache(target, other)).logits, first)
        cache.reset()
        assert torch.equal(target(**batch, **as_cache(target, cache)).logits, target(**batch).logits)


@pytest.mark.parametrize("name", ["pai(gamma=2.0, beta=0.02)", "m3id(forgetting=0.2, beta=0.02)"])
def test_a_text_turn_goes_on_in_both(family: str, name: str) -> None:
    """A second turn equals two conversations advanced by hand; its answer is counted from its own start."""
    combine = TEXT_ONLY[name.split("(", maxsplit=1)[0]][1]
    target, plain = model(family, "pruned"), model(family, "plain")
    batch = one(family)
    more = inputs(family, ["And why is it so?"])["input_ids"]
    with vtokens.attach(target, name):
        first = target.generate(**batch, **GREEDY, **DETAILS)
        text = followed_by(first.sequences, more)
        got = target.generate(**text, **GREEDY, **DETAILS, **as_cache(target, returned_cache(first)))
    length = batch["input_ids"].shape[1]
    answer = got.sequences[:, length:]
    for place in range(5):
        seen = answer[:, : answer.shape[1] - 5 + place]
        real, other = (
            plain(**extended(prompt, seen), use_cache=False).logits[0, -1]
            for prompt in (batch, without_pictures(batch, plain))
        )
        expected, mine = combine(real, other, place + 1), ruled_out(got.logits[place][0])
        assert torch.equal(mine.isinf(), expected.isinf())
        close_pass(mine.log_softmax(-1), expected.log_softmax(-1), passes=2)


@pytest.mark.parametrize("first", ["Look: <image> what is this?", "Good morning."], ids=["picture", "text"])
@pytest.mark.parametrize("spec", ["pai(gamma=2.0, beta=0.02)", "vcd(beta=0.02)"])
def test_a_picture_turn(family: str, spec: str, first: str) -> None:
    """A new picture in the second turn; the first had one or none. Each branch is one whole prompt by hand."""
    if family == "llava_onevision" and "<image>" in first:
        pytest.skip("this family cuts a picture into crops only where it stands alone, so the turns are no one prompt")
    target, plain = model(family, "pruned"), model(family, "plain")
    pictures = [[image(100, 60, seed=3)] if "<image>" in first else [], [image(60, 130, seed=4)]]
    turns = [
        dict(inputs(family, [text], [group])) for text, group in zip([first, "And <image>?"], pictures, strict=True)
    ]
    whole = joined(family, turns)
    places = positions(family, plain, whole)
    cut = turns[0]["input_ids"].shape[1]
    with vtokens.attach(target, spec):
        one = target(**turns[0], position_ids=places[..., :cut], use_cache=True)
        rest = {**turns[1], "attention_mask": whole["attention_mask"], "position_ids": places[..., cut:]}
        got = target(**rest, **as_cache(target, returned_cache(one)), use_cache=True)
        after = {"input_ids": torch.tensor([[65]]), "position_ids": places[..., -1:] + 1}
        mask = torch.ones(1, whole["input_ids"].shape[1] + 1, dtype=torch.long)
        then = target(**after, attention_mask=mask, **as_cache(target, returned_cache(got))).logits[0, -1]
    if spec.startswith("pai"):
        other, combine = without_pictures(whole, plain), guided(2.0, 0.02)
    else:
        other, combine = noised(family, whole), contrasted(1.0, 0.02)
    # Text in front of the new picture is contrasted if there was one before.
    real, same_prompt = plain(**whole, use_cache=False).logits[0, cut], not spec.startswith("pai")
    if "<image>" not in first:
        close_pass(got.logits[0, 0], real)
    elif same_prompt:
        expected = combine(real, plain(**other, use_cache=False).logits[0, cut], 1)
        close_pass(ruled_out(got.logits[0, 0]), expected, passes=2)
    for mine, answer in ((got.logits[0, -1], None), (then, torch.tensor([[65]]))):
        real, second = (
            plain(**(fed if answer is None else extended(fed, answer)), use_cache=False).logits[0, -1]
            for fed in (whole, other)
        )
        expected, mine = combine(real, second, 1), ruled_out(mine)
        assert torch.equal(mine.isinf(), expected.isinf())
        close_pass(mine.log_softmax(-1), expected.log_softmax(-1), passes=2)


def joined(family: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Two turns as one prompt."""
    text = {"input_ids", "attention_mask", "mm_token_type_ids"}
    names = {name for turn in turns for name in turn}
    parts = {name: [turn[name] for turn in turns if name in turn] for name in names}
    crops = {len(part[0]) if part.dim() == 5 else 0 for part in parts["pixel_values"]}
    most = max(part.shape[1] for part in parts["pixel_values"]) if parts["pixel_values"][0].dim() == 5 else 0
    if crops and most:  # AnyRes pictures are padded to as many crops
        parts["pixel_values"] = [
            torch.cat([part, part.new_zeros(len(part), most - part.shape[1], *part.shape[2:])], 1)
            for part in parts["pixel_values"]
        ]
    return {name: torch.cat(part, 1 if name in text else 0) for name, part in parts.items()}


def positions(family: str, plain: Any, whole: dict[str, Any]) -> torch.Tensor:
    """The positions that an untouched model gives to one whole prompt."""
    if not family.startswith("qwen"):
        return torch.arange(whole["input_ids"].shape[1])[None]
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    return plain.model.get_rope_index(**{name: whole[name] for name in names})[0]


@pytest.mark.parametrize("spec", [*SPECS, "fastv(keep=0.5)+m3id(forgetting=0.2)"])
def test_speculative_decoding_changes_no_token(family: str, spec: str) -> None:
    """With candidates looked up in the prompt: both branches see them, and lose those that are not taken."""
    target, batch = model(family, "pruned"), one(family)
    options = {**GREEDY, "max_new_tokens": 8}
    with vtokens.attach(target, spec):
        alone = target.generate(**batch, **options)
        assert torch.equal(target.generate(**batch, **options, prompt_lookup_num_tokens=3), alone)


def test_without_a_cache_the_branch_is_fed_whole(family: str) -> None:
    """The same tokens as with one."""
    target, batch = model(family, "pruned"), one(family)
    special = [[token] for token in range(8)] + [[model(family, "plain").config.image_token_id]]
    with vtokens.attach(target, "pai(gamma=2.0)"):
        cached = target.generate(**batch, **GREEDY, bad_words_ids=special)
        assert torch.equal(target.generate(**batch, **GREEDY, bad_words_ids=special, use_cache=False), cached)


def test_a_cache_that_went_on_alone_is_refused(family: str) -> None:
    """A branch that missed tokens cannot be gone on from, and pictures that no branch saw neither."""
    target, batch = model(family, "pruned"), one(family)
    with vtokens.attach(target, "pai"):
        cache = returned_cache(target(**batch, use_cache=True))
    after = step(family, batch["attention_mask"])
    target(**after, **as_cache(target, cache))
    mask = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.long)
    later = {**after, "attention_mask": mask}
    with vtokens.attach(target, "pai"), pytest.raises(ValueError, match="went on for 1 positions without its negative"):
        target(**later, **as_cache(target, cache))
    with vtokens.attach(target, "cls(keep=0.5)"):
        cache = returned_cache(target(**batch, use_cache=True))
    with vtokens.attach(target, "vcd"), pytest.raises(ValueError, match="holds pictures that no negative prompt"):
        target(**after, **as_cache(target, cache))
    again = {**batch, "attention_mask": torch.ones(1, 2 * batch["input_ids"].shape[1], dtype=torch.long)}
    with vtokens.attach(target, "pai"), pytest.raises(ValueError, match="holds pictures that no negative prompt"):
        target(**again, **as_cache(target, cache))
