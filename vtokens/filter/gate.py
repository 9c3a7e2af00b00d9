"""When an answer is not checked at all: by what was asked, and how sure the model was when it began to answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from vtokens.core.errors import unknown
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.mentions.answers import closed

KINDS = ("yes or no", "question", "description")
"""What can be asked: a question that yes or no answers, another question, and anything else."""


def kind_of(prompt: str) -> str:
    """The kind of a prompt; of a chat, that of what was asked last."""
    asked = [*re.finditer(r"[^?.!\n]+\?", prompt)]
    if not asked or re.search(r"\bdescribe\b|\bcaption\b", prompt[asked[-1].end() :], re.IGNORECASE):
        return "description"
    return "yes or no" if closed(asked[-1][0]) else "question"


@dataclass(frozen=True)
class Gate:
    """Lets answers through unchecked whose first token the model was sure of: the entropy at prefill is low.

    What is let through is not recorded while it is written, and not judged: it costs what plain generation costs. A
    wrong answer that is let through is missed, and no guarantee holds for it.

    Attributes:
        most: by kind of prompt (`KINDS`) the entropy, in nats, up to which answers are let through; of other kinds all
            are checked.
        misses: by kind, the share of the wrong answers fitted on that this let through; empty if it was not fitted.
        skipped: by kind, the share of all answers fitted on that it let through.

    Raises:
        ValueError: an unknown kind, or an entropy below 0.
    """

    most: Mapping[str, float]
    misses: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    skipped: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for kind, value in self.most.items():
            if kind not in KINDS:
                raise unknown("kind of prompt", kind, KINDS)
            if not value >= 0:
                raise ValueError(f"most[{kind!r}]={value!r} is not allowed: an entropy in nats, 0 or more")

    def passes(self, prompt: str, entropy: float) -> bool:
        """Whether an answer is let through, unchecked."""
        most = self.most.get(kind_of(prompt))
        return most is not None and entropy <= most

    @classmethod
    def fit(cls, records: Sequence[LabelledResponse], misses: float = 0.05) -> Gate:
        """The gate that lets most through of each kind of prompt, and at most a share of the wrong answers.

        An answer is wrong if something in it is. A kind without wrong answers among the records tells nothing, and all
        of it is checked.

        Args:
            records: of answers that a filter judged (`ResponseReport.record`), which note the entropy.
            misses: the share, from 0 to 1.

        Raises:
            ValueError: a share out of range, or records that do not note the entropy.
        """
        if not 0 <= misses <= 1:
            raise ValueError(f"misses={misses!r} is not allowed: a share from 0 to 1")
        found: dict[str, list[tuple[float, bool]]] = {}
        for record in records:
            if not isinstance(record.meta.get("entropy"), int | float):
                raise ValueError(f"the record of image {record.image!r} does not note the entropy at prefill")
            found.setdefault(kind_of(record.prompt), []).append((record.meta["entropy"], any(record.labels)))
        most, missed, skipped = {}, {}, {}
        for kind, pairs in found.items():
            wrong = np.sort([entropy for entropy, bad in pairs if bad])
            if not len(wrong):
                continue
            allowed = math.floor(misses * len(wrong) + 1e-9)
            if allowed >= len(wrong):
                top = math.inf
            else:
                top = max((e for e, _ in pairs if e < wrong[allowed]), default=-1.0)
            if top < 0:
                continue
            most[kind] = float(top)
            missed[kind] = float((wrong <= top).mean())
            skipped[kind] = float(np.mean([entropy <= top for entropy, _ in pairs]))
        return cls(most, missed, skipped)

    def __str__(self) -> str:
        lines = []
        for kind, value in self.most.items():
            known = kind in self.skipped
            more = f": {self.skipped[kind]:.0%} of answers, {self.misses[kind]:.1%} of the wrong ones" if known else ""
            lines.append(f"{kind}: not checked up to {value:.3g} nats at prefill{more}")
        return "\n".join(lines) or "everything is checked"
