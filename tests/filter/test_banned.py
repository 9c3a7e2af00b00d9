"""Banned sequences, against looking at every row by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.actions.banned import Banned

TOKENS = st.integers(0, 3)
SEQUENCES = st.lists(st.lists(TOKENS, min_size=1, max_size=3), max_size=4)


@given(st.lists(SEQUENCES, min_size=1, max_size=3), st.integers(1, 2), st.integers(1, 5), st.data())
def test_only_what_would_complete_a_sequence_is_impossible(sequences, copies, length, data):
    rows = len(sequences) * copies
    ids = data.draw(st.lists(st.lists(TOKENS, min_size=length, max_size=length), min_size=rows, max_size=rows))
    scores = torch.arange(rows * 4.0).view(rows, 4)
    found = Banned(sequences, "cpu", copies)(torch.tensor(ids), scores)
    for row in range(rows):
        for token in range(4):
            written = [*ids[row], token]
            banned = any(written[-len(one) :] == one and len(one) <= len(written) for one in sequences[row // copies])
            assert found[row, token] == (-torch.inf if banned else scores[row, token])


def test_nothing_banned_leaves_the_scores():
    scores = torch.randn(2, 5)
    assert torch.equal(Banned([[], []], "cpu")(torch.zeros(2, 3, dtype=torch.long), scores), scores)
