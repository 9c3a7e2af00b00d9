"""`transprune` against the modules' own inputs and outputs, and against stored results of the released code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.limits import close
from tests.strategies.helpers import pair
from tests.strategies.staging import best, run, shown
from vtokens.engine.attention.observe import changed
from vtokens.strategies import Attention, Facts, get
from vtokens.strategies.signals import Change

STORED = Path(__file__).parent / "parity" / "transprune.npz"


def transition(given: Tensor, made: Tensor) -> Tensor:
    """float64 (W,), position by position: |y| / |x| exp(1 - cos) / sum of exp(1 - cos)."""
    rows = list(zip(given.double(), made.double(), strict=True))
    unlike = [float(1 - x @ y / (x.norm() * y.norm())) for x, y in rows]
    total = sum(np.exp(one) for one in unlike)
    return torch.tensor(
        [float(y.norm() / x.norm()) * np.exp(one) / total for (x, y), one in zip(rows, unlike, strict=True)]
    )


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_each_stage_keeps_what_moves_and_what_the_text_attends_to(family: str) -> None:
    """Scores in float64 from hooks on an eager copy in which what was dropped is masked."""
    import vtokens
    from tests.engine.masked import dropped_keys, masking
    from tests.strategies.test_fastv import batch_of, text_after

    spec, batch = "transprune(keep=0.3)", batch_of(family, "left")
    found = run(family, spec)
    with vtokens.attach(pair(family)[0], spec) as handle:
        pair(family)[0](**batch)
        report = handle.report()
    noted: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    def look(layer: int, part: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            noted[layer, part] = (
                args[0] if args else kwargs["hidden_states"],
                output[0] if isinstance(output, tuple) else output,
            )

        return hook

    hooks = []
    for number, layer in enumerate(found.model.model.language_model.layers):
        hooks.append(layer.self_attn.register_forward_hook(look(number, "self_attn"), with_kwargs=True))
        hooks.append(layer.mlp.register_forward_hook(look(number, "mlp"), with_kwargs=True))
    with masking(found.model, dropped_keys(report, batch["attention_mask"])):
        found.model(**batch)
    for hook in hooks:
        hook.remove()
    for picture in found.pictures:
        row, whole = picture.row, len(picture.places)
        first = min(place for one in found.pictures if one.row == row for place in one.places)
        text = text_after(family, batch, row, first)
        for stage, share in enumerate((*get("transprune")(keep=0.3).shares(0.3), 0.3)):
            layer = stage + 1
            before = picture.left[layer - 1]
            moved = torch.zeros(len(before), dtype=torch.float64)
            for number in range(layer):
                seen = [int(place) for place in report.samples[row].positions[number]]
                for part in ("self_attn", "mlp"):
                    given, made = (side[row, seen] for side in noted[number, part])
                    value = transition(given, made)
                    moved += torch.stack([value[seen.index(place)] for place in before])
            asked = found.attentions[layer - 1][row][:, text].mean((0, 1))[before]
            score = moved / moved.sum() + asked / asked.sum()
            assert picture.left[layer] == best(score, before, max(1, int(whole * share + 0.5)))


def test_scores_are_those_of_the_release() -> None:
    """What the engine notes of given and made states, and the score made of it, against stored results.

    Stored: `compute_transf_weight` and the stage's score of llava/model/modeling_llama_transprune.py of
    liaolea/TransPrune at f4cb73b, run outside this project on Gaussian states of 24 positions (torch seed 13).
    """
    stored = {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(STORED).items()}
    start, end = int(stored["start"]), int(stored["end"])
    everywhere = torch.ones(1, stored["given"].shape[-2], dtype=torch.bool)
    asked = torch.zeros(everywhere.shape[1])
    asked[start:end] = stored["attention"]
    signals: dict[Any, Tensor] = {Attention(1, "text"): asked}
    for layer in range(2):
        for number, part in enumerate(("attention", "mlp")):
            given, made = (stored[name][layer, number][None] for name in ("given", "made"))
            signals[Change(layer, part)] = changed(given, made, everywhere)[0]  # type: ignore[arg-type]
    visuals = shown(signals, torch.zeros(everywhere.shape[1], 6), start, end, prepared=(1, 2, 3))
    close(get("transprune")().score(visuals, 2)[0], stored["score"], terms=24, chain=4)


def test_the_schedule_of_the_release() -> None:
    """Layers 7, 9 and 12 of 32, and 7/8, 5/8 and 1/8 of the tokens; transitions are watched from layer 6 on."""
    strategy, facts = get("transprune")(), Facts("llava", depth=32, tower_depth=4, has_cls=True)
    assert strategy.prepare(facts) == (7, 9, 12)
    assert [strategy._left(576, stage) for stage in range(3)] == [504, 360, 72]
    watched = {one.layer for one in strategy.needs(facts).signals if hasattr(one, "part")}
    assert watched == {6, 7, 8, 9, 10, 11}
