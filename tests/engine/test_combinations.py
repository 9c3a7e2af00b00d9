"""Attach combinations, drawn: strategies with drawn settings, on data that triggers what depends on data."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import vtokens
from tests.engine.cases import examples, model, pictured
from tests.engine.combos import Allowed, allowed, attachments
from tests.engine.contrasted import ruled_out
from tests.engine.state import snapshot
from tests.families import ALL, image, inputs
from vtokens.adapters import adapter_for
from vtokens.core.compat import returned_cache
from vtokens.strategies import Strategy
from vtokens.strategies.views.logits import Prompt

NEW = 2
LIMIT = 1e-3
"""Of logits, whose size is about 20; contrasts of weight 2 add up the rounding of five times that."""


@dataclass(frozen=True)
class Drawn:
    """One example.

    Attributes:
        spec: the strategies.
        prompts, sizes: one prompt, and the sizes of its pictures, for each row.
        flat: pictures are of one colour, so that their tokens are as good as equal.
        side: padding side.
        answers: `generate` is called, and not the model alone.
        seed: of the pictures.
    """

    spec: tuple[Strategy, ...]
    prompts: tuple[str, ...]
    sizes: tuple[tuple[tuple[int, int], ...], ...]
    flat: bool
    side: Any
    answers: bool
    seed: int

    def batch(self, family: str, rows: list[int], prompts: tuple[str, ...]) -> dict[str, Any]:
        """Some of its rows."""
        pictures = [
            [
                Image.new("RGB", size, (30 * row, 90, 200)) if self.flat else image(*size, seed=self.seed + 9 * row + i)
                for i, size in enumerate(self.sizes[row])
            ]
            for row in rows
        ]
        return dict(inputs(family, [prompts[row] for row in rows], pictures, self.side))


@st.composite
def drawn(draw: st.DrawFn, options: Allowed) -> Drawn:
    prompts, sizes = draw(pictured(st.sampled_from([3, 2, 1])))
    answers = draw(st.booleans())
    side = "left" if answers else draw(st.sampled_from(["left", "right"]))
    flat, seed = draw(st.sampled_from([False, False, False, True])), draw(st.integers(0, 99))
    return Drawn(draw(attachments(options)), tuple(prompts), sizes, flat, side, answers, seed)


def attached(target: Any, spec: Any) -> vtokens.Handle | None:
    """The attachment; None if it was refused, in which case the model is as it was."""
    before = snapshot(target)
    try:
        return vtokens.attach(target, list(spec))
    except (ValueError, TypeError):
        assert snapshot(target) == before
        return None


def ask(target: Any, family: str, case: Drawn, rows: list[int]) -> tuple[list[list[Tensor]], Any, dict[str, Any]]:
    """For each row the logits (positions, V) step by step; the cache; what was fed."""
    batch = case.batch(family, rows, case.prompts)
    handle, other = vtokens.attachment(target), nullcontext()
    facts = adapter_for(target).facts
    if handle is not None and any(
        "logits" in part.stages() and isinstance(part.negative(facts), Prompt) for part in handle.strategies
    ):
        leading = tuple("It is! " + text for text in case.prompts)
        other = handle.negative_prompt(**dataclasses.replace(case, side="left").batch(family, rows, leading))
    with other:
        if not case.answers:
            out = target(**batch, use_cache=True)
            valid = batch["attention_mask"].bool()
            return [[logits[real]] for logits, real in zip(out.logits, valid, strict=True)], returned_cache(out), batch
        out = target.generate(
            **batch, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    return [[step[row][None] for step in out.logits] for row in range(len(rows))], returned_cache(out), batch


def alike(mine: list[Tensor], theirs: list[Tensor]) -> None:
    """The same logits up to rounding, until a tie sends the two different ways."""
    for one, other in zip(mine, theirs, strict=True):
        one, other = ruled_out(one), ruled_out(other)
        # Rounding may rule out a token more or less that is just as probable as the limit.
        assert int((one.isinf() != other.isinf()).sum(1).max()) <= 1
        both = one.isfinite() & other.isfinite()
        torch.testing.assert_close(one[both], other[both], rtol=0, atol=LIMIT)
        if one[-1].argmax() != other[-1].argmax():
            return


def check_cache(cache: Any, batch: dict[str, Any], report: vtokens.Report, new: int) -> None:
    """Every layer counts what was fed and stores no more than what its layer saw."""
    valid = batch["attention_mask"]
    width, places = valid.shape[1], torch.arange(valid.shape[1])
    behind = (places > (valid * places).amax(1, keepdim=True)).sum(1)
    for index, layer in enumerate(cache.layers):
        seen = torch.tensor([len(sample.positions[index]) for sample in report.samples])
        stored = int((seen + behind).max()) if (seen < valid.sum(1)).any() else width
        assert layer.keys.shape[-2] == layer.values.shape[-2] == stored + new
        assert layer.get_seq_length() == width + new


def holds(case: Drawn, family: str) -> None:
    """All that is promised of any attachment."""
    target = model(family, "pruned")
    handle = attached(target, case.spec)
    if handle is None:
        return
    rows = list(range(len(case.prompts)))
    with handle:
        try:
            together, cache, batch = ask(target, family, case, rows)
        except ValueError as error:
            if "asks for more than the" in str(error):  # a number of tokens that is not there any more
                return
            raise
        check_cache(cache, batch, handle.report(), NEW - 1 if case.answers else 0)
        again = ask(target, family, case, rows)[0]
        for one, other in zip(together, again, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        # Which of equal tokens are chosen is a matter of rounding; merging them, and looking at them, is not.
        if len(rows) > 1 and not (case.flat and any(map(chooses, case.spec))):
            for row in rows:
                alike(together[row], ask(target, family, case, [row])[0][0])


def chooses(strategy: Strategy) -> bool:
    """Whether it ranks tokens, in the answer's own pass or in a negative prompt."""
    return "keep" in vtokens.describe(strategy.name).fields or "logits" in strategy.stages()


def nothing_dropped(case: Drawn, family: str) -> None:
    """Strategies at `keep=1.0` change no bit of what the others do."""
    target, rows = model(family, "pruned"), list(range(len(case.prompts)))
    # What contrasts keep is what their other prompt sees.
    takers = ["keep" in vtokens.describe(s.name).fields and "logits" not in s.stages() for s in case.spec]
    kept = [dataclasses.replace(s, keep=1.0) if takes else s for s, takes in zip(case.spec, takers, strict=True)]
    rest = [strategy for strategy, takes in zip(case.spec, takers, strict=True) if not takes]
    if len(rest) == len(kept):
        return
    found = []
    for spec in (kept, rest):
        handle = attached(target, spec)
        if handle is None:
            return
        with handle:
            try:
                found.append(ask(target, family, case, rows)[0])
            except ValueError as error:
                if "asks for more than the" in str(error):  # a contrast's own number of tokens, of those that are left
                    return
                raise
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.mark.fuzz
@pytest.mark.parametrize("family", ALL)
def test_combinations(family: str, folder: Path) -> None:
    """A batch gives what each sample does alone, twice the same; nothing stays behind; `keep=1.0` changes no bit."""
    options = allowed(family, folder)
    kind = type(model(family, "pruned")).__name__.removesuffix("ForConditionalGeneration")
    for name, reasons in options.refused.items():
        own = any(f"'{name}'" in reason and (kind in reason or repr(family) in reason) for reason in reasons)
        alone = ("joins features of several tower blocks", "and there is none: write it behind a pruner")
        assert own or any(why in reason for reason in reasons for why in alone), (name, reasons)
    # transformers leaves hooks of its own at the first call.
    model(family, "pruned")(**inputs(family, ["Look: <image>"], [[image(60, 60, seed=0)]]))

    @settings(max_examples=examples(family))
    @given(drawn(options))
    @torch.no_grad()
    def all_of_it(case: Drawn) -> None:
        before = snapshot(model(family, "pruned"))
        holds(case, family)
        nothing_dropped(case, family)
        assert snapshot(model(family, "pruned")) == before

    if settings.default.derandomize:  # or every family would draw the same cases
        all_of_it = hypothesis.seed(ALL.index(family))(all_of_it)
    all_of_it()
