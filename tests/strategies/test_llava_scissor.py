"""`llava_scissor`: components in frames, then over the video, and who joins them, by Kruskal's algorithm over pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_single_linkage import clusters, cosine, kruskal
from tests.limits import close
from tests.strategies.videos import (
    FAMILIES,
    batch,
    by_hand,
    check_batch_equals_alone,
    entered,
    kept,
    moved,
    seen,
    video,
    visuals,
)
from vtokens.core.budget import budget
from vtokens.strategies import parse
from vtokens.strategies.merge.llava_scissor import LlavaScissor

Edge = tuple[float, int, int]


def expected(x: Tensor, _: Tensor, strategy: LlavaScissor) -> tuple[list[int], Tensor]:
    """The tokens that stay of a video (T, P, D), and what becomes of them, in float64."""
    x, (t, p, _) = x.double(), x.shape
    count, flat = budget(t * p, strategy.keep), [*x.flatten(0, 1)]
    edges = [(c, f * p + a, f * p + b) for f in range(t) for c, a, b in kruskal([*x[f]])]
    edges = sorted((e for e in edges if e[0] > strategy.alike), key=lambda e: -e[0])[: t * p - count]
    part = clusters(edges, t * p)
    heads = sorted(set(part))
    means = {head: torch.stack([flat[n] for n in range(t * p) if part[n] == head]).mean(0) for head in heads}
    over = kruskal([means[head] for head in heads])
    whole = clusters(over[: len(heads) - count], len(heads))
    rep = {
        heads[root]: torch.stack([means[head] for n, head in enumerate(heads) if whole[n] == root]).mean(0)
        for root in sorted(set(whole))
    }
    joins: dict[int, list[Tensor]] = {root: [] for root in rep}
    for one in flat:
        like = {root: cosine(one, centre) for root, centre in rep.items()}
        joins[max(like, key=lambda root: (like[root], -root))].append(one)
    return list(rep), torch.stack([torch.stack([rep[r], *joins[r]]).mean(0) for r in rep])


STRATEGIES = st.builds(LlavaScissor, keep=st.floats(0.05, 0.95), alike=st.floats(-0.5, 0.99))
test_as_worked_out_by_hand = by_hand(STRATEGIES, expected, frames=6)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    """Exact counts, and a batch that answers as each video does alone; all tokens are somewhere in what stays."""
    check_batch_equals_alone(family, "llava_scissor(keep=0.4)")
    for total, left, changed in moved(family, "llava_scissor(keep=0.4)"):
        assert left == budget(total, 0.4)
        assert changed > 1e-3


def test_equal_tokens_become_one() -> None:
    """The first of them stays, as it was, for all; rounding is no difference, alone or beside another video."""
    still = video((1, 3, 3), 1).expand(4, 3, 3, -1).contiguous()
    noise = 1 + 1e-7 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    for rows in ([[("video", still * noise)]], [[("video", still * noise)], [("video", video((6, 4, 2), 2))]]):
        assert kept(LlavaScissor(9, alike=1.0), rows)[0] == list(range(9))
    given = batch("qwen2_vl", [(4, 2, 3)])
    given["pixel_values_videos"] = given["pixel_values_videos"][:1].expand(given["pixel_values_videos"].shape)
    ((tokens, _),) = seen("qwen2_vl", given)
    ((found, states),) = entered("qwen2_vl", given, "llava_scissor(keep=1)")
    assert found == [0]
    close(states, tokens[:1], terms=len(tokens))


def test_images_stay_whole() -> None:
    assert kept(LlavaScissor(0.1), [[("image", video((1, 3, 3), 0))]]) == [list(range(9))]
    beside = [[("image", video((1, 3, 3), 0)), ("video", video((3, 2, 2), 1))]]
    assert [len(part) for part in kept(LlavaScissor(0.25), beside)] == [9, 3]


def test_an_image_beside_a_video_enters_as_it_is() -> None:
    """Where tokens of the video go into two, those of the image go into themselves."""
    found = LlavaScissor(0.3).at_prompt(visuals([[("image", video((1, 3, 3), 0)), ("video", video((3, 2, 2), 1))]]))
    assert found is not None
    assert found.into is not None
    assert found.weights is not None
    assert torch.equal(found.into[0, :9, 0], torch.arange(9))
    assert torch.equal(found.weights[0, :9], torch.tensor([[1.0, 0.0]]).expand(9, 2))


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"alike=1.5 is out of range"):
        parse("llava_scissor(alike=1.5)")
