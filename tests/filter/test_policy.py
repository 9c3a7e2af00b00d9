"""Thresholds for whole policies, on outcomes whose risk is known."""

import numpy as np
import pytest

from vtokens.filter.guarantees.ltt import ltt
from vtokens.filter.guarantees.policy import policy_threshold
from vtokens.filter.guarantees.risk import Risk

THRESHOLDS = (0.1, 0.3, 0.5, 1.0)


def outcomes(n, rates, seed=0):
    """Responses of three mentions, each unsupported at the rate of its policy."""
    wrong = np.random.default_rng(seed).random((n, len(rates), 3)) < np.array(rates)[None, :, None]
    return wrong.sum(axis=2), np.full((n, len(rates)), 3)


@pytest.mark.parametrize("kind", ["any", "share", "ratio"])
def test_the_last_policy_before_one_that_fails(kind):
    wrong, said = outcomes(2000, [0.01, 0.02, 0.4, 0.01])
    found = policy_threshold(wrong, said, THRESHOLDS, Risk(kind, 0.1, 0.1))
    assert found.threshold == 0.3
    by_hand = {"any": (wrong > 0).mean(axis=0), "share": (wrong / 3).mean(axis=0), "ratio": wrong.sum(axis=0) / 6000}
    assert (found.observed, found.unfiltered) == pytest.approx((by_hand[kind][1], by_hand[kind][3]))
    assert (found.n, found.mentions, found.unsupported) == (2000, 6000, wrong[:, 3].sum())
    assert found.kept_supported == pytest.approx((6000 - wrong[:, 1].sum()) / (6000 - wrong[:, 3].sum()))
    assert found.cap == (3 if kind == "ratio" else None)
    if kind == "any":
        assert ltt(wrong > 0, 0.1, 0.1) == [0, 1]


def test_infeasible_policies():
    found = policy_threshold(*outcomes(300, [0.3, 0.01, 0.01, 0.01]), THRESHOLDS, Risk("any", 0.1, 0.1))
    assert found.infeasible
    assert "first threshold could not be shown" in str(found)


def test_false_guarantees_are_rare():
    """Every policy breaks the guarantee by a hair: none may pass in more than a delta of the runs, within 3 SE."""
    rates = [1 - 0.899 ** (1 / 3)] * 4
    passed = [
        not policy_threshold(*outcomes(120, rates, seed), THRESHOLDS, Risk("any", 0.1, 0.2)).infeasible
        for seed in range(300)
    ]
    assert np.mean(passed) <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / 300)


@pytest.mark.parametrize(
    ("wrong", "said", "risk", "message"),
    [
        ([[0] * 4], [[1] * 4], Risk("any", 0.1, None), "the risk needs delta"),
        ([[0] * 3], [[1] * 3], Risk(), r"\(responses, 4 thresholds\), got \(1, 3\)"),
        ([[2] * 4], [[1] * 4], Risk(), "more unsupported mentions than mentions"),
        (np.zeros((0, 4)), np.zeros((0, 4)), Risk(), r"got \(0, 4\)"),
    ],
)
def test_outcomes_that_cannot_be(wrong, said, risk, message):
    with pytest.raises(ValueError, match=message):
        policy_threshold(wrong, said, THRESHOLDS, risk)


@pytest.mark.slow
def test_a_policy_of_the_embedded_model_is_what_its_runs_leave():
    """Counted from the runs themselves; the last threshold lets everything through."""
    from vtokens import scenes
    from vtokens.filter import HallucinationFilter
    from vtokens.filter.calibrators.labels import label_scenes
    from vtokens.filter.guarantees.policy import calibrate_policy

    hf = HallucinationFilter.from_pretrained("scenes-llava")
    asked = scenes.examples("partner-removed", n=24, seed=21, kinds=["caption"])
    images, prompts = [e.image for e in asked], [e.question for e in asked]
    found = calibrate_policy(
        hf, images, prompts, lambda i, mentions: label_scenes(asked[i], mentions), Risk("share", 0.3, 0.2),
        thresholds=(0.2, 1.0), retries=("ban",), do_sample=False,
    )  # fmt: skip
    drafts = [outcome.text for outcome in hf.generate(images, prompts, "flag", do_sample=False)]
    mentions = [hf.judge.extractor(text, prompt) for text, prompt in zip(drafts, prompts, strict=True)]
    wrong = [sum(label_scenes(e, said)) for e, said in zip(asked, mentions, strict=True)]
    assert (found.n, found.mentions, found.unsupported) == (24, sum(map(len, mentions)), sum(wrong))
    assert found.unfiltered == pytest.approx(
        np.mean([w / max(1, len(m)) for w, m in zip(wrong, mentions, strict=True)])
    )
    assert found.setting.decoding == "greedy, regenerate by ban"
    assert found.threshold is not None
