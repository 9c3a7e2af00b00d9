"""Contrast against two untouched sequences, drawn: strategy x settings x family x batch x pictures x decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import MODES, Case, cases, model
from tests.engine.compare import DETAILS
from tests.engine.contrasted import check_answers, contrasted, expect, forgetful, guided, without_pictures
from tests.engine.test_logits import noised
from tests.families import EVERY, image, inputs

END: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": 10**6}


def alone(family: str, case: Case) -> list[dict[str, Any]]:
    """Each row of the batch as a prompt of its own."""
    rows = []
    for row, (text, group) in enumerate(zip(case.prompts, case.sizes, strict=True)):
        pictures = [image(*size, seed=case.seed + 10 * row + number) for number, size in enumerate(group)]
        rows.append(dict(inputs(family, [text], [pictures])))
    return rows


@pytest.mark.fuzz
@pytest.mark.parametrize("family", EVERY)
@settings(max_examples=-(-settings.default.max_examples // len(EVERY)))
@given(
    case=cases().filter(lambda case: case.side == "left"),
    name=st.sampled_from(["pai", "m3id", "vcd"]),
    weight=st.floats(0.0, 1.0),
    beta=st.sampled_from([0.0, 0.01, 0.3]),
    steps=st.integers(0, 999),
)
@torch.no_grad()
def test_contrast(family: str, case: Case, name: str, weight: float, beta: float, steps: int) -> None:
    plain, batch = model(family, "plain"), case.batch(family)
    spec, combine = {
        "pai": (f"pai(gamma={1 + weight}, beta={beta})", guided(1 + weight, beta)),
        "m3id": (f"m3id(forgetting={weight / 4}, beta={beta})", forgetful(weight / 4, beta)),
        "vcd": (f"vcd(alpha={weight}, beta={beta}, steps={steps}, seed={case.seed})", contrasted(weight, beta)),
    }[name]
    others: list[dict[str, Any] | None] = []
    for prompt, group in zip(alone(family, case), case.sizes, strict=True):
        changed = noised(family, prompt, steps, case.seed) if name == "vcd" and group else None
        others.append((changed or without_pictures(prompt, plain)) if group else None)
    options = {**MODES[case.mode], **END}
    torch.manual_seed(case.seed)
    with vtokens.attach(model(family, "pruned"), spec):
        got = model(family, "pruned").generate(**batch, **options, **DETAILS)
    torch.manual_seed(case.seed)
    try:
        expected = expect(plain, batch, others, combine, **options)
    except ValueError as error:
        # An answer, or a beam, that holds a placeholder is no prompt that can be fed whole.
        assume("image tokens do not match" not in str(error))
        raise
    check_answers(got, expected, case.mode == "beam")
