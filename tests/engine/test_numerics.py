"""Gradients, half precision, attention implementations and dispatched weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, SPEC, ragged
from tests.engine.masked import dropped_keys, masking
from tests.families import FAMILIES, build
from tests.limits import close_pass

pytestmark = pytest.mark.parametrize("family", FAMILIES)
SPECS = [SPEC, "todre(keep=0.4, exit_threshold=2.0)"]


def labelled(family: str) -> dict[str, Any]:
    """A ragged batch whose labels are its text."""
    batch = ragged(family)
    config = model(family, "plain").config
    text = batch["attention_mask"].bool() & (batch["input_ids"] != config.image_token_id)
    text &= text.cumsum(1) > 1  # nothing predicts the first token, be it after padding or after a lost picture
    return {**batch, "labels": batch["input_ids"].masked_fill(~text, -100)}


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_the_masked_model(family: str, spec: str) -> None:
    """Of every weight, in training mode: through the survivors into projector and tower, finite and not zero."""
    batch, models = labelled(family), [build(family)[0].train(), build(family, attn_implementation="eager")[0].train()]
    with vtokens.attach(models[0], spec) as handle:
        loss = models[0](**batch).loss
        loss.backward()
        dropped = dropped_keys(handle.report(), batch["attention_mask"])
    with masking(models[1], dropped):
        expected = models[1](**batch).loss
        expected.backward()
    torch.testing.assert_close(loss, expected)
    grads = {name: part.grad for name, part in models[1].named_parameters() if part.grad is not None}
    reached = 0
    for (name, mine), theirs in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if theirs.grad is None:  # CLIP's last norm, which the features do not pass
            assert mine.grad is None, name
            continue
        assert mine.grad is not None, name
        assert mine.grad.isfinite().all(), name
        # A key's bias shifts all scores of a row alike: its gradient is what rounding leaves of sums as large as those
        # of the weights beside it.
        size = max(
            float(grad.abs().max())
            for other, grad in grads.items()
            if other.rpartition(".")[0] == name.rpartition(".")[0]
        )
        close_pass(mine.grad, theirs.grad, passes=2, size=size)  # forward and backward
        reached += bool(mine.grad.any()) and ("visual" in name or "vision" in name or "projector" in name)
    assert reached > 20


@torch.no_grad()
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_near(family: str, spec: str, dtype: torch.dtype) -> None:
    """Given its own selection, as near to the float32 masked model as rounding lets a model be."""
    low, batch = build(family)[0].to(dtype), ragged(family)
    cast = {name: part.to(dtype) if part.is_floating_point() else part for name, part in batch.items()}
    reference, valid = model(family, "plain", "eager"), batch["attention_mask"].bool()
    usual = (low(**cast).logits.float() - reference(**batch).logits)[valid].abs().mean()
    with vtokens.attach(low, spec) as handle:
        got = low(**cast).logits
        dropped = dropped_keys(handle.report(), batch["attention_mask"])
        assert low.generate(**cast, **GREEDY).shape[1] == valid.shape[1] + 5
    assert got.dtype == dtype
    with masking(reference, dropped):
        alive = valid & ~dropped[-1]
        off = (got.float() - reference(**batch).logits)[alive].abs().mean()
    assert off < 4 * usual
    assert usual < 0.1


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask", "ignore:flex_attention called without")
@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_attention_implementations_agree(family: str, attention: str) -> None:
    """Chosen by the user after loading; the decoder keeps it while strategies watch some of its layers."""
    batch, pruned = ragged(family), build(family)[0]
    try:
        pruned.set_attn_implementation({"text_config": attention})
    except ValueError:
        if attention != "flex_attention":
            raise
        pytest.skip("transformers refuses flex attention for this family")
    with vtokens.attach(model(family, "pruned"), SPEC):
        expected = model(family, "pruned")(**batch).logits
        tokens = model(family, "pruned").generate(**batch, **GREEDY)
    # Flex attention as written, since compiling it needs a compiler on the machine that runs the tests.
    with torch.compiler.set_stance("force_eager"), vtokens.attach(pruned, SPEC):
        assert pruned.model.language_model.config._attn_implementation == attention
        got = pruned(**batch).logits
        alike = torch.equal(pruned.generate(**batch, **GREEDY), tokens)
    valid = batch["attention_mask"].bool()
    close_pass(got[valid], expected[valid])
    assert alike
    assert {layer.self_attn.config._attn_implementation for layer in pruned.model.language_model.layers} == {attention}


@torch.no_grad()
@pytest.mark.parametrize("where", ["cpu map", "cpu offload", "disk offload"])
def test_dispatched_weights(family: str, where: str, tmp_path: Path) -> None:
    """accelerate's own hooks bring the weights in; attached before or after, the bits are the same."""
    batch, pruned = ragged(family), build(family)[0]
    with vtokens.attach(model(family, "pruned"), SPEC):
        expected = model(family, "pruned")(**batch).logits
        tokens = model(family, "pruned").generate(**batch, **GREEDY)
    if where == "cpu map":
        pruned = accelerate.dispatch_model(pruned, {"": "cpu"})
    elif where == "cpu offload":
        pruned = accelerate.cpu_offload(pruned, execution_device=torch.device("cpu"))
    else:
        pruned = accelerate.disk_offload(pruned, str(tmp_path), execution_device=torch.device("cpu"))
    # generate() runs the tower outside the forward pass, for which accelerate would have brought the newline token in.
    lost = where != "cpu map" and hasattr(pruned.model, "image_newline")
    with vtokens.attach(pruned, SPEC):
        assert torch.equal(pruned(**batch).logits, expected)
        if not lost:
            assert torch.equal(pruned.generate(**batch, **GREEDY), tokens)
    assert torch.equal(pruned(**batch).logits, model(family, "plain")(**batch).logits)
    if lost:  # without us as well
        with pytest.raises(NotImplementedError, match="meta tensor"):
            pruned.generate(**batch, **GREEDY)
