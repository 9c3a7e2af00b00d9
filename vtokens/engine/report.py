"""What a call did: tokens per layer, positions kept, FLOPs, KV bytes, and what each strategy contributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtokens.core.kept import SampleReport
from vtokens.core.moved import Member, renamed
from vtokens.engine.notebook import report_html


@dataclass(frozen=True)
class Contribution:
    """What one strategy did.

    Attributes:
        strategy: as text.
        tokens: visual tokens per sample before and after it, summed over the times it dropped some; None if it never
            did.
        figures: what it tells of itself, averaged over samples and layers.
    """

    strategy: str
    tokens: tuple[float, float] | None
    figures: dict[str, float]

    def __str__(self) -> str:
        parts = [] if self.tokens is None else [f"{self.tokens[0]:.1f} to {self.tokens[1]:.1f} visual tokens"]
        parts += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.figures.items()]
        return f"{self.strategy}: {', '.join(parts) or 'nothing to do'}"


@dataclass(frozen=True)
class NegativeReport:
    """What the negative prompt of a contrast was fed, beside the prefill; its tokens come in passes of twice the rows.

    Attributes:
        positions: its positions per decoder layer, averaged; padding included.
        visual_tokens: those of them that are visual tokens, per sample and layer.
        flops: decoder FLOPs of its prefill.
        kv_bytes: bytes of keys and values that it caches.
    """

    positions: float
    visual_tokens: float
    flops: int
    kv_bytes: int

    def __str__(self) -> str:
        return (
            f"negative prompt: {self.visual_tokens:.1f} visual tokens per layer on average; prefill "
            f"{self.flops / 1e9:.3g} GFLOPs more, KV cache {self.kv_bytes / 1e6:.3g} MB more"
        )


@dataclass(frozen=True)
class Report:
    """The last prefill of an attached model.

    Attributes:
        strategy: the strategies, as text.
        samples: one entry per row of the batch (beams count as rows).
        flops, flops_full: decoder FLOPs of the prefill, as run and unpruned (`vtokens.core.costs.prefill_flops`).
        kv_bytes, kv_bytes_full: bytes of keys and values that the prefill caches, as run and unpruned.
        select_seconds: time spent scoring and selecting.
        contributions: what each strategy did, in the written order.
        negative: what the negative prompt of a contrast cost beside all this; None without one.
        choices: a line for each strategy that was chosen for the model (`auto`): what it stands for, and why.
    """

    strategy: str
    samples: tuple[SampleReport, ...]
    flops: int
    flops_full: int
    kv_bytes: int
    kv_bytes_full: int
    select_seconds: float
    contributions: tuple[Contribution, ...]
    negative: NegativeReport | None = None
    choices: tuple[str, ...] = ()
    branch = Member("negative")

    @property
    def kv_bytes_saved(self) -> int:
        """Bytes of keys and values that were never cached."""
        return self.kv_bytes_full - self.kv_bytes

    def __repr__(self) -> str:
        tokens = sum(sample.average_tokens for sample in self.samples)
        return f"<Report of {self.strategy!r}: {tokens:.1f} visual tokens per layer in {len(self.samples)} sample(s)>"

    def _repr_html_(self) -> str:
        costs = [
            ("prefill, GFLOPs", f"{self.flops / 1e9:.3g}", f"{self.flops_full / 1e9:.3g}"),
            ("KV cache, MB", f"{self.kv_bytes / 1e6:.3g}", f"{self.kv_bytes_full / 1e6:.3g}"),
            ("selecting, ms", f"{1e3 * self.select_seconds:.2f}", ""),
        ]
        negative = [] if self.negative is None else [self.negative]
        return report_html(self.strategy, self.samples, costs, [*self.choices, *self.contributions, *negative])

    def __str__(self) -> str:
        tokens = [sample.average_tokens for sample in self.samples]
        full = [sum(kept.picture.tokens for kept in sample.pictures) for sample in self.samples]
        head = (
            f"{self.strategy}: {sum(tokens):.1f} of {sum(full)} visual tokens per layer on average "
            f"in {len(self.samples)} sample(s); prefill {self.flops / 1e9:.3g} of {self.flops_full / 1e9:.3g} GFLOPs, "
            f"KV cache {self.kv_bytes / 1e6:.3g} of {self.kv_bytes_full / 1e6:.3g} MB, "
            f"{1e3 * self.select_seconds:.2f} ms selecting"
        )
        listed = len(self.contributions) > 1 or any(part.figures for part in self.contributions)
        parts = [*(self.contributions if listed else ()), *([] if self.negative is None else [self.negative])]
        return "\n  ".join([head, *self.choices, *map(str, parts)])


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        return renamed(__name__, name)
