"""`sparsevlm_plus`: heads and tokens of the release, each stage against whole attention matrices, far distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.limits import close
from tests.strategies.helpers import pair, refuses
from tests.strategies.staging import FAMILIES, best, run, shown
from tests.strategies.test_fastv import text_after
from vtokens.engine.attention.by_head import LEAST, attention_by_head, effect
from vtokens.strategies import Attention, Facts, get, parse

STORED = Path(__file__).parent / "parity" / "sparsevlm_plus.npz"


def test_heads_and_tokens_are_those_of_the_release() -> None:
    """Which heads count, the scores and what stays, for 48 visual tokens, five raters and 20 heads of width 64.

    Stored: the correction by a rotary embedding of ones, `select_attn_head_by_sum` and `attn_postprocess_topk` of
    version 2.0 (score.py and modelling_sparse_llama.py of SparseVLMs), run outside this project on the softmax of
    Gaussian logits (torch seed 7). Scores are times 8, the square root of the width, by which the release divides.
    """
    stored = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(STORED).items()}
    unit = torch.cat([stored["cos"], stored["sin"]], -1)
    level = effect(unit[None, :5], unit[None, 5:])[0]
    received = (stored["attention"] / level).mean(1).T
    signal = Attention(2, "raters", pool="each", level=True)
    visuals = shown({signal: received}, torch.zeros(48, 8), 0, 48, prepared=(3,))
    strategy = get("sparsevlm_plus")(keep=20, layers=(3,), before=(), heads=0.7)
    found = strategy.at_layer(visuals, 3)
    assert found is not None
    assert found.keep[0].nonzero().flatten().tolist() == stored["kept"].tolist()
    close(strategy.score(visuals, 3)[0], stored["scores"], terms=14 * 5, chain=3, size=stored["scores"])
    mass = received.sum(0)
    assert {*mass.argsort(descending=True)[:14].tolist()} == {*stored["heads"].tolist()}


def far_apart(config: Any, positions: np.ndarray, row: int, query: int, key: int) -> float:
    """The mean cosine of the angles between two positions, frequency by frequency."""
    rope = getattr(config, "rope_parameters", None) or {}
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sections = rope.get("mrope_section") or [width // 2]
    axes = [axis for axis, many in enumerate(sections) for _ in range(many)]
    total = 0.0
    for number, axis in enumerate(axes):
        places = positions[row] if positions.ndim == 2 else positions[axis, row]
        total += np.cos((places[query] - places[key]) * float(rope["rope_theta"]) ** (-2 * number / width))
    return total / len(axes)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_stage_keeps_what_chosen_heads_attend_to(family: str) -> None:
    """Weights over distances, heads and tokens, one after the other, in float64."""
    noted: list[np.ndarray] = []
    eager = pair(family, attn_implementation="eager")[0]
    inside = eager.model.language_model
    hook = inside.rotary_emb.register_forward_pre_hook(
        lambda _, args, kwargs: noted.append((args[1] if len(args) > 1 else kwargs["position_ids"]).double().numpy()),
        with_kwargs=True,
    )
    found = run(family, "sparsevlm_plus(keep=0.15, heads=0.5)")
    hook.remove()
    positions, config = noted[-1], inside.config
    positions = np.broadcast_to(positions, (*positions.shape[:-2], len(found.last), positions.shape[-1]))
    shares = (*get("sparsevlm_plus")().shares(0.15), 0.15)
    for seen in found.pictures:
        tokens = sorted(place for one in found.pictures if one.row == seen.row for place in one.places)
        text = text_after(family, found.batch, seen.row, tokens[0])
        entering = found.states[0][seen.row].double()
        rated = torch.stack([(entering[text] @ entering[place]).softmax(0) for place in tokens]).mean(0)
        raters = [place for place, value in zip(text, rated, strict=True) if value > rated.mean()]
        for layer, share in zip((1, 2, 3), shares, strict=True):
            before, maps = seen.left[layer - 1], found.attentions[layer - 1][seen.row].numpy()
            received = np.zeros((len(maps), len(before)))
            for place, key in enumerate(before):
                for rater in raters:
                    level = max(LEAST, far_apart(config, positions, seen.row, rater, key))
                    received[:, place] += maps[:, rater, key] / level / len(raters)
            heads = sorted(range(len(maps)), key=lambda head: -received[head].sum())[: len(maps) // 2]
            scores = received[heads].mean(0)
            assert seen.left[layer] == best(scores, before, max(1, int(len(seen.places) * share + 0.5)))


def test_far_distances_divide_by_the_least() -> None:
    """Where the effect of the embedding is near 0 or below, as a quarter turn and a half turn of one angle."""
    angle = torch.tensor([[[0.0], [torch.pi / 2], [torch.pi], [1.0]]])
    unit = torch.cat([angle.cos(), angle.sin()], -1)
    expected = torch.tensor([1.0, LEAST, LEAST, float(np.cos(1.0))])
    torch.testing.assert_close(effect(unit[:, :1], unit)[0, 0], expected)
    states = torch.zeros(1, 1, 4, 2)
    found = attention_by_head(states[:, :, :1], states, 1.0, angles=(unit[:, :1], unit))
    torch.testing.assert_close(found[0, :, 0], 0.25 / expected)


@pytest.mark.parametrize(
    ("keep", "left", "average"),
    [
        (118 / 576, (300, 200, 118), 206.8), (60 / 576, (238, 108, 60), 144.1), (28 / 576, (246, 54, 28), 113.9),
        (20 / 576, (66, 34, 20), 81.8),
    ],
)  # fmt: skip
def test_the_schedules_of_the_release(keep: float, left: tuple[int, ...], average: float) -> None:
    """Behind layers 2, 6 and 15 of 32; "192", "128", "96" and "64" tokens."""
    strategy = get("sparsevlm_plus")(keep=keep)
    assert strategy.prepare(Facts("llava", depth=32, tower_depth=4, has_cls=True)) == (3, 7, 16)
    assert tuple(strategy._left(576, stage) for stage in range(3)) == left
    assert round(sum(a * b for a, b in zip((576, *left), (3, 4, 9, 16), strict=True)) / 32, 1) == average


def test_what_cannot_be_is_refused() -> None:
    refuses("sparsevlm_plus(heads=0.0)", r"heads=0\.0 is out of range: a share of the heads in \(0, 1\]")
    refuses("sparsevlm_plus(heads=14)", "heads=14.0 is out of range")
    text = {"model_type": "phi", "num_key_value_heads": 4, "partial_rotary_factor": 0.5}
    partly = pair.__wrapped__("llava", text_config=text)[0]
    with pytest.raises(ValueError, match=r"what Attention\(level=True\) divides by rotates .* level=False"):
        vtokens.attach(partly, parse("sparsevlm_plus"))
    vtokens.attach(partly, parse("sparsevlm_plus(level=False)")).detach()
