"""Finding sink dimensions: planted ones are found, a decoder without any says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.families import FAMILIES, build, image, inputs
from vtokens.calibrate.sinks import default_tau, discover, raised
from vtokens.cli import main
from vtokens.tables.sinks import known, read


def prompts(family: str, count: int = 3) -> list[dict[str, Any]]:
    return [dict(inputs(family, ["Look: <image> what is it?"], [[image(60, 60, seed=seed)]])) for seed in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_dimensions_are_found(family: str) -> None:
    """Huge activations ride the residual stream, so the first token's embedding is where they can be planted."""
    model, _ = build(family)
    batches = prompts(family)
    first = batches[0]["input_ids"][0, 0]
    with torch.no_grad():
        model.get_input_embeddings().weight[first, [7, 40]] = 60.0
    found = discover(model, batches, tau=4.0)
    assert found.sinks.dims == (7, 40)
    assert found.sinks.decoder.endswith("-4x64x128")
    assert found.seen == 3
    assert all(phi > 4 for phi in found.first)
    assert not any(layer._forward_pre_hooks for layer in model.model.language_model.layers)


def test_no_sinks_is_an_answer() -> None:
    model, _ = build("llava")
    found = discover(model, prompts("llava"))
    assert found.sinks.dims == ()
    assert found.visual == 0
    assert found.sinks.tau == pytest.approx(0.8 * 8)  # a state of width 64 can reach 8


@pytest.mark.parametrize(("width", "tau"), [(64, 6.4), (576, 19.2), (625, 20), (626, 20), (4096, 20)])
def test_the_threshold_is_the_papers_but_for_narrow_states(width: int, tau: float) -> None:
    assert default_tau(width) == pytest.approx(tau)


def test_a_narrow_decoders_threshold_lies_between_sinks_and_what_crowds_below() -> None:
    first, crowd = torch.tensor([7.8, 7.9]), torch.linspace(5, 7, 50)
    assert raised(6.4, first, crowd) == pytest.approx(7.4)
    assert raised(6.4, first, crowd[:20]) == 6.4  # nothing crowds above it
    assert raised(6.4, first[:0], crowd[:0]) == 6.4


def test_visual_tokens_that_share_the_massive_dimension_are_no_sinks() -> None:
    """A projector whose every token is large in the first token's dimension, but not as large."""
    model, _ = build("llava")
    batches = prompts("llava")
    with torch.no_grad():
        model.get_input_embeddings().weight[batches[0]["input_ids"][0, 0], 7] = 200.0
        last = model.model.multi_modal_projector.linear_2
        last.bias[7] = 1.9 * model.get_image_features(batches[0]["pixel_values"]).pooler_output[0].norm(dim=-1).mean()
    found = discover(model, batches)
    assert found.sinks.dims == (7,)
    assert found.sinks.tau > default_tau(64)
    assert found.visual < 0.05
    assert discover(model, batches, tau=default_tau(64)).visual > 0.5


def test_bad_input() -> None:
    model, _ = build("llava")
    with pytest.raises(ValueError, match=r"reach at most 8\.0"):
        discover(model, prompts("llava"), tau=20)
    with pytest.raises(ValueError, match="no prompts"):
        discover(model, [])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sinks.json"
    main(["calibrate", "var", "scenes-llava", "--out", str(out), "--samples", "4"])
    assert "no sinks" in capsys.readouterr().out
    table, shipped = read(out), known(read(out).decoder)
    assert shipped is not None
    assert (table.dims, table.tau) == (shipped.dims, shipped.tau)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SystemExit):
        main(["calibrate", "var", "scenes-llava", "--out", str(out), "--images", str(tmp_path / "pictures")])
    assert "no pictures" in capsys.readouterr().err


def test_the_embedded_model_needs_no_file() -> None:
    model, _ = vtokens.load("scenes-llava", strategy="var")
    assert vtokens.attachment(model).strategy == "var"
