"""What strategies do inside attention equals editing the whole matrix, drawn with pruners, padding and beams."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import MODES, Case, cases, model, refused
from tests.engine.compare import check_tokens
from tests.engine.dense import Dense, attending, layout
from tests.engine.masked import dropped_keys, masking
from tests.families import EVERY
from vtokens.adapters import adapter_for
from vtokens.strategies.attend.var import Var
from vtokens.strategies.attend.vhr import Vhr
from vtokens.tables.sinks import Sinks

NEW = 3


@cache
def sinks(family: str, folder: Path) -> str:
    """A file that makes some tokens of the tiny model sinks, of text and picture alike."""
    path = folder / f"{family}.json"
    Sinks(adapter_for(model(family, "plain")).facts.decoder, (1, 5, 40), 1.6, "chosen at random").save(path)
    return str(path)


@st.composite
def attends(draw: st.DrawFn) -> tuple[str, ...]:
    """One or both of the strategies, in either order, with drawn settings."""
    var = st.builds(
        lambda p, r, s, f: (
            f"var(recycle_fraction={p}, min_nonsink_ratio={r}, min_visual={s}, first_layer={f}, sinks='@')"
        ),
        st.sampled_from([0.4, 0.6, 1.0]), st.sampled_from([0.1, 0.5]), st.sampled_from([0.0, 0.2]), st.integers(0, 2),
    )  # fmt: skip
    layers = st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(tuple))
    vhr = st.builds(lambda a, layers: f"vhr(alpha={a}, layers={layers})", st.sampled_from([0.5, 2.0, 3.0]), layers)
    return tuple(draw(st.permutations([draw(var), draw(vhr)]))[: draw(st.integers(1, 2))])


def oracle(family: str, spec: str, report: vtokens.Report, ids: torch.Tensor, valid: torch.Tensor) -> Dense:
    """The dense oracle for what `spec` does inside attention."""
    plain = model(family, "plain")
    adapter = adapter_for(plain)
    placeholder = torch.stack([ids == token for token in adapter.placeholder_ids.values()]).any(0)
    visual, text = layout(report, placeholder, valid)
    named = {s.name: s for s in vtokens.strategies.parse(spec) if isinstance(s, Var | Vhr)}
    dense = Dense(visual, text, valid, len(adapter.layers), tuple(named))
    for strategy in named.values():
        if isinstance(strategy, Var):
            dense = dataclasses.replace(dense, var=strategy, sinks=strategy.prepare(adapter.facts))
        else:
            dense = dataclasses.replace(dense, vhr=strategy, vhr_layers=strategy.needs(adapter.facts).attend)
    return dense


def generate(target: Any, batch: dict[str, Any], case: Case) -> Any:
    torch.manual_seed(case.seed)
    return target.generate(
        **batch, **MODES[case.mode], max_new_tokens=NEW, min_new_tokens=NEW,
        return_dict_in_generate=True, output_logits=True, output_scores=True,
    )  # fmt: skip


@pytest.mark.fuzz
@pytest.mark.parametrize("family", EVERY)
def test_attend_equals_dense(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Generated tokens and their logits are those of a model whose attention matrices are edited entry by entry."""
    table = sinks(family, tmp_path_factory.getbasetemp())

    @settings(max_examples=-(-settings.default.max_examples // len(EVERY)))
    @given(cases(), attends(), st.booleans())
    @torch.no_grad()
    def holds(case: Case, inside: tuple[str, ...], prune: bool) -> None:
        hypothesis.assume(not (prune and refused(family, case.spec)))
        spec = "+".join(([case.spec] if prune else []) + list(inside)).replace("@", table)
        pruned, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
        batch = case.batch(family)
        with vtokens.attach(pruned, spec) as handle:
            got = generate(pruned, batch, case)
            report = handle.report()
        copies = len(report.samples) // len(batch["attention_mask"])
        ids, valid = (batch[name].repeat_interleave(copies, dim=0) for name in ("input_ids", "attention_mask"))
        dense = oracle(family, spec, report, ids, valid)
        with attending(reference, dense), masking(reference, dropped_keys(report, valid)):
            expected = generate(reference, batch, case)
        hypothesis.assume(not dense.close)
        check_tokens(got, expected, NEW)

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed(EVERY.index(family))(holds)
    holds()
