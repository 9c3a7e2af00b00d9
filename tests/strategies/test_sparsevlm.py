"""`sparsevlm`: raters, schedules, and recycling as the released code does it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vtokens
from tests.limits import close
from tests.strategies.helpers import pair, report, three_rows
from tests.strategies.staging import FAMILIES, best, run, shown
from tests.strategies.test_fastv import text_after
from vtokens.strategies import Attention, Facts, get
from vtokens.strategies.merge.sparsevlm import recycled

STORED = Path(__file__).parent / "parity" / "sparsevlm.npz"


def test_clusters_are_those_of_the_release() -> None:
    """What stays, where clusters stand, and their means.

    Stored: stage and `cluster_and_merge` (llava/model/language_model/modelling_sparse_llama.py and utils.py of
    Gumpest/SparseVLMs at 14cb5a9 and 8435974), run outside this project on 96 Gaussian tokens of 8 channels, of which
    30 stay (torch seed 11). The release divides a mean by 1e-6 more than its members.
    """
    stored = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(STORED).items()}
    strategy = get("sparsevlm")(keep=int(stored["keep"]), layers=(3,), before=())
    visuals = shown({Attention(2, "raters"): stored["scores"]}, stored["tokens"], 0, 96, prepared=(3,))
    found = strategy.at_layer(visuals, 3)
    assert found is not None
    assert found.weights is not None
    assert found.into is not None
    places = stored["places"].tolist()
    assert found.keep[0].nonzero().flatten().tolist() == sorted([*stored["kept"].tolist(), *places])
    assert found.counts == (30 + len(places),) == (30 + recycled(96, 30)[1],)
    goes = found.into[0][None] == torch.tensor(places)[:, None]
    merged = (goes * found.weights[0]) @ stored["tokens"]
    close(merged / (1 + 1e-6), stored["merged"], terms=20, chain=2, size=stored["tokens"])
    kept = stored["kept"]
    assert torch.equal(found.into[0, kept], kept)
    assert bool((found.weights[0, kept] == 1).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_stage_keeps_what_raters_attend_to(family: str) -> None:
    """Words to which tokens give more than the mean, by softmax over words of products at the decoder's input."""
    found = run(family, "sparsevlm(keep=0.15, recycle=False)")
    shares = (*get("sparsevlm")().shares(0.15), 0.15)
    for seen in found.pictures:
        tokens = [place for one in found.pictures if one.row == seen.row for place in one.places]
        text = text_after(family, found.batch, seen.row, min(tokens))
        entering = found.states[0][seen.row].double()
        rated = torch.stack([(entering[text] @ entering[place]).softmax(0) for place in sorted(tokens)]).mean(0)
        raters = [place for place, value in zip(text, rated, strict=True) if value > rated.mean()]
        for layer, share in zip((1, 2, 3), shares, strict=True):
            before = seen.left[layer - 1]
            scores = found.attentions[layer - 1][seen.row][:, raters].mean((0, 1))[before]
            assert seen.left[layer] == best(scores, before, max(1, int(len(seen.places) * share + 0.5)))


@pytest.mark.parametrize(
    ("keep", "left", "average"),
    [(110 / 576, (300, 200, 110), 206.5), (36 / 576, (303, 110, 36), 145.4), (17 / 576, (66, 30, 17), 82.2)],
)
def test_the_schedules_of_the_release(keep: float, left: tuple[int, ...], average: float) -> None:
    """Behind layers 2, 6 and 15 of 32; "192", "128" and "64" cost 206.5, 145.4 and 82.2 tokens a layer."""
    strategy = get("sparsevlm")(keep=keep)
    assert strategy.prepare(Facts("llava", depth=32, tower_depth=4, has_cls=True)) == (3, 7, 16)
    assert tuple(strategy._left(576, stage) for stage in range(3)) == left
    seen, clusters = [576], []
    for count in left:
        clusters.append(recycled(seen[-1], count)[1])
        seen.append(count + clusters[-1])
    assert round(sum(a * b for a, b in zip(seen, (3, 4, 9, 16), strict=True)) / 32, 1) == average
    assert clusters == {300: [9, 4, 3], 303: [9, 7, 3], 66: [16, 2, 1]}[left[0]]


@torch.no_grad()
def test_merged_tokens_count_in_the_report() -> None:
    """Survivors and recycled tokens are what each layer sees, and generation goes on from them."""
    model, batch = pair("llava")[0], three_rows("llava")
    strategy = get("sparsevlm")(keep=2)
    shares = strategy.shares(2 / 16)
    expected, seen = [16], 16
    for count in (*(max(2, int(16 * share + 0.5)) for share in shares), 2):
        seen = min(seen, count) + recycled(seen, min(seen, count))[1]
        expected.append(seen)
    assert report(model, batch, strategy).samples[0].visual_tokens == tuple(expected)
    with vtokens.attach(model, strategy):
        assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape[0] == 3
