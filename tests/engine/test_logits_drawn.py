"""Every contrast against two untouched sequences, drawn: settings x family x batch x pictures x decoding."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.blended import groups
from tests.engine.cases import COUNTS, MODES, SHARES, Case, cases, mixed, model, unseen
from tests.engine.compare import DETAILS
from tests.engine.contrasted import Partly, check_answers, contrasted, expect, forgetful, guided, without_pictures
from tests.engine.masked import dropped_keys
from tests.engine.test_logits import noised
from tests.families import ALL, BLIND, STATEFUL, image, inputs
from vtokens.adapters import adapter_class, adapter_for

CLOSE = 1e-5
"""How near a choice of AvisC may be before rounding could turn it."""
END: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": 10**6}


def alone(family: str, case: Case) -> list[dict[str, Any]]:
    """Each row of the batch as a prompt of its own."""
    rows = []
    for row, (text, group) in enumerate(zip(case.prompts, case.sizes, strict=True)):
        pictures = [image(*size, seed=case.seed + 10 * row + number) for number, size in enumerate(group)]
        rows.append(dict(inputs(family, [text], [pictures])))
    return rows


def seen(family: str, prompt: dict[str, Any], spec: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """bool (1, N), visual tokens of a row and all its placeholders; and what each layer does not see under a pruner."""
    target = model(family, "branch")
    with vtokens.attach(target, spec) as handle:
        target(**prompt)
        report = handle.report()
    places: Tensor = adapter_for(target).placeholders(prompt)["image"]
    visual = torch.zeros_like(places)
    for _, group in groups(report, places):
        visual[0, group] = True
    return visual, places, dropped_keys(report, prompt["attention_mask"])


def outliers(family: str, prompt: dict[str, Any], k: int) -> Partly:
    """DAMRO's other prompt: the `k` tokens of each picture that the tower dwells on, and no newline tokens."""
    visual, places, dropped = seen(family, prompt, f"cls(keep={k})")
    return Partly(prompt, [part | (places & ~visual) for part in dropped])


def blind(family: str, prompt: dict[str, Any], gamma: float, lam: float, others: str) -> Partly:
    """AvisC's other prompt, from whole attention matrices; rejects examples in which rounding could turn a choice."""
    visual, _, dropped = seen(family, prompt, "none")
    maps = model(family, "plain", "eager")(**prompt, output_attentions=True).attentions
    looks = torch.stack([layer[0, :, -1].double().mean(0)[visual[0]] for layer in maps])
    share = looks.sum(1) / looks.sum()
    order = sorted(range(len(share)), key=lambda layer: -float(share[layer]))
    reached = [float(share[order[: count + 1]].sum()) for count in range(len(order))]
    chosen = order[: 1 + sum(total < gamma for total in reached[:-1])]
    mean = looks[chosen].mean(0)
    least = mean.mean() + lam * mean.std()
    gaps = [abs(total - gamma) for total in reached[:-1]] + [float(share[a] - share[b]) for a, b in pairwise(order)]
    assume(min(gaps) > CLOSE and float((mean - least).abs().min()) > CLOSE)
    rest = torch.zeros_like(visual)
    rest[0, visual[0].nonzero()[:, 0][mean < least]] = True
    return Partly(prompt, blank=rest) if others == "zero" else Partly(prompt, [rest] * len(dropped))


@pytest.mark.fuzz
@pytest.mark.parametrize("family", [one for one in (*ALL, *STATEFUL) if "logits" in adapter_class(one).anatomy.stages])
@settings(max_examples=-(-settings.default.max_examples // len(ALL)))
@given(
    case=cases().filter(lambda case: case.side == "left"),
    name=st.sampled_from(["pai", "m3id", "vcd", "lqcd", "contrast", "damro", "avisc"]),
    weight=st.floats(0.0, 1.0),
    beta=st.sampled_from([0.0, 0.01, 0.3]),
    steps=st.integers(0, 999),
    keep=SHARES,
    k=COUNTS,
    others=st.sampled_from(["zero", "drop"]),
)
@torch.no_grad()
def test_contrast(
    family: str, case: Case, name: str, weight: float, beta: float, steps: int, keep: float, k: int, others: str
) -> None:
    assume(not mixed(family, case) and not unseen(family, case.spec))
    plain, batch = model(family, "plain"), case.batch(family)
    first = "uniform" if family in BLIND else "cls"
    branch = (f"{first}(keep={keep})", f"random(keep={keep}, seed={steps})", f"fastv(keep={keep}, layer=2)")[steps % 3]
    gamma, lam = steps / 999, 2 * keep
    texts = replace(case, prompts=tuple(f"Oh! {text}" for text in case.prompts))
    rows, leading, weighted = alone(family, case), alone(family, texts), f"alpha={weight}, beta={beta}"
    text = [without_pictures(row, plain) if group else None for row, group in zip(rows, case.sizes, strict=True)]
    two = contrasted(weight, beta)
    other: Callable[[int], Any]
    spec, combine, other = {
        "pai": (f"pai(gamma={1 + weight}, beta={beta})", guided(1 + weight, beta), text.__getitem__),
        "m3id": (f"m3id(forgetting={weight / 4}, beta={beta})", forgetful(weight / 4, beta), text.__getitem__),
        "vcd": (
            f"vcd({weighted}, steps={steps}, seed={case.seed})", two,
            lambda row: noised(family, rows[row], steps, case.seed),
        ),
        "lqcd": (f"lqcd({weighted})", two, leading.__getitem__),
        "contrast": (
            f"contrast({weighted}, branch={branch!r})", two,
            lambda row: Partly(rows[row], seen(family, rows[row], branch)[2]),
        ),
        "damro": (f"damro({weighted}, k={k})", two, lambda row: outliers(family, rows[row], k)),
        "avisc": (
            f"avisc({weighted}, gamma={gamma}, lam={lam}, others={others})", two,
            lambda row: blind(family, rows[row], gamma, lam, others),
        ),
    }[name]  # fmt: skip
    prompts = [other(row) if group else None for row, group in enumerate(case.sizes)]
    options = {**MODES[case.mode], **END}
    with vtokens.attach(model(family, "pruned"), spec) as handle, ExitStack() as stack:
        if name == "lqcd":
            stack.enter_context(handle.negative_prompt(**texts.batch(family)))
        torch.manual_seed(case.seed)
        got = model(family, "pruned").generate(**batch, **options, **DETAILS)
    torch.manual_seed(case.seed)
    try:
        expected = expect(plain, batch, prompts, combine, **options)
    except ValueError as error:
        # An answer, or a beam, that holds a placeholder is no prompt that can be fed whole.
        assume(not re.search(r"(image|features and) tokens do not match", str(error)))
        raise
    check_answers(got, expected, case.mode == "beam")
