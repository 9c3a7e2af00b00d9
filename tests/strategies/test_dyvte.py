"""DyVTE's stand-in against the attention maps of an eager model."""

from __future__ import annotations

import pytest
import torch

import vtokens
from tests.engine.compare import ragged
from tests.families import STATEFUL, build
from tests.strategies.helpers import pair
from vtokens.strategies import Facts, parse
from vtokens.strategies.prune.dyvte import DyVTE


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@torch.no_grad()
def test_tokens_leave_where_attention_has_gone(family: str) -> None:
    """Each sample at its own layer: the first behind two in which its last row gave the picture less than epsilon."""
    model, batch = build(family)[0], ragged(family)
    eager, _ = pair(family, attn_implementation="eager")
    maps = eager(**batch, output_attentions=True).attentions
    visual = batch["input_ids"] == model.config.image_token_id
    mass = torch.stack([torch.where(visual, layer.mean(1)[:, -1], 0).sum(1) for layer in maps])  # (L, B)
    seen: set[tuple[int, ...]] = set()
    for epsilon in sorted({round(float(m) + 1e-3, 6) for m in mass[:2].flatten()}):
        with vtokens.attach(model, f"dyvte(epsilon={epsilon})") as handle:
            model(**batch)
            report = handle.report()
        for row, sample in enumerate(report.samples):
            # Nothing is dropped before the first exit, so that the untouched maps hold up to there.
            small = [bool(mass[layer, row] < epsilon) for layer in range(4)]
            leaves = next((layer for layer in (2, 3) if small[layer - 2] and small[layer - 1]), 4)
            tokens = int(visual[row].sum()) and sample.visual_tokens[0]
            assert sample.visual_tokens == tuple(tokens if layer < leaves else 0 for layer in range(4))
            seen.add(sample.visual_tokens)
    assert len({sum(n > 0 for n in one) for one in seen}) > 1


@torch.no_grad()
def test_no_epsilon_changes_no_bit() -> None:
    model, batch = build("llava")[0], ragged("llava")
    plain = model(**batch).logits
    with vtokens.attach(model, "dyvte(epsilon=0.0)"):
        assert torch.equal(model(**batch).logits, plain)


def test_layers_without_attention_are_passed_over() -> None:
    facts = Facts(STATEFUL[0], depth=8, tower_depth=2, has_cls=False, linear=(0, 1, 2, 4, 5, 6))
    assert tuple(DyVTE(patience=1).needs(facts).layer) == (4,)
    assert not DyVTE().needs(facts).layer  # the second layer with attention is the last
    deep = Facts("llava", depth=6, tower_depth=2, has_cls=False)
    assert tuple(DyVTE(first=4).needs(deep).layer) == (4, 5)
    assert [one.layer for one in DyVTE(first=4).needs(deep).signals] == [2, 3, 4]


@pytest.mark.parametrize("spec", ["dyvte(epsilon=1.5)", "dyvte(patience=0)", "dyvte(first=0)"])
def test_bad_settings_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse(spec)


@pytest.mark.parametrize("spec", ["dyvte(first=4)", "dyvte(patience=5)"])
def test_what_could_never_drop_a_token_is_refused(spec: str) -> None:
    """On a decoder of four layers; with epsilon=0.0 nothing is asked for."""
    model = build("llava")[0]
    with pytest.raises(ValueError, match="out of range for a model with 4 layers"):
        vtokens.attach(model, spec)
    vtokens.attach(model, spec.replace(")", ", epsilon=0.0)")).detach()
