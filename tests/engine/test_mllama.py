"""Mllama: visual tokens outside the sequence, which are dropped as keys of cross-attention layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import SHARES, Case, cases, model
from tests.engine.compare import DETAILS, GREEDY, check_tokens
from tests.engine.crossed import closed_columns, closing
from tests.engine.test_pruned_equals_masked import NEW, check_keep_all, generate
from tests.families import image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import probe
from vtokens.core.compat import returned_cache
from vtokens.strategies import Facts, Needs, Saliency, Selection, Strategy, TowerKeys, Visuals

# transformers 5.19's own tower calls its blocks by a name that it warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning"),
    pytest.mark.usefixtures("no_grad"),
]
FAMILY, TOKENS, CROSSING = "mllama", 10, (1, 3)
TERMS = (
    "cls(keep={})", "cls(keep={}, layers=(0, -1))", "random(keep={}, seed=3)", "uniform(keep={})",
    "todre(keep={}, exit_threshold=None)", "cls(keep={}, budget='global')",
)  # fmt: skip


@cache
def mixes() -> bool:
    """Whether the processor takes samples without a picture beside others; that of transformers 5.19 does not."""
    try:
        inputs(FAMILY, ["<image> a", "b"], [[image(40, 40, seed=0)], []])
    except ValueError as error:
        if "at least one image per sample" not in str(error):
            raise
        return False
    return True


def ragged() -> tuple[list[str], list[list[Any]]]:
    """Samples of several tiles, of two images and of none."""
    prompts = ["Look: <image> what is this?", "Compare <image> with <image> please", "hello"]
    groups = [[image(100, 60, seed=0)], [image(40, 40, seed=1), image(150, 40, seed=2)], []]
    return (prompts, groups) if mixes() else (prompts[:2], groups[:2])


@st.composite
def specs(draw: st.DrawFn) -> str:
    """One strategy, or two."""
    return "+".join(draw(st.sampled_from(TERMS)).format(draw(SHARES)) for _ in range(draw(st.sampled_from([1, 1, 2]))))


def with_pictures(case: Case) -> list[int]:
    return [row for row, group in enumerate(case.sizes) if group]


@pytest.mark.fuzz
@settings(max_examples=-(-settings.default.max_examples // 8))
@given(cases(), specs())
@torch.no_grad()
def test_pruned_equals_masked(case: Case, spec: str) -> None:
    """Logits, tokens and cache lengths are those of the masked model; rows without a picture are as alone."""
    hypothesis.assume(all(case.sizes) or mixes())
    case = replace(case, spec=spec)
    pruned, reference = (
        model(FAMILY, role, how) for role, how in zip(("pruned", "plain"), case.attention, strict=True)
    )
    batch = case.batch(FAMILY)
    with vtokens.attach(pruned, spec) as handle:
        output = pruned(**batch)
        report = handle.report()
    closed, rows, real = closed_columns(report, batch, TOKENS), with_pictures(case), batch["attention_mask"].bool()
    with closing(reference, closed):
        expected = reference(**batch).logits
    for row, prompt in enumerate(case.prompts):
        theirs = expected[row, real[row]] if row in rows else reference(**inputs(FAMILY, [prompt])).logits[0]
        close_pass(output.logits[row, real[row]], theirs)
    for number, layer in enumerate(returned_cache(output).layers):
        held = int((~closed).sum(1).max()) if closed.any() else closed.shape[1]
        assert layer.keys.shape[2] == (held if number in CROSSING else batch["input_ids"].shape[1])
    if case.side == "left" and len(rows) == len(case.prompts):
        with vtokens.attach(pruned, spec) as handle:
            got = generate(pruned, batch, case)
            closed = closed_columns(handle.report(), batch, TOKENS)
        with closing(reference, closed):
            check_tokens(got, generate(reference, batch, case), NEW)
    check_keep_all(batch, pruned, model(FAMILY, "plain", case.attention[0]), case)


@pytest.mark.parametrize("spec", ["cls(keep=0.4)", "todre(keep=0.2, exit_threshold=None)", "uniform(keep=3)"])
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_of_a_batch_answer_as_alone(spec: str, beams: int) -> None:
    """Neither padding nor other pictures reach a row, and one without a picture is as if nobody had any."""
    target, (prompts, groups) = model(FAMILY, "pruned"), ragged()
    with vtokens.attach(target, spec):
        together = target.generate(**inputs(FAMILY, prompts, groups), num_beams=beams, **GREEDY, **DETAILS)
        for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            alone = target.generate(
                **inputs(FAMILY, [prompt], [group] if group else None), num_beams=beams, **GREEDY, **DETAILS
            )
            mine = torch.stack(together.logits).unflatten(1, (len(prompts), beams))[:, row]
            close_pass(mine, torch.stack(alone.logits))


def test_scores_are_the_rows_of_class_tokens_in_an_eager_tower() -> None:
    """Each real tile's class token has a vote on all patches of its picture, in the order of the decoder's keys."""
    target, batch = model(FAMILY, "pruned"), dict(inputs(FAMILY, *ragged()))
    maps: list[Tensor] = []
    tower = model(FAMILY, "plain", "eager").model.vision_model
    hook = tower.global_transformer.layers[-1].self_attn.register_forward_hook(lambda *call: maps.append(call[2][1]))
    tower(**{name: batch[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")})
    hook.remove()
    found = probe(target, batch, Saliency())[Saliency()]
    numbers = batch["aspect_ratio_ids"].flatten()
    tiles = batch["aspect_ratio_mask"].flatten(0, 1).sum(1)
    expected = []
    for number, count, matrix in zip(numbers, tiles, maps[0].mean(1), strict=True):
        if number:
            votes = matrix[torch.arange(int(count)) * 16].sum(0).view(4, 16)[:count, 1:TOKENS]
            expected.append(votes.flatten())
    for mine, theirs in zip(found, expected, strict=True):
        close_pass(mine[: len(theirs)], theirs)


def test_tower_keys_stand_at_their_patches() -> None:
    """Those of an eager tower's last block, padding tiles and class tokens left out."""
    target, batch = model(FAMILY, "pruned"), dict(inputs(FAMILY, *ragged()))
    made: list[Tensor] = []
    tower = model(FAMILY, "plain", "eager").model.vision_model
    hook = tower.global_transformer.layers[-1].self_attn.k_proj.register_forward_hook(
        lambda *call: made.append(call[2])
    )
    tower(**{name: batch[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")})
    hook.remove()
    found: list[Tensor] = []

    @dataclass(frozen=True)
    class Reading(Strategy):
        def needs(self, facts: Facts) -> Needs:
            return Needs(signals=(TowerKeys(),))

        def at_prompt(self, visuals: Visuals) -> Selection | None:
            found.extend(visuals.tower_keys())
            return None

    with vtokens.attach(target, Reading()):
        target(**batch)
    numbers, tiles = batch["aspect_ratio_ids"].flatten(), batch["aspect_ratio_mask"].flatten(0, 1).sum(1)
    real = zip(numbers, tiles, made[0], strict=True)
    expected = [keys.view(4, 16, 32)[:count, 1:TOKENS].flatten(0, 1) for number, count, keys in real if number]
    for mine, theirs in zip(found, expected, strict=True):
        close_pass(mine[: len(theirs)].flatten(1), theirs)
