"""Virtual unmerging in the decoder equals a full-length model in which merged tokens are copies, drawn and by hand."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import MODES, Case, cases, model
from tests.engine.compare import TOLERANCE, check_tokens
from tests.engine.unmerged import before_and_with, copies, gone, unmerged
from tests.families import FAMILIES

NEW = 3
THRESHOLDS = ("(0.6, 0.5, 0.5)", "(0.3, 0.3, 0.3)", "(0.75,)", "(-1.0, -1.0, -1.0)", "(1.0, 0.4)")
AFTER = (
    "+fastv(keep=0.5, layer=2)",
    "+fastv(keep=0.6, layer=1, query_scope='all_text')",
    "+uniform(keep=0.5)",
    "+todre(keep=0.7, exit_threshold=2.0, exit_depth=0.5)",
)


@st.composite
def merging(draw: st.DrawFn) -> str:
    """DyMU, at times between pruners."""
    before = draw(st.sampled_from(["", "", "cls(keep=0.6)+", "random(keep=0.5, seed=1)+"]))
    after = draw(st.sampled_from(["", "", *AFTER]))
    return f"{before}dymu(thresholds={draw(st.sampled_from(THRESHOLDS))}){after}"


def generate(target: Any, batch: dict[str, Any], case: Case) -> Any:
    """`NEW` tokens under the case's mode, with the scores they were chosen by."""
    torch.manual_seed(case.seed)
    return target.generate(
        **batch, **MODES[case.mode], max_new_tokens=NEW, min_new_tokens=NEW,
        return_dict_in_generate=True, output_logits=True, output_scores=True,
    )  # fmt: skip


@torch.no_grad()
def check(family: str, case: Case, spec: str) -> None:
    """Logits of a plain call, generated tokens, and what the cache holds."""
    target, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
    batch = case.batch(family)
    before, report, features = before_and_with(target, spec, batch)
    numbers = copies(target, batch, features, before)
    valid = batch["attention_mask"]
    dropped = gone(report, numbers, valid)
    with vtokens.attach(target, spec):
        output = target(**batch, use_cache=True)
    with unmerged(reference, numbers, dropped, [(batch, features)]):
        expected = reference(**batch).logits
    for row, sample in enumerate(report.samples):
        fed = valid[row].bool() & ~dropped[-1][row]
        torch.testing.assert_close(output.logits[row, fed], expected[row, fed], rtol=0, atol=TOLERANCE)
        assert sample.visual_tokens[0] == len(set(numbers[row].tolist()) - {-1}) or "uniform" in spec or "todre" in spec
    places = torch.arange(valid.shape[1])
    behind = (places > (valid * places).amax(1, keepdim=True)).sum(1)  # right padding travels along
    for index, layer in enumerate(output.past_key_values.layers):
        seen = torch.tensor([len(sample.positions[index]) for sample in report.samples])
        assert layer.keys.shape[2] in (int((seen + behind).max()), valid.shape[1])
        assert layer.get_seq_length() == valid.shape[1]
    beams = MODES[case.mode].get("num_beams", 1)
    with vtokens.attach(target, spec):
        got = generate(target, batch, case)
    wide = [part.repeat_interleave(beams, dim=0) for part in dropped]
    with unmerged(reference, numbers.repeat_interleave(beams, dim=0), wide, [(batch, features)]):
        check_tokens(got, generate(reference, batch, case), NEW)


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
def test_unmerged_equals_copies(family: str) -> None:
    """Every family x padding x pictures x decoding, alone and between pruners."""

    @settings(max_examples=-(-settings.default.max_examples // (2 * len(FAMILIES))))
    @given(cases(), merging())
    def holds(case: Case, spec: str) -> None:
        check(family, case, spec)

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed(FAMILIES.index(family))(holds)
    holds()
