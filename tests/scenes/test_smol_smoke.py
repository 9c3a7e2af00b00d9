"""Every strategy that is listed on the real scenes-smol: it answers what is easy, and drops and changes what it says.

Runs where the extra smol is installed (`.ci/run` installs it), on one float32 model.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.limits import close
from tests.scenes.real_smol import MASSIVE, batch, load_or_skip
from vtokens.adapters import adapter_for
from vtokens.calibrate.sinks import default_tau
from vtokens.calibrate.thresholds import measure
from vtokens.scenes import Example, answer, examples, score
from vtokens.strategies import Composition, ScorePruner, SubsetPruner, VideoPruner, get, list_strategies
from vtokens.tables.patterns import AShape, Head, Patterns, Run
from vtokens.tables.sinks import Sinks

ASKED = 6
PLAIN_LEAST, LEAST = 10, 4  # right of 12 without a strategy; under one, of 6 that are right without
KEEP, TOKENS, ALL = 0.75, 108, 144
STRATEGIES = vtokens.strategies()
FIELDS = {name: vtokens.describe(name).fields for name in STRATEGIES}
TEMPORAL = [name for name in STRATEGIES if issubclass(get(name), VideoPruner)]  # refused, since it sees no videos
OPEN = {"corematching", "dyvte", "restore", "shortv", "vtw", "yopo"}
"""How many tokens these leave is up to the picture, or to a pruner before them."""
WHOLE = [name for name in STRATEGIES if not issubclass(get(name), Composition)]
CONTRASTS = list_strategies(stage="logits")  # what they keep is what their other prompt sees
PRUNERS = [name for name in WHOLE if "keep" in FIELDS[name] and name not in {*TEMPORAL, *CONTRASTS}]
STEADY = [name for name in PRUNERS if issubclass(get(name), ScorePruner | SubsetPruner)]
"""Those that leave as many tokens as was asked for in every layer behind them; others share them out over layers."""
MERGERS = ["dymu"]
GENTLE = {"vista": "vista(weight=0.05, gamma=0.1)"}
"""What leaves short answers alone; with the defaults they go on behind their end (docs/strategies/vista.md)."""
BY_ALPHA = [name for name in CONTRASTS if "alpha" in FIELDS[name] and name != "pai"]
SILENT = ["vhr(alpha=1)", "pai(gamma=1, beta=0)", *(f"{name}(alpha=0, beta=0)" for name in BY_ALPHA)]


@pytest.fixture(scope="module")
def smol() -> tuple[Any, Any]:
    return load_or_skip()


@pytest.fixture(scope="module")
def easy(smol: tuple[Any, Any]) -> list[Example]:
    """Questions that the model answers without a strategy; it answers nearly all of those that are drawn."""
    asked = examples("test", 12, seed=3, kinds=["exist", "where", "colour_of"])
    right = [e for e, text in zip(asked, answer(*smol, asked), strict=True) if score(text, e)]
    assert len(right) >= PLAIN_LEAST
    return right[:ASKED]


@pytest.fixture(scope="module")
def plain(smol: tuple[Any, Any], easy: list[Example]) -> Tensor:
    """Logits of the first question, before anything was attached."""
    return first_logits(smol, easy)


@pytest.fixture(scope="module")
def files(smol: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What strategies have to know of a model, as arguments."""
    model, processor = smol
    facts, folder = adapter_for(model).facts, tmp_path_factory.mktemp("tables")
    Sinks(facts.decoder, (MASSIVE,), default_tau(facts.width), "chosen by hand").save(folder / "sinks")
    pictures = batch(processor, examples("calibration", 8, kinds=["exist"]))
    measure(model, lambda: [pictures], [KEEP], "8 scenes").save(folder / "thresholds")
    heads = model.config.text_config.num_attention_heads
    shape = Head(Run("none", AShape(32, 96)), density=0.9, score=0.1, recall=0.9)
    Patterns(facts.decoder, (16, 16), 0.01, "chosen by hand", ((shape,) * heads,) * facts.depth).save(
        folder / "patterns"
    )
    return {field: f"{field}={str(folder / field)!r}" for field in ("sinks", "thresholds", "patterns")}


@dataclass(frozen=True)
class Said:
    """The first token's logits (B, V), the report and the texts of a call."""

    logits: Tensor
    report: vtokens.Report
    texts: list[str]


def first_logits(smol: tuple[Any, Any], asked: list[Example]) -> Tensor:
    with torch.no_grad():
        return smol[0](**batch(smol[1], asked[:1]), logits_to_keep=1).logits


def say(smol: tuple[Any, Any], spec: str, keep: float | None, asked: list[Example]) -> Said:
    """Greedy answers of a batch under a strategy."""
    model, processor = smol
    inputs = batch(processor, asked)
    with vtokens.attach(model, spec, keep) as handle:
        # A prompt that only names the picture leads nowhere, and must not lead astray.
        other = [vtokens.scenes.prompt(processor, "Describe the image.")] * len(asked)
        leading = processor(images=[e.image for e in asked], text=other, padding=True, return_tensors="pt")
        with handle.negative_prompt(**leading) if "lqcd" in spec else nullcontext():
            out = model.generate(
                **inputs, do_sample=False, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
            )
        report = handle.report()
    texts = processor.batch_decode(out.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return Said(out.logits[0], report, [text.strip() for text in texts])


def spec_of(model: Any, name: str, files: dict[str, str]) -> str:
    """The strategy as it stands, or with a table where none ships for the model."""
    needed = [files[field] for field in FIELDS[name] if field in files]
    if name in GENTLE:
        return GENTLE[name]
    if "min_length" in FIELDS[name]:  # it leaves short prompts alone
        return f"{name}({', '.join(needed)}, min_length=16)"
    try:
        vtokens.attach(model, name).detach()
    except ValueError:
        return f"{name}({', '.join(needed)})"
    return name


@pytest.mark.parametrize("name", PRUNERS)
def test_all_tokens_kept_change_no_bit(smol, easy, plain, name):
    leave = ", exit_threshold=None" if "exit_threshold" in FIELDS[name] else ""
    with vtokens.attach(smol[0], f"{name}(keep=1.0{leave})"):
        assert torch.equal(first_logits(smol, easy), plain)


@pytest.mark.parametrize("name", TEMPORAL)
def test_what_drops_tokens_of_videos_is_refused(smol, name):
    with pytest.raises(ValueError, match=f"'{name}' drops tokens of videos alone, and a Llava"):
        vtokens.attach(smol[0], name)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in {*TEMPORAL, *OPEN}])
def test_what_is_easy_is_answered(smol, easy, plain, files, name):
    """The visual tokens are as many as was asked for, a batch answers as each sample alone, nothing stays behind."""
    spec, keep = spec_of(smol[0], name, files), KEEP if name in PRUNERS else None
    said = say(smol, spec, keep, easy)
    if name not in PRUNERS or (name in STEADY and name != "cdpruner"):  # whose relevance is a stand-in
        assert sum(score(text, e) for text, e in zip(said.texts, easy, strict=True)) >= LEAST, said.texts
    for sample in said.report.samples:
        seen = set(sample.visual_tokens)
        if name in STEADY:
            assert TOKENS in seen
            assert seen <= {ALL, TOKENS, 0}
        elif name in PRUNERS or name not in WHOLE:
            assert min(seen) < ALL
        elif name in MERGERS:
            assert 0 < min(seen) < ALL
        else:
            assert seen == {ALL}
    if name == "mminference":
        assert said.report.contributions[0].figures["heads_dense"] == 0
    shortest = min(range(ASKED), key=lambda row: len(easy[row].question))
    alone = say(smol, spec, keep, [easy[shortest]])
    assert alone.texts == [said.texts[shortest]]
    assert said.report.samples[shortest].visual_tokens == alone.report.samples[0].visual_tokens
    finite = alone.logits[0].isfinite()
    assert torch.equal(finite, said.logits[shortest].isfinite())
    text = smol[0].config.text_config
    # Each token's state is as large as the first one's, which is massive, where it is normed.
    close(said.logits[shortest][finite], alone.logits[0][finite], text.intermediate_size, 2 * text.num_hidden_layers)
    assert torch.equal(first_logits(smol, easy), plain)


@pytest.mark.parametrize("spec", SILENT)
def test_a_strategy_of_no_weight_changes_no_answer(smol, easy, plain, spec):
    said = say(smol, spec, None, easy[:1])
    close(said.logits, plain[:, -1], smol[0].config.text_config.hidden_size)
