"""The log-likelihood that a mention gains from the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.filter.signals.base import Over, Signal, Spans, check_over
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "image_contrast",
    paper="pointwise mutual information with the picture, as in M3ID, arXiv:2403.14003",
    says=("it is as likely without the picture", "the picture makes it likelier"),
)
@dataclass(frozen=True)
class ImageContrast(Signal):
    """-[log p(y_k | picture, .) - log p(y_k | without, .)], in nats, mean over the mention. One pass.

    Attributes:
        without: "no_image", the text alone, which is short; or "blank", a picture of the mean colour, which costs as
            much as the pass itself.
        over: how the tokens of a mention are put together; "sum" is the log ratio of the whole mention.
    """

    without: Literal["no_image", "blank"] = "no_image"
    over: Over = "mean"

    def __post_init__(self) -> None:
        check_over(self.over)
        if self.without not in ("no_image", "blank"):
            raise unknown("view without the picture", self.without, ("no_image", "blank"))

    def parts(self, depth: int) -> Parts:
        return Parts(contrasts=frozenset({self.without}))

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(-trace.contrast(self.without), self.over)}
