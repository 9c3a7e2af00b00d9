"""A filter on a benchmark: the model answers, or answers are given, and what the filter says is held against labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtokens.eval.detectors.benchmarks import Case
from vtokens.eval.detectors.figures import Figures, by_part


@dataclass(frozen=True)
class Judgements:
    """Claims of many answers that a benchmark has labels for, side by side.

    Attributes:
        p: what the filter says. wrong: the label. group: the picture. part: of the benchmark. position, length: of the
            claim in its answer, and of the answer, in characters.
        calibrated: whether `p` are probabilities.
        unlabelled: claims that the benchmark says nothing of.
        silent: answers in which nothing was judged.
    """

    p: tuple[float, ...]
    wrong: tuple[bool, ...]
    group: tuple[str, ...]
    part: tuple[str, ...]
    position: tuple[int, ...]
    length: tuple[int, ...]
    calibrated: bool
    unlabelled: int = 0
    silent: int = 0

    def figures(self, resamples: int = 500) -> list[Figures]:
        """AUROC, F1 and ECE with intervals by picture: of all, of each part, and of what needs no model.

        Raises:
            ValueError: nothing was judged that has a label.
        """
        if not self.p:
            raise ValueError("nothing was judged that this benchmark has a label for: another extractor may find more")
        columns = (self.p, self.wrong, self.group, self.part, self.position, self.length)
        return by_part(*columns, resamples, probabilities=self.calibrated)


def judged(
    hf: Any, cases: Sequence[Case], responses: Sequence[str] | None = None, batch: int = 16, **generate_kwargs: Any
) -> Judgements:
    """Have a model answer the questions, and its filter judge the answers.

    Args:
        hf: a `HallucinationFilter`.
        cases: the benchmark.
        responses: answers that are there already, one a case; None takes the benchmark's, or has the model write them
            where it has none.
        batch: questions in one pass.
        generate_kwargs: as of `model.generate`.

    Raises:
        ValueError: another number of responses than of cases. OSError: a picture that cannot be read.
    """
    if responses is not None and len(responses) != len(cases):
        raise ValueError(f"got {len(responses)} responses for {len(cases)} questions: one each is needed")
    own = [case.response for case in cases if case.response is not None]
    if responses is None and own:
        if len(own) < len(cases):
            raise ValueError(f"{len(own)} of {len(cases)} questions have an answer: judge them apart from the others")
        responses = own
    rows: list[tuple[float, bool, str, str, int, int]] = []
    unlabelled = silent = 0
    calibrated = True
    for start in range(0, len(cases), batch):
        part = list(cases[start : start + batch])
        shown, asked = [str(case.image) for case in part], [case.question for case in part]
        if responses is None:
            reports = [one.report for one in hf.generate(shown, asked, "flag", **generate_kwargs)]
        else:
            reports = hf.check(shown, asked, list(responses[start : start + batch]))
        for case, report in zip(part, reports, strict=True):
            calibrated = calibrated and report.calibrated
            silent += not report.mentions
            if case.claim is not None and report.mentions:
                whole = 1 - math.prod(1 - one.p for one in report.mentions)
                place = str(case.image), case.part, case.position, len(report.response)
                rows.append((whole, case.claim, *place))
            for one in report.mentions if case.claim is None else ():
                label = case.wrong(one.mention)
                if label is None:
                    unlabelled += 1
                    continue
                rows.append((one.p, label, str(case.image), case.part, one.mention.start, len(report.response)))
    columns = list(zip(*rows, strict=True)) or [()] * 6
    p, wrong, group, parts, position, length = columns
    return Judgements(p, wrong, group, parts, position, length, calibrated, unlabelled, silent)
