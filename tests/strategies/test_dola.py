"""DoLa against an untouched model whose layers are read by hooks, the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.cases import MODES, model
from tests.engine.compare import GREEDY, check_programs, one, ragged
from tests.engine.contrasted import ruled_out
from tests.engine.masked import decoder_layers
from tests.families import build
from tests.strategies.layered import ABLE, Ending, Formula, Numbers, check, entering, log_softmax, samples
from vtokens.adapters import adapter_for
from vtokens.strategies.contrast.dola import Dola, candidates


def formula(layers: tuple[int, ...], beta: float, normed: bool) -> Formula:
    """The paper's, with the divergence of the release; the layer whose distribution is furthest, by a loop."""

    def combine(real: Numbers, states: list[Numbers], ending: Ending) -> Numbers:
        final, best, chosen = log_softmax(real), -1.0, real
        for layer in layers:
            early = log_softmax(ending.logits(states[layer], normed))
            mean = (np.exp(final) + np.exp(early)) / 2
            distance = sum(float((mean * (np.log(mean) - part)).sum()) for part in (final, early)) / 2
            if distance > best:
                best, chosen = distance, early
        plausible = np.exp(final) >= beta * np.exp(final).max() * (1 - 1e-6)
        found: Numbers = np.where(plausible, final - chosen, -np.inf)
        return found

    return combine


@pytest.mark.parametrize("family", ABLE)
@torch.no_grad()
def test_answers_are_those_of_the_formula(family: str) -> None:
    batch, layers = one(family), (0, 2, len(decoder_layers(model(family, "plain"))) - 1)
    for normed in (False, True)[family != "llava" :]:
        check(family, Dola(layers=layers, normed=normed), batch, [batch], formula(layers, 0.1, normed))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_batches_beams_and_sampling(family: str, mode: str) -> None:
    """Padded rows, each with layers of its own, and a row without pictures, which is left alone."""
    spec = "dola(layers=(3, 2, 1, 0), beta=0.3, normed=true)"
    check(family, spec, *samples(family), formula((0, 1, 2, 3), 0.3, True), mode=mode)


@pytest.mark.parametrize("spec", ["cls(keep=0.25)+fastv(keep=0.5, layer=2)", "census", "divprune(keep=4)+m3id"])
@torch.no_grad()
def test_behind_pruners_mergers_and_contrasts(spec: str) -> None:
    """The same as of what a pass under them alone says, and of what enters its layers, by hooks."""
    family, layers = "llava", (0, 3)
    target, batch = model(family, "pruned"), one(family)
    states: list[Numbers] = []
    with vtokens.attach(target, spec), entering(target, states):
        first = target(**batch, logits_to_keep=1, use_cache=True)
    if "m3id" not in spec:
        expected = formula(layers, 0.1, False)(first.logits[0, -1].double().numpy(), states, Ending(target))
        with vtokens.attach(target, f"{spec}+dola(layers={layers})"):
            got = target(**batch, logits_to_keep=1).logits[0, -1]
        torch.testing.assert_close(ruled_out(got).double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    with vtokens.attach(target, f"{spec}+dola(layers={layers})"):
        whole = target.generate(**batch, **GREEDY)
        again = target.generate(**batch, **GREEDY, num_beams=2)
    assert whole.shape[1] == again.shape[1] == batch["input_ids"].shape[1] + 5


@torch.no_grad()
def test_rows_have_their_own_and_all_logits_are_changed() -> None:
    target, _ = build("llava")
    batch = ragged("llava")
    check_programs(target, batch, ["dola", "cls(keep=0.5)", "dola(layers=high, beta=0)"], **GREEDY)
    with vtokens.attach(target, "dola(beta=0)"):
        whole = target(**batch).logits
        last = target(**batch, logits_to_keep=1).logits
    torch.testing.assert_close(whole[:, -1:], last, rtol=1e-4, atol=1e-4)


def test_which_layers_are_compared() -> None:
    """As `dola_layers` of transformers: every second one of a half, and of 20 layers in deep decoders."""
    assert candidates("low", 32, tied=False) == tuple(range(0, 16, 2))
    assert candidates("high", 32, tied=False) == tuple(range(16, 32, 2))
    assert candidates("low", 60, tied=False) == tuple(range(0, 20, 2))
    assert candidates("high", 60, tied=True) == tuple(range(40, 60, 2))
    assert candidates("low", 28, tied=True) == tuple(range(2, 14, 2))
    assert [candidates("low", depth, tied=True) for depth in (1, 2, 4)] == [(0,), (1,), (2,)]
    tied = {family: adapter_for(model(family, "plain")).facts.tied for family in ("llava", "gemma3")}
    assert tied == {family: model(family, "plain").config.tie_word_embeddings for family in tied}
    assert {*tied.values()} == {False, True}


def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    with pytest.raises(ValueError, match=r"layers=\(\) names no decoder layer"):
        Dola(layers=())
    with pytest.raises(ValueError, match=r"layers=9 is out of range .* 0 to 3 is allowed, the nearest is 3"):
        vtokens.attach(target, "dola(layers=(0, 9))")
    with pytest.raises(ValueError, match=r"names 'dola' twice"):
        vtokens.attach(target, "dola+dola")
    with pytest.raises(ValueError, match=r"a LlavaModel makes none"):
        vtokens.attach(target.model, "dola")
