"""Token merging against the definition, written as loops over tokens in float64, and examples worked out by hand."""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import limits
from vtokens.kernels import bipartite_merge, compact, match, merge, pooled_threshold, unmerged_first
from vtokens.kernels.bipartite_merge import TIE


def naive(
    hidden: np.ndarray, size: np.ndarray, metric: np.ndarray, valid: np.ndarray, threshold: float, protect: int
) -> tuple[dict[int, list[int]], dict[int, np.ndarray]]:
    """One sample, one token at a time: members of each row that stays, and its merged features."""
    tokens = [i for i in range(len(valid)) if valid[i]]
    free = tokens[protect:]
    sources = [t for t in free if tokens.index(t) % 2 == 0]
    targets = [t for t in free if tokens.index(t) % 2 == 1]
    members = {t: [t] for t in tokens}
    partner: dict[int, tuple[float, int]] = {}
    for source in sources:
        if not targets:
            break
        cosine = [float(metric[source] @ metric[t]) for t in targets]
        norm = [float(np.linalg.norm(metric[source]) * np.linalg.norm(metric[t])) for t in targets]
        score = [min(1.0, c / n) if n else 0.0 for c, n in zip(cosine, norm, strict=True)]
        # Ties go to the earlier token; who is just no tie any more, or at the threshold, is rounding's to decide.
        best = next(i for i, s in enumerate(score) if s >= max(score) - TIE)
        close = [s for s in score if 1e-6 < max(score) - s < 3 * TIE]
        hypothesis.assume(not close and (threshold >= 1 or abs(score[best] - threshold) > 1e-6))
        if score[best] > threshold:
            partner[source] = score[best], targets[best]
    if len(partner) > len(free) // 2:
        least = min(score for score, _ in partner.values())
        near = [source for source in partner if partner[source][0] - least <= TIE]
        hypothesis.assume(not [s for s, _ in partner.values() if 1e-6 < s - least < 3 * TIE])
        del partner[near[-1]]
    for source, (_, target) in partner.items():
        members[target].append(source)
        del members[source]
    features = {}
    for row, group in members.items():
        total = sum(size[i] for i in group)
        features[row] = sum(size[i] * hidden[i] for i in group) / total
    return members, features


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Ragged batches with sizes, small integer metrics (so that ties and duplicates are common), any threshold."""
    batch, width = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    integers = draw(st.booleans())
    metric = torch.randint(-2, 3, (batch, width, 3), generator=generator).float()
    if not integers:
        metric = metric + torch.randn(batch, width, 3, generator=generator)
    valid = torch.tensor(draw(st.lists(st.booleans(), min_size=batch * width, max_size=batch * width)))
    return {
        "hidden": torch.randn(batch, width, 4, generator=generator),
        "size": torch.randint(1, 5, (batch, width), generator=generator).float(),
        "metric": metric,
        "valid": valid.view(batch, width),
        "threshold": draw(st.sampled_from([-2.0, -0.35, 0.0, 0.15, 0.65, 0.93, 1.0])),
        "protect": draw(st.integers(0, 2)),
    }


@given(problems())
def test_merging_equals_the_loop(problem: dict) -> None:
    """Members, features, sizes and validity, whatever the padding and the protected tokens."""
    got = bipartite_merge(**problem)
    for b in range(len(problem["valid"])):
        one = {k: problem[k][b].double().numpy() for k in ("hidden", "size", "metric")}
        valid = problem["valid"][b].numpy()
        members, features = naive(**one, valid=valid, threshold=problem["threshold"], protect=problem["protect"])
        assert sorted(members) == got.valid[b].nonzero().flatten().tolist()
        for row, group in members.items():
            assert all(int(got.row[b, i]) == row for i in group)
            assert float(got.size[b, row]) == sum(one["size"][i] for i in group)
            np.testing.assert_allclose(got.hidden[b, row].numpy(), features[row], atol=1e-6)


@given(problems())
def test_nothing_is_lost(problem: dict) -> None:
    """Sizes and size-weighted features are conserved, each token has one row, a valid one, and half of them may go."""
    got = bipartite_merge(**problem)
    size, valid = problem["size"] * problem["valid"], problem["valid"]
    torch.testing.assert_close(got.size.sum(1), size.sum(1), rtol=0, atol=0)
    before = (size[..., None] * problem["hidden"]).sum(1)
    limits.close((got.size[..., None] * got.hidden).sum(1), before, terms=32)
    assert got.valid.gather(1, got.row)[valid].all()
    free = (valid.sum(1) - problem["protect"]).clamp(min=0)
    assert (valid.sum(1) - got.valid.sum(1) <= free // 2).all()
    assert not (got.valid & ~valid).any()


@given(problems())
def test_a_threshold_of_one_changes_nothing(problem: dict) -> None:
    """Bit for bit, even where tokens are equal and rounding puts their cosine above 1."""
    got = bipartite_merge(**dict(problem, threshold=1.0))
    assert torch.equal(got.hidden[problem["valid"]], problem["hidden"][problem["valid"]])
    assert torch.equal(got.valid, problem["valid"])
    assert torch.equal(got.size, problem["size"] * problem["valid"])
    assert torch.equal(got.row, torch.arange(got.row.shape[1]).expand_as(got.row))


@given(problems(), st.data())
def test_a_sample_is_merged_as_it_would_be_alone(problem: dict, data: st.DataObject) -> None:
    """Bit for bit: neither the other samples nor where padding lies nor how much there is plays a part."""
    b = data.draw(st.integers(0, len(problem["valid"]) - 1))
    chosen = problem["valid"][b]
    if not chosen.any():
        return
    alone = {k: v[b : b + 1, chosen] if isinstance(v, Tensor) else v for k, v in problem.items()}
    one, all_ = bipartite_merge(**alone), bipartite_merge(**problem)
    for expected, got in ((one.hidden, all_.hidden), (one.size, all_.size), (one.valid, all_.valid)):
        assert torch.equal(expected[0], got[b, chosen])
    places = chosen.nonzero().flatten()
    assert torch.equal(places[one.row[0]], all_.row[b, chosen])


@pytest.mark.parametrize("dim", [64, 96])
def test_batches_of_tower_size_are_bitwise_their_samples(dim: int) -> None:
    """577 tokens as in CLIP-L/14-336, where matrix products take their fast paths."""
    hidden, metric = torch.randn(20, 577, 8), torch.randn(20, 577, dim)
    size, valid = torch.ones(20, 577), torch.ones(20, 577, dtype=torch.bool)
    together = bipartite_merge(hidden, size, metric, valid, 0.3, protect=1)
    assert 300 < int(together.valid[0].sum()) < 577
    for b in range(20):
        one = slice(b, b + 1)
        alone = bipartite_merge(hidden[one], size[one], metric[one], valid[one], 0.3, protect=1)
        assert all(torch.equal(x, y[one]) for x, y in zip(alone, together, strict=True))


def test_sizes_weigh() -> None:
    """(size 1, value 4) and (size 3, value 8) give 7.0 of size 4; the row of the later token takes it."""
    ones = torch.ones(1, 2, dtype=torch.bool)
    got = bipartite_merge(torch.tensor([[[4.0], [8.0]]]), torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, 5), ones, 0.9)
    assert got.hidden[0, 1].item() == 7.0
    assert got.size.tolist() == [[0.0, 4.0]]
    assert got.valid.tolist() == [[False, True]]
    assert got.row.tolist() == [[1, 1]]


def test_the_threshold_is_strict() -> None:
    """A cosine of exactly 0.6 merges at 0.59 and not at 0.6."""
    metric, ones = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), torch.ones(1, 2, dtype=torch.bool)
    score = float(match(metric, ones).score[0, 0])
    assert score == pytest.approx(0.6)
    for threshold, left in ((score, 2), (0.59, 1)):
        merged = bipartite_merge(torch.zeros(1, 2, 1), torch.ones(1, 2), metric, ones, threshold)
        assert int(merged.valid.sum()) == left


def test_the_class_token_is_left_alone() -> None:
    """Equal tokens: position 0 neither merges nor receives, and three sources may share the first target."""
    valid = torch.ones(1, 7, dtype=torch.bool)
    got = bipartite_merge(torch.ones(1, 7, 2), torch.ones(1, 7), torch.ones(1, 7, 3), valid, 0.5, protect=1)
    assert got.valid.nonzero()[:, 1].tolist() == [0, 1, 3, 5]
    assert got.size.tolist() == [[1.0, 4.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    # Parity counts valid tokens, so the second round pairs 3 with 5 although both rows are odd.
    again = bipartite_merge(got.hidden, got.size, torch.ones(1, 7, 3), got.valid, 0.5, protect=1)
    assert again.valid.nonzero()[:, 1].tolist() == [0, 1, 5]
    assert again.size[0, [0, 1, 5]].tolist() == [1.0, 5.0, 1.0]


def test_equal_tokens_end_as_one() -> None:
    """Without a class token, rounds over equal tokens leave a single one that stands for all."""
    hidden, size, valid = torch.full((2, 9, 3), 2.5), torch.ones(2, 9), torch.ones(2, 9, dtype=torch.bool)
    valid[1, :4] = False
    member = torch.arange(9).expand(2, 9)
    for _ in range(5):
        hidden, size, valid, row = bipartite_merge(hidden, size, torch.ones(2, 9, 4), valid, 0.99)
        member = row.gather(1, member)
    assert valid.sum(1).tolist() == [1, 1]
    assert size[valid].tolist() == [9.0, 5.0]
    torch.testing.assert_close(hidden[valid], torch.full((2, 3), 2.5))
    assert member[0].unique().numel() == 1
    assert member[1, 4:].unique().numel() == 1


@pytest.mark.parametrize(("dtype", "big"), [(torch.float16, 6e4), (torch.bfloat16, 3e38)])
def test_extreme_half_precision_values_stay_finite(dtype: torch.dtype, big: float) -> None:
    """Their squares and sums overflow; their mean and their direction do not."""
    hidden = torch.full((1, 6, 4), big).to(dtype)
    metric = torch.tensor([big, 1.0, big, 1.0, -big, big])[None, :, None].expand(1, 6, 3).to(dtype)
    got = bipartite_merge(hidden, torch.full((1, 6), 7.0), metric, torch.ones(1, 6, dtype=torch.bool), 0.5)
    assert got.valid.nonzero()[:, 1].tolist() == [1, 3, 4, 5]
    assert torch.equal(got.hidden[got.valid], hidden[0, :4])


def test_ties_do_not_hang_on_rounding() -> None:
    """Targets equal but for their last digits: the earliest takes the token, wherever the largest cosine is."""
    metric = torch.randn(1, 1, 24).expand(40, 64, 24) * (1 + 4e-7 * torch.randn(40, 64, 24))
    valid = torch.ones(40, 64, dtype=torch.bool)
    assert (match(metric, valid).target == 1).all()


def test_zero_metrics_are_like_nothing() -> None:
    """A vector without direction has cosine 0 with all others."""
    valid = torch.ones(1, 4, dtype=torch.bool)
    assert match(torch.zeros(1, 4, 3), valid).score.tolist() == [[0.0, 0.0]]


def test_many_tokens_are_matched_in_chunks() -> None:
    """More similarities than are held at once: the same partners as one matrix gives."""
    metric = torch.randn(1, 2 * 4200, 4)
    edges = match(metric, torch.ones(1, 8400, dtype=torch.bool))
    unit = torch.nn.functional.normalize(metric[0].double(), dim=1)
    cosine = unit[0::2] @ unit[1::2].T
    best = cosine.amax(1, keepdim=True)
    limits.close(edges.score[0], best[:, 0], terms=32)
    agree = (edges.target[0] == 2 * (cosine >= best - TIE).byte().argmax(1) + 1).float().mean()
    assert agree > 0.999  # float32 may see what is just a tie, or just none, the other way


@given(problems())
def test_compacting_moves_rows_and_changes_none(problem: dict) -> None:
    """Valid rows in their order at the front, and the map says where each went."""
    merged = bipartite_merge(**problem)
    got = compact(merged.hidden, merged.size, merged.valid)
    assert got.hidden.shape[1] == max(1, int(merged.valid.sum(1).max()))
    for b in range(len(merged.valid)):
        old = merged.valid[b].nonzero().flatten()
        assert torch.equal(got.hidden[b, got.valid[b]], merged.hidden[b, old])
        assert torch.equal(got.size[b, got.valid[b]], merged.size[b, old])
        if got.valid.shape[1] < merged.valid.shape[1]:
            assert got.valid[b].tolist() == [i < len(old) for i in range(got.valid.shape[1])]
        assert torch.equal(got.row[b, old], got.valid[b].nonzero().flatten())


def test_pooled_threshold_of_the_worked_example() -> None:
    """Two images, two merges each on average: tau is the fifth edge, .60; one image loses 3 tokens, the other 1."""
    score = torch.tensor([[0.95, 0.90, 0.80, 0.40], [0.70, 0.60, 0.30, 0.20]])
    tau = pooled_threshold(score, 4)
    assert tau == pytest.approx(0.60)
    assert (score > tau).sum(1).tolist() == [3, 1]


def test_pooled_threshold_never_merges_the_unlike() -> None:
    """Rejected edges below 0, missing edges and more merges than edges all give 0; none gives the best edge."""
    score = torch.tensor([[0.5, -0.2, -torch.inf]])
    assert pooled_threshold(score, 1) == 0.0
    assert pooled_threshold(score, 2) == 0.0
    assert pooled_threshold(score, 9) == 0.0
    assert pooled_threshold(score, 0) == 0.5


def test_merged_features_carry_gradients() -> None:
    """Fine-tuning under merging: each token gets its share of its row's gradient."""
    hidden = torch.tensor([[[4.0], [8.0], [1.0]]], requires_grad=True)
    valid = torch.ones(1, 3, dtype=torch.bool)
    edges = match(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]]), valid)
    merged = merge(hidden, torch.tensor([[1.0, 3.0, 1.0]]), valid, edges, 0.5)
    merged.hidden[0, 1].sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [0.25, 0.75, 0.0]


def released(metric: np.ndarray, thresholds: list[float], class_token: bool) -> list[list[int]]:
    """Groups of patches after rounds of merging in the released order: a list of tokens, taken apart and put together.

    Every other token of the list is a source. What is not merged goes in front, targets follow. A token's metric is the
    mean of its patches'.
    """
    tokens = [[patch] for patch in range(len(metric))]
    for threshold in thresholds:
        left, right = tokens[0::2], tokens[1::2]
        mean = {id(token): metric[token].mean(0) for token in tokens}
        mean = {name: value / np.linalg.norm(value) for name, value in mean.items()}
        scores = np.array([[mean[id(a)] @ mean[id(b)] for b in right] for a in left])
        if class_token:
            scores[0] = -np.inf
        best, score = scores.argmax(1), scores.max(1)
        room = (len(tokens) - class_token) // 2
        merging = [i for i in np.argsort(-score, kind="stable")[:room] if score[i] > threshold]
        after = [list(token) for token in right]
        for source in merging:
            after[best[source]] += left[source]
        tokens = [token for i, token in enumerate(left) if i not in merging] + after
    return sorted(sorted(token) for token in tokens)


def in_rounds(metric: np.ndarray, thresholds: list[float], class_token: bool, order: str) -> list[list[int]]:
    """The same by the kernel."""
    count = len(metric)
    hidden, member = torch.from_numpy(metric)[None].float(), torch.arange(count)[None]
    size, valid = torch.ones(1, count), torch.ones(1, count, dtype=torch.bool)
    for threshold in thresholds:
        edges = match(hidden, valid, int(class_token))
        merged = merge(hidden, size, valid, edges, threshold)
        merged = unmerged_first(merged, edges) if order == "release" else merged
        hidden, size, valid, row = compact(*merged[:3])
        member = row.gather(1, merged.row).gather(1, member)
    groups: dict[int, list[int]] = {}
    for patch, token in enumerate(member[0].tolist()):
        groups.setdefault(token, []).append(patch)
    assert size[0, valid[0]].tolist() == [len(groups[token]) for token in valid[0].nonzero().flatten().tolist()]
    return sorted(groups.values())


def test_rounds_in_the_released_order() -> None:
    """Groups of patches after four rounds are those of the release in 24 of 24 draws; in raster order in few."""
    raster = 0
    for seed in range(24):
        rng, class_token = np.random.default_rng(seed), seed % 2 == 1
        metric, thresholds = rng.normal(size=(int(rng.integers(30, 90)), 6)), [0.8, 0.7, 0.6, 0.5]
        expected = released(metric, thresholds, class_token)
        assert in_rounds(metric, thresholds, class_token, "release") == expected
        raster += in_rounds(metric, thresholds, class_token, "raster") == expected
    assert raster <= 2


@pytest.mark.parametrize("protect", [0, 1])
def test_half_of_the_tokens_at_most(protect: int) -> None:
    """Seven tokens that are all alike enough: of four sources the least alike stays, unless the first is protected."""
    angles = torch.tensor([0.0, 0.1, 0.35, 0.2, 0.25, 0.4, 0.42])
    metric, valid = torch.stack([angles.cos(), angles.sin()], -1)[None], torch.ones(1, 7, dtype=torch.bool)
    got = bipartite_merge(torch.ones(1, 7, 2), torch.ones(1, 7), metric, valid, 0.5, protect)
    # The sources at 0, .35, .25 and .42 are .1, .05, .05 and .02 away from the nearest of the targets .1, .2 and .4.
    assert got.valid[0].tolist() == [True, True, False, True, False, True, False]
