"""Pruned equals masked, drawn: every strategy x family x batch x padding x images x decoding."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings

import vtokens
from tests.engine.cases import MODES, Case, cases, examples, mixed, model, refused, replaced
from tests.engine.compare import check_fed, check_tokens, sums
from tests.engine.masked import decoder_layers, dropped_keys, masking
from tests.families import ALL, STATEFUL
from tests.families.copies import with_copies
from vtokens.core.compat import returned_cache

NEW = 3


def generate(target: Any, batch: dict[str, Any], case: Case) -> Any:
    """`NEW` tokens under the case's mode, with the scores they were chosen by."""
    torch.manual_seed(case.seed)
    return target.generate(
        **with_copies(target, batch, MODES[case.mode].get("num_beams", 1)), **MODES[case.mode],
        max_new_tokens=NEW, min_new_tokens=NEW, return_dict_in_generate=True, output_logits=True, output_scores=True,
    )  # fmt: skip


def check_forward(batch: dict[str, Any], pruned: Any, reference: Any, spec: str) -> vtokens.Report:
    """Logits equal the masked model's, and each cache layer holds what its layer saw."""
    with vtokens.attach(pruned, spec) as handle:
        output = pruned(**batch, use_cache=True)
        report = handle.report()
    valid = batch["attention_mask"]
    dropped = dropped_keys(report, valid)
    with masking(reference, dropped):
        expected = reference(**batch).logits
    assert output.logits.shape == expected.shape
    check_fed(output.logits, expected, report, valid, sums(pruned))
    places = torch.arange(valid.shape[1])
    behind = (places > (valid * places).amax(1, keepdim=True)).sum(1)  # right padding travels along
    for index, layer in enumerate(returned_cache(output).layers):
        if not hasattr(layer, "keys"):  # a state
            continue
        seen = torch.tensor([len(sample.positions[index]) for sample in report.samples])
        longest = int((seen + behind).max()) if dropped[index].any() else valid.shape[1]
        window = getattr(layer, "sliding_window", None)  # which lets go of all but the last keys
        held = longest if window is None else min(longest, window - 1)
        assert layer.keys.shape[-2] == layer.values.shape[-2] == held
        assert layer.get_seq_length() == valid.shape[1]
    return report


def check_generate(batch: dict[str, Any], pruned: Any, reference: Any, case: Case, report: vtokens.Report) -> None:
    """Generated tokens equal the masked model's, and `generate` selects as a plain call does."""
    with vtokens.attach(pruned, case.spec) as handle:
        got = generate(pruned, batch, case)
        again = handle.report()
    copies = len(again.samples) // len(report.samples)
    assert copies == MODES[case.mode].get("num_beams", 1)
    for row, sample in enumerate(again.samples):
        for mine, plain in zip(sample.positions, report.samples[row // copies].positions, strict=True):
            assert mine.tolist() == plain.tolist()
    valid = batch["attention_mask"].repeat_interleave(copies, dim=0)
    with masking(reference, dropped_keys(again, valid)):
        expected = generate(reference, batch, case)
    check_tokens(got, expected, NEW, sums(pruned))


def check_keep_all(batch: dict[str, Any], pruned: Any, plain: Any, case: Case) -> None:
    """With `keep=1.0` everywhere nothing changes, to the last bit; strategies without a `keep` say so themselves."""
    own = vtokens.strategies.parse(case.spec)
    if not all(hasattr(strategy, "keep") for strategy in own):
        return
    strategies = [{**vtokens.strategies.to_dict(strategy), "keep": 1.0} for strategy in own]
    with vtokens.attach(pruned, strategies):
        got = pruned(**batch)
        tokens = generate(pruned, batch, case)
    expected = generate(plain, batch, case)
    assert torch.equal(got.logits, plain(**batch).logits)
    assert torch.equal(tokens.sequences, expected.sequences)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(tokens.logits, expected.logits, strict=True))


REFUSED = "|".join(
    (
        "has no attention",
        r"needs \d+ layers? behind layer",
        r"nothing inside the .* can be looked at",
        "what projects its tokens",
        "as a mixture of experts has none",
        "was (not )?measured on a model of",
        r"rotates dimension d of a head with d \+ D/2",
    )
)
"""Why a family refuses a strategy by itself."""


@pytest.mark.fuzz
@pytest.mark.parametrize("family", [*ALL, *STATEFUL])
def test_pruned_equals_masked(family: str) -> None:
    """Logits, generated tokens and cache lengths are those of the masked model; `keep=1.0` changes no bit."""

    @settings(max_examples=examples(family))
    @given(cases())
    @torch.no_grad()
    def holds(case: Case) -> None:
        pruned = model(family, "pruned", case.attention[0])
        reference = model(family, "plain", case.attention[1])
        batch, why = case.batch(family), refused(family, case.spec)
        if why is not None:
            assert re.search(REFUSED, why), why
            with pytest.raises(ValueError, match=REFUSED):
                vtokens.attach(pruned, case.spec)
            return
        if "auto(" in case.spec and replaced(pruned, case.spec):
            return
        report = check_forward(batch, pruned, reference, case.spec)
        if mixed(family, case):
            with vtokens.attach(pruned, case.spec), pytest.raises(ValueError, match="features of the wrong pictures"):
                generate(pruned, batch, case)
            return
        check_generate(batch, pruned, reference, case, report)
        check_keep_all(batch, pruned, model(family, "plain", case.attention[0]), case)
        assert not any(layer._forward_pre_hooks for layer in decoder_layers(pruned))

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed([*ALL, *STATEFUL].index(family))(holds)
    holds()
