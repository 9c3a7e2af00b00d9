"""What is known of large LLaVAs holds of scenes-smol: sinks, little attention for the picture, and its hand-over.

FastV (arXiv:2403.06764): behind the second layer a visual token gets a fraction of the attention that a text token
gets. VAR (arXiv:2503.03321): the first token is huge in a few dimensions and draws attention. Limits lie a third or
more off what was seen over three seeds of scenes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.depth import ROWS, drawn, looked, without
from tests.scenes.real_smol import MASSIVE, batch, load_or_skip
from vtokens.calibrate.sinks import default_tau, discover
from vtokens.scenes import evaluate, examples

EARLY, LATE = range(3, 10), range(12, 28)  # where SmolLM2 itself has its sinks
SEED, PROMPTS, QUESTIONS = 0, 4, 16
BEFORE, BEHIND = 8, 26  # layers: the picture is still needed from the first on, and no more from the second on


@pytest.fixture(scope="module")
def smol() -> Iterator[tuple[Any, Any]]:
    model, processor = load_or_skip()
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    yield model, processor
    model.set_attn_implementation(before)


@pytest.fixture(scope="module")
def prompts(smol: tuple[Any, Any]) -> list[dict[str, Tensor]]:
    return [batch(smol[1], [e]) for e in examples("test", PROMPTS, seed=SEED, kinds=["exist", "where"])]


@pytest.fixture(scope="module")
def seen(smol: tuple[Any, Any], prompts: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each prompt: which positions are the picture's (L,), attention (layers, heads, L, L) and phi (layers, L)."""
    found = []
    for one in prompts:
        with torch.no_grad():
            out = smol[0](**one, output_attentions=True, output_hidden_states=True)
        states = torch.cat(out.hidden_states[:-1]).float()
        phi = states[..., MASSIVE].abs() / states.square().mean(-1).sqrt()
        visual = one["input_ids"][0] == smol[0].config.image_token_id
        found.append((visual, torch.cat(out.attentions), phi))
    return found


def test_calibration_finds_the_dimension_and_no_visual_token(smol, prompts, seen):
    """The widths below which the paper's threshold is out of reach get one that ordinary visual tokens do not pass."""
    found = discover(smol[0], prompts)
    assert found.sinks.dims == (MASSIVE,)
    assert found.sinks.tau >= default_tau(576)
    assert found.visual < 0.01
    above = {tau: [drawn(a)[p[:-ROWS] > tau] for _, attention, phi in seen for a, p in _late(attention, phi)]
             for tau in (found.sinks.tau, default_tau(576))}  # fmt: skip
    precise, rough = ((torch.cat(d) > 5).float().mean().item() for d in above.values())
    assert precise > 0.4
    assert precise > 3 * rough or rough > 0.4


def test_the_first_token_is_a_sink(seen):
    for _, attention, phi in seen:
        assert phi[LATE.start : LATE.stop, 0].min() > 22
        assert all(drawn(a)[0] > 8 for a, _ in _late(attention, phi))
    shares = torch.stack([torch.stack([looked(a, visual) for a in attention]) for visual, attention, _ in seen]).mean(0)
    assert shares[list(EARLY), 0].mean() > 0.15
    assert shares[list(LATE), 0].mean() > 0.25


def test_visual_tokens_draw_little_behind_the_second_layer(seen):
    """Of the last row's attention, token by token, the text's get many times what the picture's get."""
    for visual, attention, _ in seen:
        _, text, picture = torch.stack([looked(a, visual) for a in attention[3:]]).mean(0)
        assert picture < 0.35  # an even share would be 0.85 and more
        assert text / (~visual).sum() > 5 * picture / visual.sum()


def test_visual_tokens_are_no_sinks(seen):
    much = torch.cat(
        [drawn(a)[visual[:-ROWS]] > 5 for visual, attention, phi in seen for a, _ in _late(attention, phi)]
    )
    assert much.float().mean() < 0.03


def test_the_picture_moves_into_the_text_by_the_last_layers(smol):
    """Dropped behind that layer it is not missed, and dropped early it is. (`fastv` keeps one token of it.)"""
    model, processor = smol
    model.set_attn_implementation("sdpa")
    asked = examples("test", QUESTIONS, seed=SEED, kinds=["where", "colour_of", "at", "shape_of"])
    whole = evaluate(model, processor, asked, QUESTIONS)["overall"].share
    early, late = (without(model, processor, asked, layer, QUESTIONS) for layer in (BEFORE, BEHIND))
    model.set_attn_implementation("eager")
    assert late >= 0.75 * whole
    assert early <= 0.6 * whole


def _late(attention: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(attention, phi) of each layer that has sinks in SmolLM2 itself."""
    return [(attention[layer], phi[layer]) for layer in LATE]
