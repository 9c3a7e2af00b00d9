"""Every signal against its formula, written out token by token in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.filter.traced import mention
from vtokens.core.picture import Picture
from vtokens.filter.signals import Signal, features, get_signals, list_signals, parts_for, register
from vtokens.filter.signals.base import Spans, scaled
from vtokens.filter.signals.compactness import Compactness
from vtokens.filter.signals.registry import features_of
from vtokens.filter.trace.trace import Parts, Trace

DEPTH, HEADS, T, N, D = 8, 4, 7, 10, 6
GRID = Picture.of([(1, 2, 5)], [False])
GONE = 3  # a visual token dropped before the first state recorded


MENTIONS = [mention((0, 1)), mention((2,)), mention((4, 5, 6), repeat=True)]


def random_trace(seed: int = 0) -> Trace:
    """A trace of random numbers with every part."""
    draw = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw)

    image_hidden, lens = some(DEPTH + 1, N, D) - 0.5, some(DEPTH + 1, T, N).log()
    kept = torch.ones(N, dtype=torch.bool)
    kept[GONE], image_hidden[:, GONE], lens[:, :, GONE] = False, 0, -torch.inf
    return Trace(
        ids=torch.arange(T), logprob=some(T).log(), entropy=some(T), margin=some(T), depth=DEPTH,
        layers=tuple(range(DEPTH)), visual=some(DEPTH, HEADS, T), spread=some(DEPTH, HEADS, T),
        generated=some(DEPTH, HEADS, T), gaze=some(T, N), kept=kept, picture=torch.zeros(N, dtype=torch.long),
        cell=torch.arange(N), pictures=(GRID,), states=tuple(range(DEPTH + 1)), hidden=some(DEPTH + 1, T, D) - 0.5,
        image_states=tuple(range(DEPTH + 1)), image_hidden=image_hidden, lens_states=tuple(range(DEPTH + 1)), lens=lens,
        contrasts={"no_image": some(T).log(), "dropped": some(T).log(), "blank": some(T).log()},
        divergence=some(DEPTH, HEADS, T),
    )  # fmt: skip


TRACE = random_trace()
TRACE.contrasts |= {
    name: torch.rand(T, generator=torch.Generator().manual_seed(7 + i)).log()
    for i, name in enumerate(("attended", "unattended"))
}
A: dict[str, Any] = {
    name: np.asarray(value, dtype=np.float64)
    for name, value in vars(TRACE).items()
    if isinstance(value, torch.Tensor) and value.is_floating_point()
}
MIDDLE = (1, 2, 3, 4)  # layers 5 to 18 of 32, at the same height in 8


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def similarity(tokens: tuple[int, ...]) -> tuple[float, float]:
    word = np.mean([A["hidden"][DEPTH - 1, k] for k in tokens], axis=0)
    scene = cosine(word, A["hidden"][DEPTH, 0])
    confidence = [np.mean([math.exp(A["lens"][DEPTH, k, j]) for k in tokens]) for j in range(N)]
    best = sorted((j for j in range(N) if j != GONE), key=lambda j: -confidence[j])[:4]
    return scene, float(np.mean([cosine(word, A["image_hidden"][DEPTH, j]) for j in best]))


def context(tokens: tuple[int, ...]) -> float:
    own = [A["hidden"][DEPTH // 2, min(k + 1, T - 1)] for k in tokens]
    word = np.mean(own, axis=0)
    return max(cosine(word, A["image_hidden"][DEPTH // 2, j]) for j in range(N) if j != GONE)


def contrast(name: str, tokens: tuple[int, ...]) -> float:
    other = TRACE.contrasts[name].double().numpy()
    return float(np.mean([A["logprob"][k] - other[k] for k in tokens]))


def strongest(k: int) -> float:
    """One head of four in each middle layer."""
    return sum(max(A["divergence"][layer, :, k]) for layer in MIDDLE)


BY_HAND: dict[str, Callable[[tuple[int, ...]], float]] = {
    "nll": lambda tokens: max(-A["logprob"][k] for k in tokens),
    "entropy": lambda tokens: max(A["entropy"][k] for k in tokens),
    "margin": lambda tokens: max(-A["margin"][k] for k in tokens),
    "likelihood_profile.nll_first": lambda tokens: -A["logprob"][tokens[0]],
    "likelihood_profile.nll_last": lambda tokens: -A["logprob"][tokens[-1]],
    "likelihood_profile.entropy_first": lambda tokens: A["entropy"][tokens[0]],
    "likelihood_profile.entropy_last": lambda tokens: A["entropy"][tokens[-1]],
    "likelihood_profile.margin_first": lambda tokens: -A["margin"][tokens[0]],
    "likelihood_profile.margin_last": lambda tokens: -A["margin"][tokens[-1]],
    "visual_share": lambda tokens: -np.mean([sum(A["visual"][i, :, k].mean() for i in MIDDLE) for k in tokens]),
    **{
        f"visual_profile.{i}": lambda tokens, i=i: -np.mean([A["visual"][i, :, k].mean() for k in tokens])
        for i in MIDDLE
    },
    "generated_share": lambda tokens: np.mean(
        [A["generated"][i, h, k] for i in MIDDLE for h in range(4) for k in tokens]
    ),
    "attention_entropy": lambda tokens: np.mean(
        [A["spread"][i, h, k] for i in MIDDLE for h in range(4) for k in tokens]
    ),
    "head_divergence": lambda tokens: -np.mean([strongest(k) for k in tokens]),
    "image_contrast": lambda tokens: -contrast("no_image", tokens),
    "kept_vs_dropped": lambda tokens: -contrast("dropped", tokens),
    "agser": lambda tokens: contrast("attended", tokens) - contrast("unattended", tokens),
    "lens": lambda tokens: -max(math.exp(A["lens"][i, k, j]) for i in range(1, 9) for k in tokens for j in range(N)),
    "similarity.scene": lambda tokens: -similarity(tokens)[0],
    "similarity.patches": lambda tokens: -similarity(tokens)[1],
    "similarity": lambda tokens: -(0.6 * similarity(tokens)[0] + 0.4 * similarity(tokens)[1]),
    "context_similarity": lambda tokens: -context(tokens),
    "position": lambda tokens: tokens[0],
    "compactness": lambda tokens: 1 - np.max(gaze(tokens)) / np.sum(gaze(tokens)),  # a tenth of 10 tokens is one
    "kind.object": lambda tokens: 1,
    **{f"kind.{kind}": lambda tokens: 0 for kind in ("attribute", "count", "relation", "text")},
}


def gaze(tokens: tuple[int, ...]) -> np.ndarray:
    return np.mean([A["gaze"][k] for k in tokens], axis=0)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7, 1.0])
def test_compactness_is_what_lies_outside_the_heaviest_region(share: float) -> None:
    """Regions by flood fill over a grid of 2 by 5, corners counting as neighbours."""
    [found] = features(TRACE, MENTIONS[:1], [Compactness(share=share)]).values()
    weight = gaze(MENTIONS[0].tokens)
    best = sorted(range(N), key=lambda j: -weight[j])[: round(share * N)]
    left, heaviest = set(best), 0.0
    while left:
        region, edge = set(), {left.pop()}
        while edge:
            at = edge.pop()
            region.add(at)
            near = {j for j in left if abs(j // 5 - at // 5) <= 1 and abs(j % 5 - at % 5) <= 1}
            left -= near
            edge |= near
        heaviest = max(heaviest, sum(weight[j] for j in region))
    assert found == pytest.approx([1 - heaviest / sum(weight)], abs=1e-6)
    blind = random_trace()
    blind.gaze[:] = 0
    assert features(blind, MENTIONS[:1], ["compactness"])["compactness"] == [1.0]
    with pytest.raises(ValueError, match=r"share '1.5'.*a share in \(0, 1\]"):
        Compactness(share=1.5)


def test_every_signal_against_its_formula() -> None:
    from vtokens.filter.signals.similarity import Similarity

    names: list[Any] = [Similarity(most=4) if name == "similarity" else name for name in list_signals()]
    found = features(TRACE, MENTIONS, names)
    assert found.pop("repetition") == [1.0, 1.0, 0.0]
    assert found.keys() == BY_HAND.keys()
    for name, values in found.items():
        assert values == pytest.approx([BY_HAND[name](m.tokens) for m in MENTIONS], abs=2e-6), name


def test_scores_are_features() -> None:
    for signal in get_signals("full"):
        found = features(TRACE, MENTIONS, [signal])
        if list(found) == [signal.name]:
            assert [signal.score(TRACE, m) for m in MENTIONS] == pytest.approx(found[signal.name])
        else:
            with pytest.raises(ValueError, match="gives several numbers"):
                signal.score(TRACE, MENTIONS[0])


def test_agser_has_a_weight_and_is_in_no_set() -> None:
    from vtokens.filter.signals.agser import Agser

    [found] = features(TRACE, MENTIONS[1:2], [Agser(weight=2.0)]).values()
    seen, unseen = (float(TRACE.contrasts[name][2]) for name in ("attended", "unattended"))
    assert found == pytest.approx([unseen - 2 * seen], abs=1e-6)
    assert Agser().passes == 2
    for names in ("fast", "full"):
        assert "agser" not in {signal.name for signal in get_signals(names)}


@pytest.mark.parametrize("how", ["first", "last", "mean", "max", "sum"])
def test_tokens_put_together(how: Any) -> None:
    spans = Spans(MENTIONS, TRACE)
    values = TRACE.visual.double()
    by_hand = {
        "first": lambda part: part[..., 0],
        "last": lambda part: part[..., -1],
        "mean": lambda part: part.mean(-1),
        "max": lambda part: part.amax(-1),
        "sum": lambda part: part.sum(-1),
    }[how]
    expected = torch.stack([by_hand(values[..., list(m.tokens)]) for m in MENTIONS], -1)
    torch.testing.assert_close(spans.over(values, how), expected)


def test_no_mentions_and_everything_dropped() -> None:
    assert set(map(tuple, features(TRACE, [], "full").values())) == {()}
    gone = random_trace(1)
    gone.kept[:], gone.image_hidden[:], gone.lens[:] = False, 0, -torch.inf
    found = features(gone, MENTIONS, "full")
    assert all(math.isfinite(value) for values in found.values() for value in values)
    assert found["context_similarity"] == found["lens"] == [0.0, 0.0, 0.0]


def test_layers_scale_with_depth() -> None:
    assert list(scaled(5, 18, 32)) == list(range(5, 19))
    assert tuple(scaled(5, 18, 8)) == MIDDLE
    for depth in range(1, 100):
        layers = scaled(5, 18, depth)
        assert 0 <= layers[0] <= layers[-1] < depth


def test_sets_and_what_they_cost() -> None:
    fast, full = get_signals("fast"), get_signals("full")
    assert {signal.name for signal in full} == set(list_signals()) - {"agser"}
    assert {s.name for s in full} - {s.name for s in fast} == {
        "head_divergence", "image_contrast", "kept_vs_dropped", "lens", "compactness"
    }  # fmt: skip
    assert parts_for("fast", 32).passes == 0
    assert parts_for("fast", 32).on(range(32)).layers == frozenset(range(5, 19))
    # The text alone serves both head_divergence and image_contrast.
    assert parts_for("full", 32).passes == 2
    assert {s.name: s.passes for s in full if s.passes} == dict.fromkeys(
        ["head_divergence", "image_contrast", "kept_vs_dropped"], 1
    )
    for signal in (*full, *get_signals("agser")):
        assert signal.paper
        assert len(set(signal.says)) == 2
        assert (type(signal).__doc__ or "").strip()


def test_a_trace_recorded_for_one_signal_serves_it_alone() -> None:
    """Without what a signal reads there is an error that says so."""
    bare = random_trace()
    bare.layers, bare.states, bare.image_states, bare.lens_states = (), (), (), ()
    bare.contrasts, bare.divergence = {}, None
    for signal in get_signals("full"):
        if signal.parts(DEPTH) == Parts():
            features(bare, MENTIONS, [signal])
        else:
            with pytest.raises(ValueError, match="this trace"):
                features(bare, MENTIONS, [signal])


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"unknown signal 'visual_shar'\. Did you mean 'visual_share'"):
        get_signals(["visual_shar"])
    with pytest.raises(ValueError, match="named twice"):
        get_signals(["nll", "nll"])
    with pytest.raises(TypeError, match="3 is no signal"):
        get_signals([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="has no tokens"):
        features(TRACE, [mention(())])
    with pytest.raises(ValueError, match="of a response of 7"):
        features(TRACE, [mention((6, 7))])
    from vtokens.filter.signals.head_divergence import HeadDivergence
    from vtokens.filter.signals.image_contrast import ImageContrast
    from vtokens.filter.signals.nll import Nll
    from vtokens.filter.signals.similarity import Similarity

    for make, message in (
        (lambda: Nll(over="median"), "unknown way to put tokens together 'median'"),  # type: ignore[arg-type]
        (lambda: ImageContrast(without="noise"), "unknown view without the picture 'noise'"),  # type: ignore[arg-type]
        (lambda: HeadDivergence(share=1.5), "share=1.5 is out of range"),
        (lambda: Similarity(weight=-1), "weight=-1 is out of range"),
        (lambda: Similarity(most=0), "most=0 is not allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_signal_of_ones_own() -> None:
    @register("always_one", paper="a test")
    @dataclass(frozen=True)
    class One(Signal):
        def values(self, trace: Trace, spans: Spans) -> dict[str, torch.Tensor]:
            return {self.name: torch.ones(len(spans.mentions))}

    try:
        assert features(TRACE, MENTIONS, ["always_one", "position"])["always_one"] == [1.0] * 3
        with pytest.raises(ValueError, match="'always_one' is taken"):
            register("always_one")(type("Other", (Signal,), {}))
    finally:
        from vtokens.filter.signals import registry

        del registry._signals["always_one"]


def test_signals_of_several_dtypes_keep_their_numbers() -> None:
    """All are read from the device at once, which must not bring them to one dtype: float32 cannot hold this count."""

    @dataclass(frozen=True)
    class Count(Signal):
        name: ClassVar[str] = "count"

        def values(self, trace: Trace, spans: Spans) -> dict[str, torch.Tensor]:
            return {self.name: torch.full((len(spans.mentions),), 2**40 + 1)}

    found = features_of([TRACE, TRACE], [MENTIONS, MENTIONS[1:2]], ["nll", Count(), "position"])
    assert [one["count"] for one in found] == [[2**40 + 1] * 3, [2**40 + 1]]
    for one, some in zip(found, (MENTIONS, MENTIONS[1:2]), strict=True):
        alone = features(TRACE, some, ["nll", "position"])
        assert {name: one[name] for name in alone} == alone
