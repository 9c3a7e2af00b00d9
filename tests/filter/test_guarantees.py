"""Each guarantee over 200 splits of real answers: the embedded model's, scored by its own probabilities."""

import numpy as np
import pytest
import torch

import vtokens
from vtokens import scenes
from vtokens.filter.calibrators.labels import label_scenes
from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.responses import realised
from vtokens.filter.guarantees.risk import Risk
from vtokens.filter.mentions import get_extractor
from vtokens.filter.trace import passes
from vtokens.filter.trace.offsets import token_spans

SPLITS = 200
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answers():
    """Scores and labels by response: captions of scenes whose usual partner is missing, and questions about it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, processor = vtokens.load("scenes-llava", strategy="none", dtype=torch.float32)
    extractor = get_extractor("scenes")
    asked = scenes.examples("partner-removed", n=240, seed=7, kinds=["caption"])
    asked += scenes.examples("test", n=240, seed=8, kinds=["pope_adversarial"])
    scores, labels = [], []
    for start in range(0, len(asked), 40):
        part = asked[start : start + 40]
        traces = passes.generate(
            model, processor, [[e.image] for e in part], [e.question for e in part], do_sample=False
        )
        for example, trace in zip(part, traces, strict=True):
            text, spans = token_spans(processor.tokenizer, trace.ids.tolist())
            found = [mention.with_tokens(spans) for mention in extractor(text, example.question)]
            scores.append([-float(trace.logprob[list(mention.tokens)].mean()) for mention in found])
            labels.append(label_scenes(example, found))
    torch.set_num_threads(threads)
    return scores, labels


def halves(answers, seed):
    """Two parts of the answers, drawn by lot."""
    order = np.random.default_rng(seed).permutation(len(answers[0]))
    cut = len(order) * 2 // 3
    return [[[rows[i] for i in part] for rows in answers] for part in (order[:cut], order[cut:])]


def test_the_answers_are_wrong_often_enough(answers):
    assert realised(*answers, "any", np.inf) > 0.12
    assert realised(*answers, "ratio", np.inf) > 0.04


@pytest.mark.parametrize(("kind", "alpha"), [("any", 0.1), ("any", 0.05), ("share", 0.05)])
def test_marginal_guarantees_hold_on_average(answers, kind, alpha):
    """The mean risk of the held-out third over splits is at most alpha; 3 standard errors of 200 splits are allowed."""
    risks, kept = [], []
    for seed in range(SPLITS):
        calibration, test = halves(answers, seed)
        found = threshold(*calibration, Risk(kind, alpha, None))
        assert not found.infeasible
        risks.append(realised(*test, kind, found.threshold))
        kept.append(found.kept_supported)
    assert np.mean(risks) <= alpha + 3 * np.std(risks) / np.sqrt(SPLITS)
    assert np.mean(risks) > alpha - 0.025  # neither is it kept by dropping everything
    assert np.mean(kept) > 0.5


@pytest.mark.parametrize(("kind", "alpha"), [("any", 0.1), ("share", 0.08), ("ratio", 0.1)])
def test_pac_guarantees_fail_as_rarely_as_they_say(answers, kind, alpha):
    """Over all answers the risk at the threshold exceeds alpha in at most a delta of the splits."""
    delta, failed, found = 0.2, 0, []
    for seed in range(SPLITS):
        calibration, _ = halves(answers, seed)
        found.append(threshold(*calibration, Risk(kind, alpha, delta)))
        failed += realised(*answers, kind, found[-1].threshold) > alpha
    assert failed / SPLITS <= delta + 3 * np.sqrt(delta * (1 - delta) / SPLITS)
    feasible = [certificate for certificate in found if not certificate.infeasible]
    assert len(feasible) > 0.9 * SPLITS
    assert np.mean([certificate.kept_supported for certificate in feasible]) > 0.3


def test_choosing_by_the_observed_risk_breaks_the_guarantee(answers):
    """The largest threshold whose risk on the calibration answers is at most alpha is too large more often than not."""
    alpha, failed = 0.1, 0
    for seed in range(SPLITS):
        scores, labels = halves(answers, seed)[0]
        tried = sorted({s for row in scores for s in row})
        low, high = 0, len(tried)
        while low < high:  # the risk grows with the threshold
            middle = (low + high) // 2
            low, high = (middle + 1, high) if realised(scores, labels, "any", tried[middle]) <= alpha else (low, middle)
        failed += realised(*answers, "any", tried[low - 1]) > alpha
    assert failed / SPLITS > 0.3
