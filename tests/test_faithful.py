"""The objective of VFlowOpt against states taken by hand, the search on functions known by hand, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.families import build, image, inputs
from vtokens.calibrate.faithful import Faithfulness, search
from vtokens.cli import main

SPACE = {"a": (1, 2, 3, 4, 5), "b": (10, 20, 30)}


def prompts(family: str, count: int = 2) -> tuple[Any, list[dict[str, Any]]]:
    model, processor = build(family)
    made = [dict(inputs(processor, ["Is there a cat?"], [[image(84, 60, seed=seed)]])) for seed in range(count)]
    return model, made


def test_the_objective_is_the_mean_cosine_of_the_last_states() -> None:
    """1 without pruning; with it, what the model's own last states give."""
    model, batches = prompts("llava")
    objective = Faithfulness(model, batches)
    assert objective.of("random(keep=1.0)") == pytest.approx(1.0, abs=1e-12)
    expected, seen = 0.0, []
    hook = model.model.language_model.norm.register_forward_hook(lambda *call: seen.append(call[-1][0, -1].double()))
    with torch.no_grad():
        for batch in batches:
            seen.clear()
            model(**batch)
            with vtokens.attach(model, "random(keep=2)"):
                model(**batch)
            plain, pruned = seen
            expected += float(plain @ pruned / plain.norm() / pruned.norm()) / len(batches)
    hook.remove()
    assert expected < 0.9999
    assert objective.of("random(keep=2)") == pytest.approx(expected, abs=1e-9)
    assert vtokens.attachment(model) is None


def test_the_search_finds_the_top_of_a_hill() -> None:
    """Steps lead from wherever the draws begin to the one maximum, in fewer calls than there are settings."""
    for seed in range(5):
        found = search(lambda s: -((s["a"] - 4) ** 2) - (s["b"] / 10 - 2) ** 2, SPACE, calls=12, seed=seed)
        assert found.settings == {"a": 4, "b": 20}
        assert found.score == 0
        assert len(found.tried) == 12
        assert len({tuple(one.values()) for one, _ in found.tried}) == 12


def test_all_settings_are_enough_calls() -> None:
    """Nothing is scored twice, what is not allowed never, and the same seed tries the same."""
    told = []
    found = search(
        lambda s: float(s["a"] == 1 and s["b"] == 30), SPACE, 99, allowed=lambda s: s["a"] < 3,
        progress=lambda: told.append(1),
    )  # fmt: skip
    assert len(found.tried) == len(told) == 6
    assert found.settings == {"a": 1, "b": 30}
    again = search(lambda s: 0.0, SPACE, 5, seed=3).tried
    assert again == search(lambda s: 0.0, SPACE, 5, seed=3).tried
    assert again != search(lambda s: 0.0, SPACE, 5, seed=4).tried


def test_bad_input() -> None:
    model, _ = build("llava")
    with pytest.raises(ValueError, match="no prompts"):
        Faithfulness(model, [])
    with pytest.raises(ValueError, match="0 calls"):
        search(lambda s: 0.0, SPACE, 0)
    with pytest.raises(ValueError, match="for 0 settings"):
        search(lambda s: 0.0, SPACE, 3, allowed=lambda s: False)


@pytest.mark.parametrize("name", ["scenes-llava", "scenes-qwen"])
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """What it writes is what it says, runs, and is no worse than any other that was tried, the defaults included."""
    out = tmp_path / "best.json"
    main(["calibrate", "vflowopt", name, "--out", str(out), "--samples", "2", "--calls", "4", "--keep", "0.2"])
    said, written = capsys.readouterr().out, json.loads(out.read_text())
    assert written["strategy"].startswith("vflowopt(keep=0.2")
    assert written["strategy"] in " ".join(said.split())
    assert written["cosine"] == max(written["defaults"], *(one["cosine"] for one in written["tried"]))
    assert ("none of them is better than the defaults" in said) == (written["cosine"] == written["defaults"])
    assert (written["strategy"] == "vflowopt(keep=0.2)") == (written["cosine"] == written["defaults"])
    assert len(written["tried"]) == 4
    with pytest.raises(SystemExit):
        main(["calibrate", "vflowopt", "scenes-llava", "--out", str(out), "--keep", "1.5"])
    assert "1.5" in capsys.readouterr().err
