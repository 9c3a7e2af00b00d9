"""auto: the pruner that was measured to be best for a task, on the family and at the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.composition import Choice
from vtokens.strategies.registry import register
from vtokens.tables import choices


@register("auto")
@dataclass(frozen=True)
class Auto(Choice):
    """Stands for the pruner that answered most questions of a task rightly, by family and budget, as measured.

    When it is attached, the table of `python benchmarks/choose.py` says which: the measured budget nearest to `keep`
    counts. A family or a task without measurements is refused. Handle and report name what was chosen, and on what it
    was measured.

    Attributes:
        task: what is asked of pictures: to read ("ocr"), where something is ("grounding"), how many there are
            ("counting"), to describe ("caption"), whether something is there ("yes_no"), about a "video"; "general" is
            all of that together.
        keep: share per picture.
    """

    acts: ClassVar[tuple[str, ...]] = ("prompt",)
    task: Literal["ocr", "grounding", "counting", "caption", "yes_no", "video", "general"] = "general"
    keep: Keep = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keep, int):
            raise ValueError(
                f"keep={self.keep} is a count, and pruners were measured by shares: a share in (0, 1] is allowed"
            )

    def check(self, facts: Facts) -> None:
        if not choices.tasks(facts.family):  # said of a family by itself, for lists
            raise ValueError("nothing was measured on it")

    def chosen(self, facts: Facts) -> tuple[str, str]:
        found = choices.choose(facts.family, self.task, float(self.keep))
        return ("none" if self.keep == 1.0 else found.spec), str(found)
