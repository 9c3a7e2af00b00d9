"""`agilepruner` against a slow walk in float64, effective ranks known by hand, and what must hold of every pruner."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.limits import close
from tests.strategies.invariants import Shown, hold, keeps_all, picks
from tests.strategies.walks import cosines, follows
from vtokens.strategies.prune.agilepruner import AgilePruner, effective_rank

AVERAGE = 4.0  # of pictures as small as these, so that thresholds reach what tokens have between them


def walk(features: np.ndarray, saliency: np.ndarray, count: int) -> list[int]:
    """Down the order of saliency, past what an earlier kept token drops; then from the top, what was dropped."""
    values = np.linalg.svd(features, compute_uv=False)
    share = values / values.sum()
    erank = np.exp(-sum(one * np.log(one) for one in share if one > 0))
    like, order = cosines(features), np.argsort(-saliency, kind="stable")
    kept, dropped = list[int](), set[int]()
    for place, token in enumerate(order, 1):
        if token in dropped or len(kept) == count:
            continue
        kept.append(int(token))
        tau = min(0.01 * place * erank / AVERAGE, 0.6)
        dropped |= {other for other in range(len(order)) if other not in kept and 1 - like[token, other] < tau}
    more = [int(token) for token in order if token not in kept]
    return kept + more[: count - len(kept)]


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_the_kept_tokens_are_those_of_a_slow_walk(family: str) -> None:
    """On the genuine features and saliency of a family, several pictures a row, padded."""
    follows(family, "agilepruner", walk, more=f", average={AVERAGE}, most=0.6")


def test_effective_ranks_known_by_hand() -> None:
    """Of r equal singular values r, of one 1; padding adds nothing."""
    tokens = torch.zeros(3, 4, 6)
    tokens[0, :4, :4] = 2 * torch.eye(4)
    tokens[1, :, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    tokens[2, :2, :2] = torch.eye(2)
    tokens[2, 2:] = 9.0
    valid = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    close(effective_rank(tokens, valid), torch.tensor([4.0, 1.0, 2.0]), 6)


def test_the_threshold_grows_down_the_order() -> None:
    """By hand: 2 and 3 are 0.02 apart, less than tau of 2, which is third, and more than tau of a first place."""
    angles = torch.tensor([0.0, torch.pi, 2.0, 2.2, -1.5])
    tokens = torch.stack([angles.cos(), angles.sin()], 1)
    erank = float(effective_rank(tokens[None], torch.ones(1, 5, dtype=torch.bool)))
    rule = AgilePruner(keep=4, average=erank)  # tau is 0.01, 0.02, 0.03, ...
    assert 0.01 < 1 - float(torch.cos(torch.tensor(0.2))) < 0.03
    falling = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1])
    assert picks(rule, Shown(tokens, falling)) == [[0, 1, 2, 4]]
    assert picks(AgilePruner(keep=4, average=erank, most=0.01), Shown(tokens, falling)) == [[0, 1, 2, 3]]
    assert picks(rule, Shown(tokens[[2, 3, 0, 1, 4]], falling)) == [[0, 1, 2, 3]]
    # What was dropped stays where nothing else is left.
    assert picks(AgilePruner(keep=5, average=erank), Shown(tokens, falling)) == [[0, 1, 2, 3, 4]]


def test_what_holds_for_every_pruner() -> None:
    hold(AgilePruner(keep=5, average=1.0, most=0.9), length=False)
    keeps_all("agilepruner", ["llava"])


@pytest.mark.parametrize("settings", [{"average": 0.5}, {"most": -0.1}, {"most": 2.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        AgilePruner(**settings)
