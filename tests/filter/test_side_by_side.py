"""Signals of several answers computed side by side are those of each answer by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.families import build
from tests.filter.traced import ask, mention
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.filter.mentions import Mention
from vtokens.filter.signals import Spans, features, features_of, get_signals, parts_for
from vtokens.filter.signals.base import Over
from vtokens.filter.signals.nll import Nll
from vtokens.filter.trace.passes import score
from vtokens.filter.trace.trace import Trace

SAID = [[16, 40, 41, 42, 50], [20, 21], [31, 32, 33, 34, 35, 36, 37]]
MENTIONS = [
    [mention((0,)), mention((1, 2, 4), repeat=True), mention((4,))],
    [Mention(0, 3, "two", "count", "two", tokens=(0, 1))],
    [mention((6,)), mention((2, 3))],
]


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    model, processor = build("llava")
    signals = [signal for signal in get_signals("full") if not signal.passes]
    return score(model, processor, *ask(processor), SAID, parts_for(signals, len(adapter_for(model).layers)))


def test_side_by_side(traces: list[Trace]) -> None:
    """For every signal that costs no pass, with answers and mentions of several lengths."""
    signals = [signal for signal in get_signals("full") if not signal.passes]
    assert sum(vars(type(signal)).get("by_token", False) for signal in signals) == 10
    together = features_of(traces, MENTIONS, signals)
    for trace, mentions, found in zip(traces, MENTIONS, together, strict=True):
        alone = features(trace, mentions, signals)
        assert [*found] == [*alone]
        for name, values in alone.items():
            close_pass(torch.tensor(found[name]), torch.tensor(values))


@pytest.mark.parametrize("how", ["first", "last", "mean", "max", "sum"])
def test_tokens_put_together(how: Over) -> None:
    """Each answer's own tokens, whatever stands in those beside it."""
    rows = torch.tensor([[1.0, 5.0, 2.0, 9.0, 4.0, 100.0, 200.0], [-1.0, -5.0, -2.0, -9.0, -4.0, -100.0, -200.0]])
    parts = []
    for length, mentions in ((5, MENTIONS[0]), (2, MENTIONS[1])):
        trace = object.__new__(Trace)
        trace.ids = torch.zeros(length, dtype=torch.long)
        parts.append(Spans(mentions, trace))
    found = Spans.joined(parts).over(rows, how)
    reduce: dict[str, Callable[[Tensor], Tensor]] = {
        "first": lambda row: row[0], "last": lambda row: row[-1], "mean": torch.mean, "max": torch.amax,
        "sum": torch.sum,
    }  # fmt: skip
    tokens = [(0,), (1, 2, 4), (4,), (5, 6)]
    expected = torch.stack([torch.stack([reduce[how](row[list(some)]) for some in tokens]) for row in rows])
    torch.testing.assert_close(found, expected)


def test_a_signal_made_of_one_of_ours_is_asked_about_each_answer(traces: list[Trace]) -> None:
    """It may read more than its base does."""

    @dataclass(frozen=True)
    class Nearest(Nll):
        name = "nearest"

        def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
            return {self.name: torch.full((len(spans.mentions),), float(len(trace)))}

    found = features_of(traces, MENTIONS, [Nearest()])
    assert [one["nearest"] for one in found] == [[5.0] * 3, [2.0], [7.0] * 2]
