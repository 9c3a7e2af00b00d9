"""Arguments that nobody declared, drawn: refused wherever tokens are missing, under every strategy, on every way in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import Case, cases, model, share
from tests.engine.masked import decoder_of
from tests.engine.state import snapshot
from tests.families import EVERY, OUTSIDE
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.engine.checks.arguments import KNOWN
from vtokens.engine.state.cache_layers import tracked_layers

SPECS = (
    "cls(keep=0.5)", "fastv(keep=0.5, layer=2)", "random(keep=0.3)+fastv(keep=0.4, layer=3)", "todre(keep=0.4)", "vhr",
    "vhr(divergence='two_branch')", "dymu(thresholds=(0.2, 0.2, 0.2))", "uniform(keep=0.5)+vcd", "pai", "m3id",
    "avisc", "damro(k=3)", "contrast",
)  # fmt: skip
PRUNERS = ("cls(keep=0.5)", "random(keep=0.3)", "uniform(keep=0.5)")  # what runs on families of OUTSIDE
TAKEN = (  # names that decoders of other families have, and such as look like known ones
    "per_layer_inputs", "visual_pos_masks", "deepstack_visual_embeds", "encoder_hidden_states", "image_hidden_states",
    "cross_attention_states", "cache_states", "cached_positions", "position_ids_of_mine", "attention_masks",
)  # fmt: skip
NAMES = st.sampled_from(TAKEN) | st.from_regex(r"[a-z]{3,7}_[a-z]{3,7}", fullmatch=True)
WAYS = ("whole", "generate", "step", "decoder", "text")


def foreign(kind: str, rows: int, width: int) -> Any:
    """Something with an entry a position in it."""
    mine = torch.ones(rows, width)
    found: dict[str, Any] = {
        "rows": mine, "one row": mine[:1], "features": mine[..., None].expand(-1, -1, 8), "flags": mine.bool(),
        "list": [mine], "tuple": (None, mine), "nested": {"of": [{"mine": mine}]},
    }  # fmt: skip
    return found[kind]


ONE = Case("none", ("what is <image> this?",), (((84, 84),),), "left", "greedy", 0, ("sdpa", "sdpa"))
HARMLESS: tuple[Any, ...] = (None, 3, 0.5, "word", [], {"a": 1.0}, torch.tensor(2))


@pytest.mark.fuzz
@settings(max_examples=share(4))
@given(
    family=st.sampled_from([*EVERY, *OUTSIDE]),
    case=cases(),
    number=st.integers(0, len(SPECS) - 1),
    name=NAMES,
    kind=st.sampled_from(["rows", "one row", "features", "flags", "list", "tuple", "nested"]),
    way=st.sampled_from(WAYS),
)
# A name that begins as one of transformers' does; passes behind the prompt; keys outside the sequence.
@example("llava", ONE, 0, "cache_states", "rows", "whole")
@example("gemma3", ONE, 4, "mine_is", "rows", "step")
@example("qwen3_vl", ONE, 8, "mine_is", "rows", "decoder")
@example("mllama", ONE, 0, "mine_is", "rows", "whole")
@torch.no_grad()
def test_what_nobody_declared_is_refused(family: str, case: Case, number: int, name: str, kind: str, way: str) -> None:
    """In a prompt with pictures, and in any later pass over a cache that holds less than was fed, or notes."""
    target, batch = model(family, "pruned"), case.batch(family)
    assume(name not in KNOWN | adapter_for(target).anatomy.arguments and name not in batch)
    target(**batch)  # transformers leaves hooks of its own at the first call
    before, decoder, rows = snapshot(target), decoder_of(target), len(batch["input_ids"])
    outside = family in OUTSIDE
    more = {"input_ids": torch.full((rows, 1), 8)}
    mine = foreign(kind, rows, batch["input_ids"].shape[1] if way in ("whole", "generate") else 1)
    says = pytest.raises(ValueError, match=name)
    with vtokens.attach(target, (PRUNERS if outside else SPECS)[number % len(PRUNERS if outside else SPECS)]):
        begun = target(**batch, use_cache=True)
        cache = returned_cache(begun)
        if way == "whole":
            with says:
                target(**batch, **{name: mine})
            for harmless in HARMLESS:
                assert torch.equal(target(**batch, **{name: harmless}).logits, begun.logits)
        elif way == "generate":
            with says:
                target.generate(**batch, **{name: mine}, max_new_tokens=2)
        elif way == "text":
            got = decoder(**more, **{name: mine}).last_hidden_state
            assert torch.equal(got, decoder_of(model(family, "plain"))(**more, **{name: mine}).last_hidden_state)
        elif tracked_layers(cache) or outside:
            module = target if way == "step" else decoder
            with says:
                module(**more, **as_cache(module, cache), **{name: mine})
            module(**more, **as_cache(module, cache))
    assert snapshot(target) == before
