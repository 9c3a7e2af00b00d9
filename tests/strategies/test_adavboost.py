"""AdaVBoost: risk by hand, generation against whole edited matrices, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList

import vtokens
from tests.engine.cases import model
from tests.engine.compare import check_tokens, one, ragged
from tests.engine.dense import attending, layout
from tests.engine.edited import Edited, Matrix, generated
from tests.engine.masked import dropped_keys, masking
from tests.limits import close_pass
from tests.strategies.helpers import refuses
from vtokens.adapters import adapter_for
from vtokens.strategies import Facts, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.views.logits import Logits
from vtokens.strategies.views.memory import Memory

SETTINGS = {"visual": 1.6, "text": 1.4, "weight": 0.4, "scale": 0.9, "layers": (0, 2, 3)}


def risk(last: np.ndarray, grounding: np.ndarray) -> float:
    """The formula for one row of logits (V,) and the most that visual tokens predict (V,)."""
    share = np.exp(last - last.max())
    share /= share.sum()
    entropy = -sum(p * math.log(p) for p in share if p > 0) / math.log(len(share))
    return min(1.0, (0.4 * entropy + 0.6 * (1 - grounding[last.argmax()])) / 0.9)


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl"])
@torch.no_grad()
def test_generation_is_that_of_edited_scores(family: str) -> None:
    """Step by step, alone and behind a pruner: the risk from the logits before, and scores edited entry by entry."""
    fields = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    target, reference = model(family, "pruned"), model(family, "plain")
    # What rules the end out would do so before the risk is told of the logits.
    endless = {"do_sample": False, "min_new_tokens": 0, "eos_token_id": 9999}
    batch = ragged(family)
    for before in ("", "fastv(keep=0.5, layer=1)+"):
        with vtokens.attach(target, f"{before}adavboost({fields})") as handle:
            got, report = generated(target, batch, 3, **endless), handle.report()
        ids, valid = batch["input_ids"], batch["attention_mask"]
        placeholder = torch.stack([ids == token for token in adapter_for(reference).placeholder_ids.values()]).any(0)
        visual, text = layout(report, placeholder, valid)
        dropped, risks = dropped_keys(report, valid), torch.zeros(len(ids), dtype=torch.float64)
        found: list[Any] = []

        def edit(m: Matrix, words: Tensor = text, risks: Tensor = risks) -> Tensor:
            if m.fresh:
                return m.scores.softmax(-1)
            prompt = torch.nn.functional.pad(words, (0, m.scores.shape[-1] - words.shape[1]))[:, None, None]
            factor = torch.where(m.visual, 1 + 0.6 * risks[:, None, None, None], torch.where(prompt, 1 / 1.4, 1.0))
            return (m.scores * factor).masked_fill(m.scores.isinf(), -torch.inf).softmax(-1)

        def tell(ids: Tensor, scores: Tensor, risks: Tensor = risks, found: list[Any] = found) -> Tensor:
            for row, said in enumerate(scores.double().numpy()):
                risks[row] = risk(said, found[0][row])
            return scores

        dense: Any = Edited(visual, text, valid.bool(), SETTINGS["layers"], "last", edit)  # type: ignore[arg-type]
        processors: Any = LogitsProcessorList([tell])
        with attending(reference, dense), masking(reference, dropped):
            said = reference(**batch).logits.double().softmax(-1)
            found.append((said * (visual & ~dropped[-1])[..., None]).amax(1).numpy())
            expected = generated(reference, batch, 3, logits_processor=processors, **endless)
        check_tokens(got, expected, 3)
        assert (risks > 0.05).all()


@torch.no_grad()
def test_beams_keep_the_risk_of_their_own() -> None:
    """A sample's beams score in a batch what they score alone, to rounding, and other than without the boost."""
    target, alone = model("llava", "pruned"), one("llava")
    batch = {name: torch.cat([value, value]) for name, value in alone.items()}
    plain = generated(target, alone, 3, num_beams=3, do_sample=False).sequences_scores
    with vtokens.attach(target, "adavboost(visual=3.0, text=3.0, layers=(0, 1, 2, 3))"):
        many, single = (generated(target, some, 3, num_beams=3, do_sample=False) for some in (batch, alone))
    close_pass(many.sequences_scores, single.sequences_scores.expand(2))
    assert (single.sequences_scores - plain).abs().max() > 1e-4


def test_the_risk_of_a_row() -> None:
    """From the row that says the first token, not from padding behind it; samples and layers are told alike."""
    draw = np.random.default_rng(0)
    logits, grounding = draw.normal(size=(2, 4, 7)) * 3, draw.random((2, 7))
    memories = {layer: Memory(samples={"adavboost.risk": torch.zeros(2)}) for layer in (0, 2, 3)}
    memories[0].samples["adavboost.grounding"] = torch.zeros(2, 1)
    step = torch.tensor([[1, 1, 1, 2], [1, 1, 1, 1]])
    strategy = parse("adavboost(weight=0.4, scale=0.9, layers=(0, 2, 3))")[0]
    view = Logits(
        torch.from_numpy(logits).float(), None, step, memories.__getitem__, prepared=(0, 2, 3),
        grounding=torch.from_numpy(grounding).float(),
    )  # fmt: skip
    assert strategy.at_logits(view) is view.positive
    expected = [risk(logits[0, 2], grounding[0]), risk(logits[1, 3], grounding[1])]
    for memory in memories.values():
        assert memory.samples["adavboost.risk"].tolist() == pytest.approx(expected, abs=1e-5)
    later = Logits(
        torch.from_numpy(logits[:, 1:2]).float(), None, step[:, :1] + 1, memories.__getitem__, prepared=(0, 2, 3)
    )
    strategy.at_logits(later)
    expected = [risk(logits[row, 1], grounding[row]) for row in range(2)]
    assert memories[3].samples["adavboost.risk"].tolist() == pytest.approx(expected, abs=1e-5)
    several = Logits(torch.from_numpy(logits).float(), None, step + 1, memories.__getitem__, prepared=(0, 2, 3))
    with pytest.raises(ValueError, match="several were fed at once"):
        strategy.at_logits(several)


@torch.no_grad()
def test_an_answer_fed_along_is_refused() -> None:
    target, batch = model("llava", "pruned"), one("llava")
    with vtokens.attach(target, "adavboost"):
        target(**batch)
        with pytest.raises(ValueError, match="an answer cannot be fed along with its prompt"):
            target(**batch, logits_to_keep=3)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("adavboost(visual=0.9)", r"visual=0.9 is out of range: a finite number from 1 on"),
        ("adavboost(weight=2.0)", r"weight=2.0 is out of range"),
        ("adavboost(scale=0.0)", r"scale=0.0 is out of range"),
        ("adavboost(layers=(9,))", r"layers=9 is out of range"),
        ("adavboost+vaf", r"would weigh attention twice"),
    ],
)
def test_bad_settings(spec: str, reason: str) -> None:
    refuses(spec, reason)


def test_layers_by_depth() -> None:
    facts = Facts("llava", depth=32, tower_depth=24, has_cls=True)
    assert needs_of(parse("adavboost")[0], facts).attend == tuple(range(15))
