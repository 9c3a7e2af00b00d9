"""Under `torch.autocast`, and in half precision, every strategy runs and does what it does otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.masked import dropped_keys, masking
from tests.engine.test_attend_equals_dense import sinks
from tests.families import FAMILIES, build, image, inputs
from vtokens import kernels

pytestmark = pytest.mark.usefixtures("no_grad")
HALF = torch.bfloat16
# Every strategy, some with settings that lead elsewhere; '@' is a file of sinks.
SPECS = (
    "random(keep=0.5)",
    "uniform(keep=0.5)+cls(keep=0.5)",
    "todre(keep=0.5)",
    "todre(keep=0.5, objective=kcenter, exit_threshold=2.0, exit_depth=0.5)",
    "fastv(keep=0.5, layer=1, query_scope=all_text, pool=sample)",
    "vhr",
    "vhr(divergence=two_branch)",
    "var(sinks='@')",
    "dymu(thresholds=(0.5, 0.5))+fastv(keep=0.5, layer=2)",
    "dymu(thresholds=(0.5, 0.5), unmerge=False)",
    "vcd(beta=0)",
    "pai(beta=0)",
    "m3id(beta=0)",
    "damro(k=3, beta=0)",
    "avisc(beta=0)",
    "avisc(others=drop, beta=0)",
    "contrast(beta=0)",
)


def sample(family: str, dtype: torch.dtype = torch.float32) -> tuple[Any, dict[str, Any]]:
    model, processor = build(family)
    pictures = [[image(100, 84, seed=1)], [image(84, 84, seed=2)]]
    batch = inputs(processor, ["what is <image> this?", "hello there <image> is it"], pictures)
    return model.to(dtype), {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}


@pytest.mark.parametrize(
    ("family", "how"),
    [*((family, "autocast") for family in FAMILIES), ("llava", "bfloat16"), ("qwen2_5_vl", "float16")],
)
def test_every_strategy_runs(family: str, how: str, tmp_path: Path) -> None:
    """A plain call, generated tokens, and a report; no number is lost."""
    model, batch = sample(family, torch.float32 if how == "autocast" else getattr(torch, how))
    table = sinks(family, tmp_path)
    for spec in SPECS:
        with (
            torch.autocast("cpu", HALF, enabled=how == "autocast"),
            vtokens.attach(model, spec.replace("@", table)) as handle,
        ):
            assert model(**batch).logits.isfinite().all(), spec
            model.generate(**batch, max_new_tokens=3, do_sample=False)
            assert handle.report().samples


@pytest.mark.parametrize(
    "spec", ["todre(keep=0.5)", "fastv(keep=0.5, layer=2)", "cls(keep=0.5)+fastv(keep=0.5, layer=1)"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_equals_masked_under_autocast(family: str, spec: str) -> None:
    (target, batch), (reference, _) = sample(family), sample(family)
    valid = batch["attention_mask"]
    with torch.autocast("cpu", HALF):
        with vtokens.attach(target, spec) as handle:
            got, report = target(**batch).logits.float(), handle.report()
        with masking(reference, dropped_keys(report, valid)):
            expected = reference(**batch).logits.float()
    assert all(len(set(sample.visual_tokens)) > 1 or "todre" in spec for sample in report.samples)
    # Four layers of rounding to eight bits, in another order.
    limit = 8 * torch.finfo(HALF).eps * expected.abs().max()
    for row, kept in enumerate(report.samples):
        fed = valid[row].bool().clone()
        fed[: kept.positions[-1][0]] = False
        torch.testing.assert_close(got[row, fed], expected[row, fed], rtol=0, atol=float(limit))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_changes_nothing_changes_no_bit(family: str) -> None:
    """Every layer's attention goes through us here, and the implementation gets what autocast would have given it."""
    model, batch = sample(family)
    with torch.autocast("cpu", HALF):
        expected = model(**batch).logits
        with vtokens.attach(model, "vcd(alpha=0, beta=0)"):
            assert torch.equal(model(**batch).logits, expected)


def calls() -> dict[str, Any]:
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 16, generator=gen) for n in (7, 40, 40))
    tokens, valid = torch.randn(2, 40, 16, generator=gen), torch.ones(2, 40, dtype=torch.bool)
    group = (torch.arange(40) % 2).expand(2, -1)
    start = torch.zeros(2, dtype=torch.long)
    edges = kernels.match(tokens, valid, 1)
    return {
        "farthest_point": lambda: kernels.farthest_point(tokens, valid, [20, 12], start),
        "attention_colmean": lambda: kernels.attention_colmean(q, k, 0.25),
        "grouped_attention": lambda: kernels.grouped_attention(q, k, v, group, 2, 0.25),
        "match": lambda: kernels.match(tokens, valid, 1).score,
        "bipartite_merge": lambda: kernels.bipartite_merge(tokens, valid.float(), tokens, valid, 0.1, 1).hidden,
        "merge": lambda: kernels.merge(tokens, valid.float(), valid, edges, 0.1).hidden,
    }


@pytest.mark.parametrize("name", list(calls()))
def test_kernels_compute_as_they_would_without(name: str) -> None:
    """float32 in, and the same bits out: a choice among tokens is not made on rounded similarities."""
    expected = calls()[name]()
    with torch.autocast("cpu", HALF):
        got = calls()[name]()
    for mine, theirs in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, expected)), strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
