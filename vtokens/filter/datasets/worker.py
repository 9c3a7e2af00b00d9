"""Filters the rows of a caption data set with one model, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from vtokens.core.images import open_image
from vtokens.core.reading import within
from vtokens.filter.actions.action import Outcome
from vtokens.filter.datasets.rows import OWN, DatasetRow, Refusal

Batch = list["DatasetRow | Refusal"]
Done = tuple[list[tuple[DatasetRow, dict[str, Any]]], list[Refusal]]
"""Rows with what is written for each, and rows that are set aside."""


class _Outside(ValueError):
    """A picture that is there, perhaps, and not to be looked at."""


class Worker:
    """Filters batches with one model.

    Args:
        hf: a `HallucinationFilter`.
        folder: paths of pictures are relative to it, and lie in it.
        action: "flag" leaves the texts, "redact" drops sentences, "abstain" puts null in place of the text.
        risk, threshold: as in `HallucinationFilter.act`; if neither is given, a calibrated filter acts on a probability
            above 0.5: the texts are not its model's, so its certificates would guarantee nothing.
        allow_outside: whether pictures outside of the folder, by "..", an absolute path or a link, are opened.

    Raises:
        ValueError: an action that is not for data sets, no threshold, or a risk that cannot be guaranteed.
    """

    def __init__(
        self,
        hf: Any,
        folder: str | Path,
        action: str = "flag",
        risk: Any = None,
        threshold: float | None = None,
        allow_outside: bool = False,
    ) -> None:
        self._hf, self._folder, self._action = hf, Path(folder), action
        self._outside = allow_outside
        if risk is None and threshold is None and hf.judge.calibrator is not None:
            threshold = 0.5
        self._limit = {"risk": risk, "threshold": threshold}
        hf.act([], [], [], action, **self._limit)  # a risk that cannot be guaranteed is refused before anything is read

    @property
    def guarantee(self) -> str:
        """What the threshold guarantees, with its assumptions; empty if nothing."""
        risk = self._limit["risk"]
        return "" if risk is None else str(self._hf.certificate(risk, self._action))

    def __call__(self, batch: Batch) -> Done:
        """Filter the rows of a batch; one that fails by itself is set aside, whatever the others do."""
        aside, rows, pictures = list[Refusal](), list[DatasetRow](), dict[str, Image.Image]()
        for item in batch:
            if isinstance(item, Refusal):
                aside.append(item)
                continue
            try:
                if item.image not in pictures:
                    pictures[item.image] = self._open(item.image)
                rows.append(item)
            except (OSError, ValueError) as error:
                what = "the image is not allowed" if isinstance(error, _Outside) else "the image does not open"
                aside.append(Refusal(item.line, f"{what}: {error}", item.raw))
        try:
            found: list[Outcome | Refusal] = list(self._act(rows, pictures))
        except (ValueError, TypeError):  # one of them; which, shows alone
            found = [self._alone(row, pictures) for row in rows]
        done = [
            (row, self._content(row, one)) for row, one in zip(rows, found, strict=True) if isinstance(one, Outcome)
        ]
        return done, aside + [one for one in found if isinstance(one, Refusal)]

    def _open(self, name: str) -> Image.Image:
        if not self._outside:
            try:
                within(self._folder, name)
            except ValueError as error:
                raise _Outside(f"{error} (--allow-outside opens it)") from error
        return open_image(self._folder / name)

    def _act(self, rows: Sequence[DatasetRow], pictures: dict[str, Image.Image]) -> list[Outcome]:
        shown, asked = [pictures[row.image] for row in rows], [row.prompt for row in rows]
        outcomes: list[Outcome] = self._hf.act(shown, asked, [row.text for row in rows], self._action, **self._limit)
        return outcomes

    def _alone(self, row: DatasetRow, pictures: dict[str, Image.Image]) -> Outcome | Refusal:
        try:
            return self._act([row], pictures)[0]
        except (ValueError, TypeError) as error:
            return Refusal(row.line, f"it cannot be filtered: {error}", row.raw)

    def _content(self, row: DatasetRow, outcome: Outcome) -> dict[str, Any]:
        """The row as it is written."""
        report = outcome.report.to_dict()
        shown = ("start", "end", "text", "kind", "name", "negated", "sentence", "p", "flagged")
        found = {
            "line": row.line,
            "field": row.field,
            "draft": row.text,
            "action": self._action,
            "calibrated": report["calibrated"],
            "threshold": report["threshold"],
            "mentions": [{name: mention[name] for name in shown} for mention in report["mentions"]],
            "sentences": report["sentences"],
            "edits": [asdict(edit) for edit in outcome.edits],
            "unjudged": report["unjudged"],
            "notes": report["notes"],
        }
        gone = any(edit.what == "abstained" for edit in outcome.edits)
        return {**row.content, row.field: None if gone else outcome.text, OWN: found}
