"""Filters the rows of a caption data set with one model, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
Shown = Mapping[str, "Image.Image | str"]
"""Pictures by the paths that rows have, or why one is not shown."""


@dataclass(frozen=True)
class Opener:
    """Opens the pictures of a batch, each once.

    Attributes:
        folder: paths of pictures are relative to it, and lie in it.
        allow_outside: whether pictures outside of the folder, by "..", an absolute path or a link, are opened.
    """

    folder: str | Path
    allow_outside: bool = False

    def __call__(self, batch: Batch) -> dict[str, Image.Image | str]:
        """The pictures of the rows, or why one does not open."""
        names = {item.image: None for item in batch if isinstance(item, DatasetRow)}
        return {name: self._opened(name) for name in names}

    def _opened(self, name: str) -> Image.Image | str:
        try:
            if not self.allow_outside:
                within(Path(self.folder), name)
        except ValueError as error:
            return f"the image is not allowed: {error} (--allow-outside opens it)"
        except OSError as error:
            return f"the image does not open: {error}"
        try:
            return open_image(Path(self.folder) / name)
        except (OSError, ValueError) as error:
            return f"the image does not open: {error}"


class Worker:
    """Filters batches with one model.

    Args:
        hf: a `HallucinationFilter`.
        folder: as of `Opener`.
        action: "flag" leaves the texts, "redact" drops sentences, "abstain" puts null in place of the text.
        risk, threshold: as in `HallucinationFilter.act`; if neither is given, a calibrated filter acts on a probability
            above 0.5: the texts are not its model's, so its certificates would guarantee nothing.
        allow_outside: as of `Opener`.

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
        self._hf, self._opener, self._action = hf, Opener(folder, allow_outside), action
        if risk is None and threshold is None and hf.judge.calibrator is not None:
            threshold = 0.5
        self._limit = {"risk": risk, "threshold": threshold}
        hf.act([], [], [], action, **self._limit)  # a risk that cannot be guaranteed is refused before anything is read

    @property
    def guarantee(self) -> str:
        """What the threshold guarantees, with its assumptions; empty if nothing."""
        risk = self._limit["risk"]
        return "" if risk is None else str(self._hf.certificate(risk, self._action))

    def __call__(self, batch: Batch, shown: Shown | None = None) -> Done:
        """Filter the rows of a batch; one that fails by itself is set aside, whatever the others do.

        Args:
            batch: the rows.
            shown: their pictures, where an `Opener` has opened them already.
        """
        shown = self._opener(batch) if shown is None else shown
        pictures = {name: one for name, one in shown.items() if isinstance(one, Image.Image)}
        rows = [item for item in batch if isinstance(item, DatasetRow) and item.image in pictures]
        aside = [
            item if isinstance(item, Refusal) else Refusal(item.line, str(shown[item.image]), item.raw)
            for item in batch
            if isinstance(item, Refusal) or item.image not in pictures
        ]
        try:
            found: list[Outcome | Refusal] = list(self._act(rows, pictures))
        except (ValueError, TypeError):  # one of them; which, shows alone
            found = [self._alone(row, pictures) for row in rows]
        done = [
            (row, self._content(row, one)) for row, one in zip(rows, found, strict=True) if isinstance(one, Outcome)
        ]
        return done, aside + [one for one in found if isinstance(one, Refusal)]

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
