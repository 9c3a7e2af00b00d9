"""A `Merger` in the decoder equals a full-length model in which each token is a copy of the one that it goes into."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import MODES, Case, cases, model
from tests.engine.compare import check_tokens
from tests.engine.test_unmerging import NEW, generate
from tests.engine.unmerged import call_features, unmerged
from tests.families import FAMILIES
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.strategies import Merger, Visuals


def drawn(tokens: int, clusters: int, seed: int) -> Tensor:
    """int64 (tokens,): one of `clusters` random tokens for each, the same for pictures of one size."""
    generator = torch.Generator().manual_seed(seed)
    keepers = torch.randperm(tokens, generator=generator)[:clusters]
    members = keepers[torch.randint(len(keepers), (tokens,), generator=generator)]
    members[keepers] = keepers
    return members


@dataclass(frozen=True)
class Clusters(Merger):
    """Every token goes into a random one of a few."""

    name = "clusters"
    clusters: int = 3
    seed: int = 0

    def members(self, visuals: Visuals) -> Tensor:
        out = torch.zeros(visuals.valid.shape, dtype=torch.long)
        for row, count in enumerate(visuals.counts):
            out[row, :count] = drawn(count, self.clusters, self.seed)
        return out


def copied(target: Any, batch: dict[str, Any], strategy: Clusters) -> tuple[Tensor, Any]:
    """What the oracle needs: numbers that say which fed positions are one token, and features that are copies."""
    with vtokens.attach(target, "uniform(keep=0.99)") as handle:
        target(**batch)
        pictures = [part.picture for sample in handle.report().samples for part in sample.pictures]
    parts, labels, own, first = [], [], [], 0
    for picture, features in zip(pictures, call_features(target, batch).pooler_output, strict=True):
        slots = torch.from_numpy((picture.view >= 0).nonzero()[0])
        stands = torch.arange(len(features))
        stands[slots] = slots[drawn(len(slots), strategy.clusters, strategy.seed)]
        label = torch.full((len(features),), -1)
        label[slots] = first + stands[slots]
        parts.append(features[stands])
        labels.append(label)
        own.append(stands)
        first += len(features)
    ids = batch["input_ids"]
    placeholder = torch.stack([ids == token for token in adapter_for(target).placeholder_ids.values()]).any(0)
    numbers = torch.full_like(ids, -1)
    numbers[placeholder] = torch.cat(labels)
    return numbers, SimpleNamespace(pooler_output=parts, stands=own)


@torch.no_grad()
def check(family: str, case: Case, strategy: Clusters) -> None:
    """Logits of a plain call, and generated tokens."""
    target, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
    batch = case.batch(family)
    numbers, features = copied(target, batch, strategy)
    whole = [torch.zeros_like(numbers, dtype=torch.bool)] * len(adapter_for(target).layers)
    with vtokens.attach(target, strategy) as handle:
        got = target(**batch).logits
        kept = [sample.visual_tokens[0] for sample in handle.report().samples]
        written = generate(target, batch, case)
    assert kept == [len(set(row.tolist()) - {-1}) for row in numbers]
    with unmerged(reference, numbers, whole, [(batch, features)]):
        expected = reference(**batch).logits
    valid = batch["attention_mask"].bool()
    close_pass(got[valid], expected[valid])
    beams = MODES[case.mode].get("num_beams", 1)
    wide = [part.repeat_interleave(beams, dim=0) for part in whole]
    with unmerged(reference, numbers.repeat_interleave(beams, dim=0), wide, [(batch, features)]):
        check_tokens(written, generate(reference, batch, case), NEW)


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
def test_merger_equals_copies(family: str) -> None:
    """Every family x padding x pictures x decoding, and drawn assignments."""

    @settings(max_examples=-(-settings.default.max_examples // (4 * len(FAMILIES))))
    @given(cases(), st.builds(Clusters, st.integers(1, 12), st.integers(0, 99)))
    def holds(case: Case, strategy: Clusters) -> None:
        check(family, case, strategy)

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed(FAMILIES.index(family))(holds)
    holds()
