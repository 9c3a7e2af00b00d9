"""VMTC against K-means written token by token, and against itself where nothing is merged."""

from __future__ import annotations

import pytest
import torch

import vtokens
from tests.engine.compare import ragged
from tests.families import build
from tests.limits import close
from tests.strategies.invariants import Shown, drawn, visuals
from vtokens.strategies import Selection, parse
from vtokens.strategies.merge.vmtc import Vmtc


def by_hand(shown: Shown, count: int, primary: int, rounds: int) -> tuple[list[int], dict[int, list[int]]]:
    """Primary tokens, and each merged one's place -> its members; sums of squares one after the other, in float64."""
    scores, tokens = shown.saliency.tolist(), shown.tokens.double().tolist()
    first = sorted(range(len(scores)), key=lambda place: -scores[place])[:primary]
    rest, many = [place for place in range(len(scores)) if place not in first], count - primary
    if not many:
        return sorted(first), {}
    means = [tokens[rest[(2 * j + 1) * len(rest) // (2 * many)]] for j in range(many)]

    def far(place: int, mean: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(tokens[place], mean, strict=True))

    for step in range(rounds + 1):
        own = {place: min(range(many), key=lambda j: far(place, means[j])) for place in rest}
        members = [[place for place in rest if own[place] == j] for j in range(many)]
        if step < rounds:
            for j, some in enumerate(members):
                if some:
                    means[j] = [sum(tokens[p][d] for p in some) / len(some) for d in range(len(tokens[0]))]
    found = {}
    for mean, some in zip(means, members, strict=True):
        least = min((far(place, mean) for place in some), default=0.0)
        near = [p for p in some if far(p, mean) <= least + 1e-4 * (far(p, mean) + sum(x * x for x in tokens[p]))]
        if near:
            found[near[0]] = some
    return sorted(first), found


@pytest.mark.parametrize(("keep", "primary", "rounds"), [(8, 0.5, 10), (6, 0.0, 1), (10, 0.8, 3), (8, 1.0, 2)])
def test_clusters_are_those_of_k_means_by_hand(keep: int, primary: float, rounds: int) -> None:
    """Two pictures of a padded batch, each as by itself."""
    strategy = Vmtc(keep=keep, primary=primary, rounds=rounds)
    pictures = [drawn(1, 40), drawn(2, 23)]
    together: Selection = strategy.at_prompt(visuals(strategy, pictures, filler=7.0))
    for row, shown in enumerate(pictures):
        first, merged = by_hand(shown, keep, int(primary * keep + 0.5), rounds)
        alone = visuals(strategy, [shown])
        for seen, got, at in ((visuals(strategy, pictures), together, row), (alone, strategy.at_prompt(alone), 0)):
            assert got.counts is not None
            assert got.counts[at] == keep
            places = got.keep[at].nonzero()[:, 0].tolist()
            assert {*first, *merged} <= {*places}
            assert len(places) == keep
            if got.weights is None:
                assert primary == 1.0
                continue
            assert got.into is not None
            tokens = seen.tokens[at]
            sums = torch.zeros_like(tokens).index_add(0, got.into[at], tokens * got.weights[at, :, None])
            for place in first:
                assert torch.equal(sums[place], tokens[place])
            for place, members in merged.items():
                own = [one for one in members if one == place or one not in places]
                close(sums[place], tokens[own].double().mean(0).float(), len(members), 4, tokens)


def test_equal_tokens_still_fill_the_budget() -> None:
    """Clusters without members leave room for tokens by themselves."""
    shown = drawn(3, 20)
    shown.tokens[:] = shown.tokens[:1]
    strategy = Vmtc(keep=6)
    got = strategy.at_prompt(visuals(strategy, [shown]))
    assert int(got.keep.sum()) == 6
    assert got.weights is not None
    assert got.weights.isfinite().all()


@torch.no_grad()
def test_a_model_sees_means_and_keep_all_changes_nothing() -> None:
    model, batch = build("llava")[0], ragged("llava")
    plain = model(**batch).logits
    with vtokens.attach(model, "vmtc(keep=1.0)"):
        assert torch.equal(model(**batch).logits, plain)
    with vtokens.attach(model, "vmtc(keep=6)") as handle:
        merged = model(**batch).logits[0, -1]
        assert [sample.visual_tokens[0] for sample in handle.report().samples] == [6, 12, 0]
    with vtokens.attach(model, "vmtc(keep=6, primary=1.0)"):
        salient = model(**batch).logits[0, -1]
    with vtokens.attach(model, "cls(keep=6)"):
        close(model(**batch).logits[0, -1], salient, 128, 8)
    assert not torch.allclose(merged, salient, atol=1e-2)


@pytest.mark.parametrize("spec", ["vmtc(primary=1.5)", "vmtc(rounds=0)"])
def test_bad_settings_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse(spec)
