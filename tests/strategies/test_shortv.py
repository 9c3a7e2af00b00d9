"""ShortV: layers that put visual rows back, and which layers these are."""

from __future__ import annotations

import pytest
import torch

import vtokens
from tests.engine.compare import DETAILS, GREEDY, check_tokens, ragged
from tests.engine.test_rows import Some, passing, put_back
from tests.families import build
from tests.limits import close_pass
from tests.strategies.helpers import refuses
from vtokens.strategies import Facts
from vtokens.strategies.attend.shortv import ShortV

SEVEN = Facts("llava", depth=32, tower_depth=24, has_cls=True, decoder="llama-32x4096x11008")


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_it_is_a_model_whose_layers_put_visual_rows_back(family: str) -> None:
    """In a frozen layer of the paper visual tokens are not updated, and text attends to them all the same."""
    model, _ = build(family)
    batch = ragged(family)
    frozen = passing(model, batch, Some(first=0))
    with put_back(model, frozen, (2, 3)):
        expected, told = model(**batch).logits, model.generate(**batch, **GREEDY, **DETAILS)
    with vtokens.attach(model, "shortv(share=0.5)") as handle:
        got, tokens = model(**batch).logits, model.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    real = batch["attention_mask"].bool()
    close_pass(got[real], expected[real], passes=2)
    check_tokens(tokens, told, GREEDY["max_new_tokens"], passes=2)
    assert report.flops < report.flops_full
    assert report.kv_bytes == report.kv_bytes_full  # nothing is dropped


@torch.no_grad()
def test_no_layer_and_text_alone_change_no_bit() -> None:
    model, _ = build("llava")
    batch, text = ragged("llava"), {"input_ids": torch.full((1, 6), 7)}
    plain, alone = model(**batch).logits, model(**text).logits
    with vtokens.attach(model, "shortv(share=0.0)"):
        assert torch.equal(model(**batch).logits, plain)
    with vtokens.attach(model, "shortv(layers=(0, 1, 2, 3))"):
        assert torch.equal(model(**text).logits, alone)
        assert not torch.equal(model(**batch).logits, plain)


def test_layers_are_those_that_contribute_least() -> None:
    """19 of 32 are what the authors replace in LLaVA-1.5-7B; the first of their list go first."""
    published = {31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19}
    assert {*ShortV().frozen(SEVEN)} == published
    assert ShortV(share=5 / 32).frozen(SEVEN) == (0, 28, 29, 30, 31)
    assert len(ShortV(share=1.0).frozen(SEVEN)) == 32
    other = Facts("qwen2_vl", depth=4, tower_depth=4, has_cls=False, decoder="qwen2_vl-4x64x128")
    assert ShortV(share=0.5).frozen(other) == (2, 3)
    assert ShortV(layers=(-1, 0, 3)).frozen(other) == (0, 3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("shortv(share=1.5)", "a share in"),
        ("shortv(layers=(4,))", "the nearest is 3"),
        ("shortv(layers=(-5,))", "nearest"),
    ],
)
def test_bad_settings_are_refused(spec: str, says: str) -> None:
    refuses(spec, says)
