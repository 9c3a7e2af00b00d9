"""YOPO against an untouched model whose masks are edited entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.compare import ragged
from tests.engine.masked import decoder_layers, dropped_keys, masking
from tests.families import build
from tests.limits import close_pass
from tests.strategies.helpers import refuses


def seen_by_hand(model: Any, batch: Any, window: int, forward: bool) -> Tensor:
    """bool (B, N, N): who attends to whom, one pair after the other."""
    with vtokens.attach(model, "uniform(keep=0.999)") as handle:
        model(**batch)
        report = handle.report()
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    seen = torch.zeros(*ids.shape, ids.shape[1], dtype=torch.bool)
    for row, sample in enumerate(report.samples):
        places, at = (ids[row] == model.config.image_token_id).nonzero()[:, 0].tolist(), 0
        where: dict[int, tuple[int, ...]] = {}
        for number, part in enumerate(sample.pictures):
            for cell in range(len(part.picture)):
                one = part.picture
                if one.view[cell] >= 0:
                    grid = (one.view[cell], one.t[cell], one.y[cell], one.x[cell])
                    where[places[at]] = (number, *(int(value) for value in grid))
                at += 1
        for query in range(ids.shape[1]):
            for key in range(ids.shape[1]):
                shown = key <= query
                if query in where and key in where:
                    mine, other = where[query], where[key]
                    far = max(abs(mine[3] - other[3]), abs(mine[4] - other[4]))
                    shown = mine[:3] == other[:3] and far <= window // 2 and (forward or shown)
                seen[row, query, key] = shown and bool(mask[row, key])
    return seen


@contextmanager
def attending(model: Any, seen: Tensor, layers: range) -> Iterator[None]:
    """Let these layers of an eager model attend by `seen`."""

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        return args, dict(kwargs, attention_mask=bias)

    hooks = [decoder_layers(model)[one].register_forward_pre_hook(before, with_kwargs=True) for one in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("family", "window", "forward"), [("llava", 3, False), ("qwen2_5_vl", 3, True), ("llava_next", 1, False)]
)
@torch.no_grad()
def test_it_is_dense_attention_with_a_mask(family: str, window: int, forward: bool) -> None:
    """All layers, a ragged batch, two pictures of a sample; queries grouped over keys in Qwen."""
    model, eager = build(family)[0], build(family, attn_implementation="eager")[0]
    batch = ragged(family)
    with attending(eager, seen_by_hand(eager, batch, window, forward), range(4)):
        expected = eager(**batch).logits
    with vtokens.attach(model, f"yopo(window={window}, stop='never', forward={forward})"):
        got = model(**batch).logits
    real = batch["attention_mask"].bool()
    close_pass(got[real], expected[real])
    assert not torch.allclose(got[real], model(**batch).logits[real], atol=1e-2)


@torch.no_grad()
def test_pictures_leave_at_a_layer() -> None:
    """Layers behind run on text alone, with the masked model's logits; those before see all tokens."""
    model, batch = build("llava")[0], ragged("llava")
    with vtokens.attach(model, "yopo(window=None)") as handle:
        got = model(**batch).logits
        report = handle.report()
    assert [sample.visual_tokens for sample in report.samples] == [(16, 16, 0, 0), (32, 32, 0, 0), (0, 0, 0, 0)]
    assert report.flops < report.flops_full
    with masking(model, dropped_keys(report, batch["attention_mask"])):
        expected = model(**batch).logits
    real = batch["attention_mask"].bool()
    close_pass(got[real], expected[real])


@torch.no_grad()
def test_a_window_as_large_as_the_picture_changes_nothing_of_one_picture() -> None:
    model, batch = build("llava")[0], ragged("llava")
    plain = model(**batch).logits[0]
    with vtokens.attach(model, "yopo(window=9, stop='never')"):
        got = model(**batch).logits[0]
    real = batch["attention_mask"][0].bool()
    close_pass(got[real], plain[real])
    with vtokens.attach(model, "yopo(window=None, stop='never')"):
        assert torch.equal(model(**batch).logits[0], plain)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("yopo(window=2)", "1, 3, 5"),
        ("yopo(window=-1)", "1, 3, 5"),
        ("yopo(stop='late')", "'never'"),
        ("yopo(stop=4)", "the nearest is 3"),
        ("yopo(stop=0)", "the nearest is 1"),
    ],
)
def test_bad_settings_are_refused(spec: str, says: str) -> None:
    refuses(spec, says)
