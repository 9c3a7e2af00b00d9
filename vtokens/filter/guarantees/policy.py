"""Thresholds for a whole policy: the risk of the final text is bounded, after sentences were dropped or regenerated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from vtokens.filter.guarantees.ltt import ltt
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.mentions import Mention

if TYPE_CHECKING:
    from vtokens.core.generate_options import GenerateOptions
    from vtokens.filter.filter import HallucinationFilter

    class PolicyOptions(GenerateOptions, total=False):
        """What `HallucinationFilter.generate` takes by name, beside what a policy decides."""

        retries: Sequence[str]


#: Thresholds tried, strictest first. They must not be chosen by looking at the responses they are tested on.
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


def calibrate_policy(
    hf: HallucinationFilter,
    images: Sequence[Any],
    prompts: Sequence[str],
    label: Callable[[int, list[Mention]], Sequence[bool]],
    risk: Risk = Risk(),  # noqa: B008 (frozen)
    action: str = "regenerate",
    thresholds: Sequence[float] = THRESHOLDS,
    **more: Unpack[PolicyOptions],
) -> Certificate:
    """The largest threshold up to which acting keeps a guarantee about the final texts.

    Writing a sentence again can make it worse, and a stricter threshold writes more of them again. So each threshold is
    run on all samples, and tested on what came out; there are as many runs as thresholds.

    Args:
        hf: a filter with a calibrator that was fitted on other images.
        images, prompts: labelled samples, one entry a response, in random order.
        label: given the number of a sample and the mentions of its final text, whether each is unsupported.
        risk: with `delta`. "share" is of the mentions of the final text.
        action: what is done with flagged sentences (`vtokens.filter.ACTIONS`).
        thresholds: probabilities, strictest first.
        more: as of `HallucinationFilter.generate`: `retries`, and options of `model.generate`.

    Returns:
        A certificate for `hf.generate(..., action, threshold=certificate.threshold)`.

    Raises:
        ValueError: what `policy_threshold` and `HallucinationFilter.generate` raise.
    """
    wrong = np.zeros((len(prompts), len(thresholds)), dtype=int)
    said = np.zeros_like(wrong)
    for column, threshold in enumerate(thresholds):
        outcomes = hf.generate(list(images), list(prompts), action, threshold=threshold, **more)
        for row, (outcome, prompt) in enumerate(zip(outcomes, prompts, strict=True)):
            mentions = hf.judge.extractor(outcome.text, prompt)
            wrong[row, column], said[row, column] = sum(label(row, mentions)), len(mentions)
    generate: dict[str, Any] = {name: value for name, value in more.items() if name != "retries"}
    setting = hf.setting(**generate)
    how = f"{setting.decoding}, {action}" + (f" by {', '.join(more['retries'])}" if "retries" in more else "")
    return policy_threshold(wrong, said, thresholds, risk, setting=replace(setting, decoding=how))


def policy_threshold(
    wrong: ArrayLike,
    said: ArrayLike,
    thresholds: Sequence[float],
    risk: Risk,
    *,
    cap: int | None = None,
    setting: CalibrationSetting | None = None,
) -> Certificate:
    """The last threshold, in the order given, before the first that cannot be shown to keep the guarantee.

    Args:
        wrong, said: (n, thresholds), unsupported and all mentions of what each policy made of each response; the
            responses in random order.
        thresholds: chosen, like their order, without looking at these responses; the last is taken for no filter.
        risk: with `delta`, since nothing is known without it of policies that are not monotone.
        cap: the most mentions a response can have, for "ratio"; by default the most there were.
        setting: goes into the certificate.

    Raises:
        ValueError: a risk without delta, arrays that do not match, or more unsupported mentions than mentions.
    """
    bad, counted = np.asarray(wrong), np.asarray(said)
    if risk.delta is None:
        raise ValueError(f"a policy is tested, so the risk needs delta, the chance that the test fails; got {risk!r}")
    if bad.shape != counted.shape or bad.ndim != 2 or bad.shape[1] != len(thresholds) or not len(bad):
        raise ValueError(
            f"wrong and said must be (responses, {len(thresholds)} thresholds), got {bad.shape} and {counted.shape}"
        )
    if not ((bad >= 0) & (bad <= counted)).all():
        raise ValueError("there cannot be more unsupported mentions than mentions")
    most = max(1, int(counted.max())) if cap is None else cap
    losses: np.ndarray[Any, Any] = (bad > 0) if risk.kind == "any" else bad / np.maximum(1, counted)
    more: dict[str, Any] = {}
    if risk.kind == "ratio":
        losses, more = bad, {"per": counted, "bound": most}
    passed = ltt(losses, risk.alpha, risk.delta, **more)
    total = counted.sum(axis=0)
    observed = bad.sum(axis=0) / np.maximum(1, total) if risk.kind == "ratio" else np.mean(losses, axis=0)
    at = passed[-1] if passed else None
    right = (counted - bad).sum(axis=0)
    return Certificate(
        risk,
        None if at is None else float(thresholds[at]),
        "" if passed else "the first threshold could not be shown to keep the guarantee on so many responses",
        len(bad),
        int(total[-1]),
        int(bad[:, -1].sum()),
        None if at is None else float(observed[at]),
        float(observed[-1]),
        float(right[at] / right[-1]) if at is not None and right[-1] else None,
        most if risk.kind == "ratio" else None,
        setting=setting,
    )
