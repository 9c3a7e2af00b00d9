"""`zoo` and its signal against the released code, derivatives of the genuine projectors in float64, and linear ones."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

import vtokens
from tests.families import BLIND, image, inputs
from tests.limits import close
from tests.strategies.helpers import arrange, crops_of, kept, pair, three_rows
from tests.strategies.invariants import Shown, drawn, hold, keeps_all, picks
from tests.strategies.test_todre import features
from tests.strategies.walks import cosines, scaled
from vtokens.engine.stages.sensitivity import moved
from vtokens.strategies import Facts, Needs, Sensitivity, Strategy, Visuals
from vtokens.strategies.prune.zoo import Zoo

STORED = Path(__file__).parent / "parity" / "zoo.npz"
FEW = Sensitivity(directions=3, seed=5)


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    """What the release gave, AIM-SKKU/ZOO-Prune at 159f7f9: LLaVA/llava/model/llava_arch.py, its sensitivity and
    `select_tokens_sads`, in float32, of 48 rows of 16 channels and a projector Linear(16, 24), GELU, Linear(24, 24),
    m = 64, h = 0.01, torch.manual_seed(0) before the directions are drawn; the first 20 choices."""
    with np.load(STORED) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def projector(stored: dict[str, Tensor]) -> nn.Module:
    module = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))
    names = {"0.weight": "w0", "0.bias": "b0", "2.weight": "w2", "2.bias": "b2"}
    module.load_state_dict({name: stored[own] for name, own in names.items()})
    return module


def test_the_released_code_measures_the_same(stored: dict[str, Tensor]) -> None:
    """Differences of features, as large as the features, are divided by twice the step."""
    got = moved(projector(stored), stored["rows"][None], Sensitivity())
    close(got, stored["importance"], 24, chain=3, size=stored["features"].abs().max() / 0.02)
    assert stored["importance"].std() > 0.05 * stored["importance"].mean()


def test_the_released_code_picks_the_same_tokens(stored: dict[str, Tensor]) -> None:
    """From the sensitivities and features that the release has."""
    picture = Shown(stored["features"], more={"sensitivity": stored["importance"]})
    for count in (1, 5, 20):
        assert picks(Zoo(keep=count), picture) == [sorted(stored["selected"][:count].tolist())]


def test_a_linear_projector_is_as_sensitive_to_every_row() -> None:
    """P(x + hu) - P(x - hu) is 2hWu wherever x is; then the first token is kept, and what is least like it."""
    module, rows = nn.Linear(8, 12), torch.randn(1, 30, 8)
    got = moved(module, rows, Sensitivity(directions=7))
    close(got, got.mean().expand(30), 8, chain=3, size=12.0 / 0.02)
    one = drawn(4, 12)
    (found,) = picks(Zoo(keep=2), Shown(one.tokens, more={"sensitivity": torch.full((12,), 0.7)}))
    unlike = np.argmin(cosines(one.tokens.double().numpy())[0])
    assert found == [0, unlike]


def test_rows_are_pushed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 would lose the step: a projector in bfloat16 is measured as one in float32 with the same weights."""
    module, rows = nn.Sequential(nn.Linear(8, 12), nn.GELU()).bfloat16(), torch.randn(2, 5, 8).bfloat16()
    wide = copy.deepcopy(module).float()
    whole = moved(module, rows, Sensitivity(directions=9))
    assert torch.equal(whole, moved(wide, rows.float(), Sensitivity(directions=9)))
    # Whatever room there is for pushed rows.
    monkeypatch.setattr("vtokens.engine.stages.sensitivity._ROOM", 1)
    close(moved(module, rows, Sensitivity(directions=9)), whole, 9)


@dataclass(frozen=True)
class Look(Strategy):
    """Writes the signal down and drops nothing."""

    log: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(FEW,))

    def at_prompt(self, visuals: Visuals) -> None:
        found = visuals.sensitivity(FEW.directions, FEW.step, FEW.seed)
        self.log["seen"] = [part[real] for part, real in zip(found, visuals.valid, strict=True)]


@torch.no_grad()
def looked(model: Any, batch: Any) -> list[Tensor]:
    look = Look()
    with vtokens.attach(model, look):
        model(**batch)
    return look.log["seen"]


@torch.no_grad()
def expected(family: str, model: Any, batch: Any) -> list[Tensor]:
    """One direction after the other, the projector in float64, on what it is given; brought to tokens by hand."""
    visual = getattr(model.model, "visual", None)
    module = visual.merger if visual is not None else model.model.multi_modal_projector
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**batch)
    hook.remove()
    double, scores = copy.deepcopy(module).double(), []
    for rows in seen:
        made, total = torch.Generator().manual_seed(FEW.seed), 0.0
        pushes = torch.randn(FEW.directions, rows.shape[-1], generator=made).double()
        for push in pushes:
            push = FEW.step * push / push.norm()
            ahead, back = double(rows.double() + push), double(rows.double() - push)
            total = total + (ahead - back).norm(dim=-1) / (2 * FEW.step)
        scores.append(total / FEW.directions)
    if visual is not None:
        order, _ = get_vision_window_index(
            batch["image_grid_thw"], 2, window_size=visual.window_size, patch_size=visual.patch_size
        )
        raster = torch.empty_like(scores[0])
        raster[order] = scores[0]
        return list(raster.split((batch["image_grid_thw"].prod(1) // 4).tolist()))
    parts = torch.cat(scores).split([len(crops) for crops in crops_of(batch)])
    if family == "llava":
        return [part.flatten() for part in parts]
    return [arrange(part, size) for part, size in zip(parts, batch["image_sizes"].tolist(), strict=True)]


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_the_signal_is_that_of_the_genuine_projector(family: str) -> None:
    """In a ragged batch of several pictures, tiles arranged and windows undone; and its pictures by themselves."""
    model, batch = pair(family)[0], three_rows(family)
    got, slow = looked(model, batch), expected(family, model, batch)
    assert len(got) == len(slow) == 3
    for one, other in zip(got, slow, strict=True):
        assert other.std() > 1e-3 * other.mean()
        close(one, other.float(), 128, chain=3, size=float(features(model, batch)[0].abs().max()) / 0.02)
    counts = [4] * 3
    like = [cosines(part.double().numpy()) for part in features(model, batch)]
    weights = [scaled(one.double().numpy()) for one in got]
    chosen = kept(model, batch, "zoo(keep=4, directions=3, seed=5)")
    assert chosen == [sorted(walk(*pair_)) for pair_ in zip(like, weights, counts, strict=True)]


def walk(like: np.ndarray, weight: np.ndarray, count: int) -> list[int]:
    """The most sensitive, then always the highest product."""
    found = [int(np.argmax(weight))]
    while len(found) < count:
        worth = [
            -1.0 if one in found else weight[one] * min(1 - like[one, other] for other in found)
            for one in range(len(weight))
        ]
        found.append(int(np.argmax(worth)))
    return found


def test_what_the_projector_puts_out_stays() -> None:
    """Watching it changes no bit of the features, and features that were stored bring the signal along."""
    model, processor = pair("llava")
    batch = dict(inputs(processor, ["what is <image> this"], [[image(84, 60, seed=3)]]))
    with torch.no_grad():
        plain = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
        with vtokens.attach(model, "zoo(keep=4)"):
            out = model.model.get_image_features(batch["pixel_values"], return_dict=True)
            assert torch.equal(torch.stack([*out.pooler_output]), torch.stack([*plain]))
            again = copy.deepcopy(out)
            rest = {name: value for name, value in batch.items() if name != "pixel_values"}
            expected_logits = model(**batch).logits
            assert torch.equal(model(**rest, mm_encoder_outputs={"image": again}).logits, expected_logits)


def test_behind_merging_in_the_tower_every_patch_has_the_score_of_its_token() -> None:
    """Tokens that the tower merged go through the projector once."""
    model, batch = pair("llava")[0], three_rows("llava")
    kept_tokens = kept(model, batch, "dymu(thresholds=(0.5, 0.5, 0.5))+zoo(keep=0.5, directions=3)")
    assert all(kept_tokens)


def test_what_holds_for_every_pruner() -> None:
    hold_with_sensitivity()
    keeps_all("zoo", ["llava"], directions=2)


def hold_with_sensitivity() -> None:
    """`hold` on a strategy that finds its weights where others find saliency."""

    @dataclass(frozen=True)
    class AsSalient(Zoo):
        def at_prompt(self, visuals: Visuals) -> Any:
            visuals.sensitivity = lambda *_: visuals.saliency()  # type: ignore[method-assign]
            return super().at_prompt(visuals)

    hold(AsSalient(keep=5))


@pytest.mark.parametrize("family", ["gemma3", "internvl", *BLIND[:1]])
def test_a_family_whose_projector_nobody_named_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match="what projects its tokens"):
        vtokens.attach(pair(family)[0], "zoo")


def test_a_projector_that_is_quantised_or_elsewhere_is_refused() -> None:
    model = copy.deepcopy(pair("llava")[0])
    model.model.multi_modal_projector.to("meta")
    with pytest.raises(ValueError, match="quantised, and reads none that are offloaded"):
        vtokens.attach(model, "zoo")


@pytest.mark.parametrize("settings", [{"directions": 0}, {"step": 0.0}, {"step": float("inf")}, {"seed": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        Zoo(**settings)


def test_the_signal_itself_refuses_them() -> None:
    @dataclass(frozen=True)
    class Wrong(Look):
        def needs(self, facts: Facts) -> Needs:
            return Needs(signals=(Sensitivity(directions=0),))

    with pytest.raises(ValueError, match="at least one direction"):
        vtokens.attach(pair("llava")[0], Wrong())


def test_a_signal_nobody_asked_for_is_named() -> None:
    @dataclass(frozen=True)
    class Quiet(Look):
        def needs(self, facts: Facts) -> Needs:
            return Needs()

    model, batch = pair("llava")[0], three_rows("llava")
    with vtokens.attach(model, Quiet()), pytest.raises(ValueError, match="did not ask for the tower's Sensitivity"):
        model(**batch)
