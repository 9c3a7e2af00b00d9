"""VAR: the rule on group masses, the worked examples, sink tables, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.families import build, image, inputs
from tests.limits import close
from vtokens.kernels import group_weights, grouped_attention, reweigh
from vtokens.strategies.attend.var import TEXT, TEXT_SINK, VISUAL, VISUAL_SINK, Var
from vtokens.tables.sinks import Sinks, known, read


def edited(row: Tensor, group: Tensor, strategy: Var) -> Tensor:
    """A row of attention (K,) changed entry by entry, as the paper writes it."""
    sinks = (group == TEXT_SINK) | (group == VISUAL_SINK)
    there = row[(group == VISUAL) | (group == VISUAL_SINK)].sum()
    free = row[group == VISUAL].sum()
    if there < strategy.min_visual or free < strategy.min_nonsink_ratio * there or free <= 0 or there == free:
        return row
    given_up = strategy.recycle_fraction * row[sinks].sum()
    row = torch.where(sinks, (1 - strategy.recycle_fraction) * row, row)
    return torch.where(group == VISUAL, row + given_up * row / free, row)


DIGITS = 5e-5
"""Half a unit of the last digit that the worked example is written with."""


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.4, [0.18, 0.06, 0.3067, 0.0767, 0.0767, 0.30]), (0.6, [0.12, 0.04, 0.36, 0.09, 0.09, 0.30])],
)
def test_worked_example(fraction: float, expected: list[float]) -> None:
    row = torch.tensor([0.30, 0.10, 0.20, 0.05, 0.05, 0.30])
    group = torch.tensor([TEXT_SINK, VISUAL_SINK, VISUAL, VISUAL, VISUAL, TEXT])
    strategy = Var(recycle_fraction=fraction)
    masses = torch.stack([row[group == g].sum() for g in range(4)])[:, None, None, None]
    after, qualified = strategy.redistribute(masses)
    assert qualified.all()
    share = row / masses.flatten()[group]
    torch.testing.assert_close(share * after.flatten()[group], torch.tensor(expected), rtol=0, atol=DIGITS)
    torch.testing.assert_close(edited(row, group, strategy), torch.tensor(expected), rtol=0, atol=DIGITS)


def test_phi_is_over_the_root_mean_square() -> None:
    hidden = torch.tensor([[[0.0, 0.0, 0.0, 8.0]]])
    assert Sinks("", (3,), 1.9, "").phi(hidden).item() == pytest.approx(2.0)
    assert Sinks("", (3,), 1.9, "").find(hidden).all()


def test_extreme_half_precision_states_do_not_overflow() -> None:
    hidden = torch.full((1, 2, 64), 1.0, dtype=torch.float16)
    hidden[0, 0, 7] = 6e4
    table = Sinks("", (7,), 5.0, "")
    assert table.find(hidden).tolist() == [[True, False]]
    assert table.phi(hidden)[0, 0].item() == pytest.approx(8.0, rel=1e-3)  # the square root of the width, its bound


@given(
    st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.6, 1.0]), st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.0, 0.2]), st.lists(st.integers(0, 3), min_size=2, max_size=40),
)  # fmt: skip
def test_equals_the_dense_formula(seed: int, fraction: float, ratio: float, least: float, ids: list[int]) -> None:
    """From partial outputs of groups: what editing the matrix gives, to 1e-5 in float32; each row keeps its sum."""
    draw = torch.Generator().manual_seed(seed)
    query, key, value = (2 * torch.randn(1, 2, n, 8, generator=draw) for n in (3, len(ids), len(ids)))
    group, strategy = torch.tensor([ids]), Var(fraction, ratio, least)
    outputs, lse = grouped_attention(query, key, value, group, 4, 0.35)
    weights = group_weights(lse)
    after, _ = strategy.redistribute(weights)
    close(after.sum(0), torch.ones_like(after[0]), terms=len(after))
    torch.testing.assert_close(after[TEXT], weights[TEXT])
    matrix = (query @ key.mT * 0.35).softmax(-1)
    dense = torch.stack([edited(row, group[0], strategy) for row in matrix.flatten(0, 2)]).view_as(matrix)
    there = matrix[..., group[0] == VISUAL].sum(-1) + matrix[..., group[0] == VISUAL_SINK].sum(-1)
    gap = matrix[..., group[0] == VISUAL].sum(-1) - ratio * there
    sure = ((there - least).abs() > 1e-6) & ((gap.abs() > 1e-6) | (ratio == 0))
    sink = matrix[..., group[0] == VISUAL_SINK].sum(-1)
    sure &= (sink == 0) | (sink > 1e-6)  # a sink this small is none beside the others, in float32
    got = reweigh(outputs, after)
    size = value.abs().max() * (1 + (query @ key.mT * 0.35).abs().max())  # what a score is off by, its share is off by
    close(got[sure], (dense @ value)[sure], terms=key.shape[-2] + key.shape[-1], size=size)


def test_nothing_to_recycle_changes_nothing() -> None:
    masses = torch.tensor([0.3, 0.1, 0.4, 0.2])[:, None, None, None]
    assert torch.equal(Var(recycle_fraction=0.0).redistribute(masses)[0], masses)
    without_visual_sink = torch.tensor([0.3, 0.0, 0.5, 0.2])[:, None, None, None]
    assert torch.equal(Var().redistribute(without_visual_sink)[0], without_visual_sink)
    nothing_to_give_to = torch.tensor([0.3, 0.5, 0.0, 0.2])[:, None, None, None]
    assert torch.equal(Var(min_nonsink_ratio=0.0).redistribute(nothing_to_give_to)[0], nothing_to_give_to)


def test_shipped_tables() -> None:
    vicuna = known("llama-32x4096x11008")
    assert vicuna is not None
    assert set(vicuna.dims) == {2533, 1415}
    assert vicuna.tau == 20
    assert known("llama-32x4096x14336") is None


@pytest.fixture
def tiny() -> Any:
    return build("llava")


def test_an_unknown_decoder_says_how_to_get_a_table(tiny: Any) -> None:
    with pytest.raises(ValueError, match="vtokens calibrate var"):
        vtokens.attach(tiny[0], "var")
    assert vtokens.attachment(tiny[0]) is None


def test_a_table_of_another_decoder_is_refused(tiny: Any, tmp_path: Path) -> None:
    Sinks("llama-32x4096x11008", (1, 2), 20.0, "elsewhere").save(tmp_path / "sinks.json")
    with pytest.raises(ValueError, match=r"llama-32x4096x11008.*llama-4x64x128"):
        vtokens.attach(tiny[0], f"var(sinks={str(tmp_path / 'sinks.json')!r})")


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema": 9}', '{"schema": 1, "decoder": "x", "dims": [-1], "tau": 1, "source": ""}']
)
def test_a_broken_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sinks.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no sink dimensions"):
        read(path)
    with pytest.raises(ValueError, match="absent"):
        read(tmp_path / "absent.json")


def test_tables_come_back_as_they_were_saved(tmp_path: Path) -> None:
    table = Sinks("llama-4x64x128", (3, 9), 2.5, "a test")
    table.save(tmp_path / "sinks.json")
    assert read(tmp_path / "sinks.json") == table
    assert json.loads((tmp_path / "sinks.json").read_text())["schema"] == 1


@pytest.mark.parametrize("field", ["recycle_fraction", "min_nonsink_ratio", "min_visual"])
def test_shares_are_checked(field: str) -> None:
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        Var(**{field: 1.5})
    with pytest.raises(TypeError, match=field):
        Var(**{field: "all"})


def test_twice_is_refused(tiny: Any, tmp_path: Path) -> None:
    Sinks("llama-4x64x128", (1,), 1.6, "a test").save(tmp_path / "s.json")
    spec = f"var(sinks={str(tmp_path / 's.json')!r})"
    with pytest.raises(ValueError, match="twice"):
        vtokens.attach(tiny[0], f"{spec}+{spec}")


def test_no_sinks_is_no_change(tiny: Any, tmp_path: Path) -> None:
    """A decoder whose table holds no dimension is left alone, to the last bit; so are text-only prompts."""
    model, processor = tiny
    batch = inputs(processor, ["What is it?"], [[image(60, 60, seed=0)]])
    text = inputs(processor, ["hello there"], [[]])
    Sinks("llama-4x64x128", (), 20.0, "a test").save(tmp_path / "none.json")
    Sinks("llama-4x64x128", (1, 5, 40), 1.6, "a test").save(tmp_path / "some.json")
    with torch.no_grad():
        plain, plain_text = model(**batch).logits, model(**text).logits
        with vtokens.attach(model, f"var(sinks={str(tmp_path / 'none.json')!r})"):
            assert torch.equal(model(**batch).logits, plain)
        with vtokens.attach(model, f"var(sinks={str(tmp_path / 'some.json')!r}, first_layer=0)"):
            assert not torch.equal(model(**batch).logits, plain)
            assert torch.equal(model(**text).logits, plain_text)
        assert torch.equal(model(**batch).logits, plain)
