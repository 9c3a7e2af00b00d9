"""One call of the model, as its caller made it: everything that is known before the decoder is entered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vtokens.engine.plan import Plan
from vtokens.engine.state.both_ways import BothWays
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.tower_run import TowerRun
from vtokens.strategies.views.memory import Memory


@dataclass(frozen=True)
class Outer:
    """A call of the model with logits, which calls the multimodal module.

    Attributes:
        labels: as the caller gave them; None if there are none.
        logits_to_keep: as the caller gave it; 0 is all logits.
        returned: which of them the model gives, said as `logits_to_keep` is: some give all, whatever they are asked.
    """

    labels: Any
    logits_to_keep: Any
    returned: Any


@dataclass(frozen=True)
class Request:
    """A call of the multimodal module.

    Attributes:
        inputs: its keyword arguments.
        plan: which strategy acts where in it.
        outer: the call of the model with logits that this one belongs to; None if the module was called by itself.
        negative_prompt: `input_ids` and what else the processor made of the prompt that the answer is held against;
            None if none was given.
        runs: what the vision tower saw for it, images before videos; feature calls are added as they end.
    """

    inputs: Mapping[str, Any]
    plan: Plan
    outer: Outer | None
    negative_prompt: Mapping[str, Any] | None
    runs: list[TowerRun] = field(default_factory=list)

    @property
    def labels(self) -> Any:
        """Labels of the call; None if there are none."""
        return None if self.outer is None else self.outer.labels

    @property
    def logits_to_keep(self) -> Any:
        """Which logits were asked for; 0 is all of them."""
        return 0 if self.outer is None else self.outer.logits_to_keep

    def fits(self, hidden: Tensor) -> bool:
        """Whether embeddings (B, N, D) that enter the decoder can be those of this call."""
        given = self.inputs.get("input_ids")
        return not isinstance(given, Tensor) or given.shape == hidden.shape[:2]


@dataclass(frozen=True)
class NegativePrefill:
    """The prefill of a negative prompt, or of a rehearsal, which the engine itself hands to the decoder.

    Attributes:
        plan: which strategy acts where in it.
        pictures: what it has because it brings pictures; None if it brings none.
        asked: as in `Lane`.
        both_ways: as in `Lane`.
        notes: as in `Lane`.
    """

    plan: Plan
    pictures: Pictures | None
    asked: int
    both_ways: BothWays | None = None
    notes: dict[int, Memory] = field(default_factory=dict)
