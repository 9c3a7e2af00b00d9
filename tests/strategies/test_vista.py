"""VISTA against an untouched model whose MLPs torch's hooks steer, the vectors and the formula in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import MODES, model
from tests.engine.compare import GREEDY, check_programs, one, ragged
from tests.engine.contrasted import without_pictures
from tests.engine.masked import decoder_layers
from tests.engine.state import snapshot
from tests.families import build
from tests.limits import close_pass
from tests.strategies.layered import ABLE, Around, Ending, Formula, Numbers, check, samples
from vtokens.adapters import adapter_class
from vtokens.adapters.decoder import mlp_of
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import States
from vtokens.strategies.contrast.vista import Vista, steered


def mixed(gamma: float, late: int, normed: bool) -> Formula:
    """The logits, with a share of those of late layers."""

    def combine(real: Numbers, states: list[Numbers], ending: Ending) -> Numbers:
        found = np.mean([ending.logits(part, normed) for part in states[len(states) - late :]], 0)
        mix: Numbers = (1 - gamma) * real + gamma * found
        return mix

    return combine


def leaving(target: Any, prompt: dict[str, Any]) -> list[Numbers]:
    """The states (D,) that leave each layer at the end of a prompt."""
    found: list[Numbers] = []

    def note(module: Any, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0, -1].double().numpy())

    handles = [layer.register_forward_hook(note) for layer in decoder_layers(target)]
    target(**prompt, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def turned(hidden: Tensor, way: Numbers, weight: float) -> Tensor:
    """The paper's formula, row by row."""
    rows = hidden.double().numpy().reshape(-1, hidden.shape[-1])
    if np.linalg.norm(way) == 0:  # a layer that looks no further than a few tokens
        return hidden
    way = way / np.linalg.norm(way)
    out = []
    for row in rows:
        length = np.linalg.norm(row)
        new = row / length + weight * (1 + max(0.0, float(-(row @ way) / length))) * way
        out.append(new / np.linalg.norm(new) * length)
    return torch.from_numpy(np.array(out)).reshape(hidden.shape).to(hidden)


def steering(target: Any, rows: list[dict[str, Any] | None], weight: float) -> Around:
    """For each row, hooks on the MLPs that steer by what its picture changes."""
    ways: list[list[Numbers]] = []
    for row in rows:
        text = None if row is None else without_pictures(row, target)
        assert text is None or isinstance(text, dict)
        ways.append([] if row is None or text is None else [
            full - alone for full, alone in zip(leaving(target, row), leaving(target, text), strict=True)
        ])  # fmt: skip

    @contextmanager
    def around(row: int) -> Iterator[None]:
        handles = [
            mlp_of(layer).register_forward_hook(
                lambda module, args, output, way=way: (
                    (turned(output[0], way, weight), *output[1:])
                    if isinstance(output, tuple)
                    else turned(output, way, weight)
                )
            )
            for layer, way in zip(decoder_layers(target), ways[row], strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    return around


def reads_text_alone(family: str) -> bool:
    """Whether the text of a prompt can run by itself, as it stands there."""
    visibility = adapter_class(family).anatomy.visibility
    return family != "ovis2" and not (visibility is not None and visibility.joined)


@pytest.mark.parametrize("family", [family for family in ABLE if reads_text_alone(family)])
@torch.no_grad()
def test_answers_are_those_of_the_formula(family: str) -> None:
    batch = one(family)
    around = steering(model(family, "plain"), [batch], 0.5)
    check(family, "vista(weight=0.5, late=2)", batch, [batch], mixed(0.3, 2, True), around)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_batches_beams_and_sampling(family: str, mode: str) -> None:
    batch, rows = samples(family)
    around = steering(model(family, "plain"), rows, 0.4)
    check(family, "vista(weight=0.4, gamma=0.2, normed=false)", batch, rows, mixed(0.2, 1, False), around, mode)


@pytest.mark.parametrize("spec", ["cls(keep=0.25)+fastv(keep=0.5, layer=2)", "census", "vtw(layer=2)"])
@torch.no_grad()
def test_behind_pruners_the_picture_is_what_they_leave(spec: str) -> None:
    """The vectors are the difference between what leaves the layers under them and of the text; nothing stays."""
    target, batch = model("llava", "pruned"), one("llava")
    plain = model("llava", "plain")
    alone = leaving(plain, without_pictures(batch, plain))  # type: ignore[arg-type]
    with vtokens.attach(target, spec):
        full = leaving(target, batch)
    before, seen = snapshot(target), {}

    class Spying(Vista):
        def at_states(self, states: States) -> Tensor | None:
            seen[states.layer] = states.recall("vista.way")
            return super().at_states(states)

    with vtokens.attach(target, (*vtokens.strategies.parse(spec), Spying(weight=0.3))) as handle:
        target.generate(**batch, **GREEDY)
        assert handle.report().samples
    for layer, (with_it, without) in enumerate(zip(full, alone, strict=True)):
        way = seen[layer]
        if "vtw" in spec and layer >= 2:  # where nothing of the picture is left, nothing is steered
            assert way is None
            continue
        assert way is not None
        close_pass(way[0], torch.from_numpy(with_it - without).float(), passes=2, size=torch.from_numpy(with_it))
    assert snapshot(target) == before


@torch.no_grad()
def test_rows_and_contrasts() -> None:
    target, _ = build("llava")
    batch = ragged("llava")
    check_programs(target, batch, ["vista", "cls(keep=0.5)", "vista(weight=0.5, gamma=0)"], **GREEDY)
    with vtokens.attach(target, "fastv(keep=0.5, layer=2)+vista+vcd(branch='random(keep=4)')"):
        assert target.generate(**batch, **GREEDY, num_beams=2).shape[1] == batch["input_ids"].shape[1] + 5
    with vtokens.attach(target, "vista(weight=0, gamma=0)"):
        unchanged = target.generate(**batch, **GREEDY)
    assert torch.equal(unchanged, target.generate(**batch, **GREEDY))
    with vtokens.attach(target, "vista(gamma=0)"):
        states = target(**batch, output_hidden_states=True).hidden_states
    assert len(states) == len(decoder_layers(target)) + 1


def test_the_formula_by_hand() -> None:
    """x = (3, 4) and v = (-1, 0): cos(x, -v) = .6, so unit(x) + .5 * 1.6 * (-1, 0) = (-.2, .8), as long as before."""
    out = steered(torch.tensor([[[3.0, 4.0]], [[3.0, 4.0]]]), torch.tensor([[-7.0, 0.0], [0.0, 0.0]]), 0.5)
    scale = 5 / (0.2**2 + 0.8**2) ** 0.5
    torch.testing.assert_close(out, torch.tensor([[[-0.2 * scale, 0.8 * scale]], [[3.0, 4.0]]]))


@torch.no_grad()
def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    batch = one("llava")
    with pytest.raises(ValueError, match=r"late=4 layers before the last one of 4: 1 to 3 is allowed"):
        vtokens.attach(target, "vista(late=4)")
    with vtokens.attach(target, "vista"):
        with pytest.raises(ValueError, match="a pass without a cache cannot tell from the answer"):
            target(**batch, use_cache=False)
        begun = target(input_ids=torch.full((1, 3), 7), use_cache=True)
        with pytest.raises(
            ValueError, match=r"'vista' reads a prompt with pictures twice, and this one goes on behind 3"
        ):
            target(**batch | {"attention_mask": None}, **as_cache(target, returned_cache(begun)))
