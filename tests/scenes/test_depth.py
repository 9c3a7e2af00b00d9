"""benchmarks/depth.py: what its columns say, on attention worked out by hand and on the embedded model."""

from __future__ import annotations

import pytest
import torch

import vtokens
from benchmarks import depth
from vtokens import scenes


def test_even_attention_draws_once_its_share():
    length = 20
    even = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
    torch.testing.assert_close(depth.drawn(even[None]), torch.ones(length - depth.ROWS))
    shares = depth.looked(even[None], torch.arange(length).lt(15) & torch.arange(length).ge(5))
    torch.testing.assert_close(shares, torch.tensor([0.05, 0.45, 0.5]))


def test_a_sink_draws_all_of_it():
    """Rows 1 to 19 give everything to the first token, where an even share would be 1/2 to 1/20."""
    length = 20
    attention = torch.zeros(2, length, length)
    attention[:, :, 0] = 1
    assert depth.drawn(attention)[0] == pytest.approx(sum(range(2, 21)) / 19)
    assert depth.drawn(attention)[1:].sum() == 0
    assert depth.looked(attention, torch.arange(length) > 9).tolist() == [1, 0, 0]


def test_the_embedded_model_has_read_its_picture_by_the_fifth_layer():
    model, processor = vtokens.load("scenes-llava", "none", attn_implementation="eager")
    sample = scenes.examples("test", 24, kinds=["exist", "where"])
    inputs = [
        dict(processor(images=e.image, text=scenes.prompt(processor, e.question), return_tensors="pt"))
        for e in sample[:2]
    ]
    rows = depth.by_layer(model, inputs)
    assert [row["layer"] for row in rows] == list(range(8))
    for row in rows:
        assert row["first"] + row["text"] + row["picture"] == pytest.approx(1, abs=1e-4)
        assert row["sinks"] == 0  # it has none
    assert depth.without(model, processor, sample, 1, 24) < 0.75
    assert depth.without(model, processor, sample, 6, 24) > 0.9
