"""Which decoder layers carry what from the picture to the answer, found by knocking attention out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.calibrate.knockout import Knockout
from vtokens.core.kept_logits import last_alone
from vtokens.core.terminal import json_text
from vtokens.core.writing import write_text
from vtokens.engine import attach

PATHS: tuple[tuple[Literal["picture", "question"], Literal["question", "last"]], ...] = (
    ("picture", "question"),
    ("picture", "last"),
    ("question", "last"),
)
"""What is closed to what."""


@dataclass(frozen=True)
class Route:
    """What knocking one path out does.

    Attributes:
        source, target: as in `Knockout`.
        changes: for each window and prompt the change of the answer's probability, as a share of what it was: -1 takes
            all of it, 0 nothing.
    """

    source: str
    target: str
    changes: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Flow:
    """How much of the answer each path carries, by depth (Zhang et al., arXiv:2411.18620).

    Attributes:
        depth: decoder layers.
        windows: the layers that are closed together, one window around each layer that has attention.
        probabilities: what each prompt gives to the first token of its own answer, nothing knocked out.
        routes: one a pair of `PATHS`.
    """

    depth: int
    windows: tuple[tuple[int, ...], ...]
    probabilities: tuple[float, ...]
    routes: tuple[Route, ...]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_text(path, json_text(asdict(self), indent=1))


def default_window(depth: int) -> int:
    """How many layers are closed together: 9 of 32, as in the paper, and an odd number in every depth."""
    return max(1, 2 * round((9 / 32 * depth - 1) / 2) + 1)


def windows(layers: Sequence[int], wide: int) -> tuple[tuple[int, ...], ...]:
    """Around each of the layers those at most `wide` // 2 places away, fewer at both ends."""
    return tuple(tuple(layers[max(0, at - wide // 2) : at + wide // 2 + 1]) for at in range(len(layers)))


@torch.no_grad()
def flow(model: PreTrainedModel, batches: Iterable[dict[str, Any]], *, window: int | None = None,
         progress: Callable[[], None] | None = None) -> Flow:  # fmt: skip
    """Close picture to question, picture to last position and question to last position, window by window of layers.

    A prompt takes 1 + 3 x layers forward passes.

    Args:
        model: a loaded model of a supported family, nothing attached.
        batches: processor outputs, padded on the left; each row has a picture and ends where the answer begins.
        window: layers that are closed together, an odd number; default `default_window`.
        progress: called after each pass.

    Raises:
        ValueError: a batch that is padded on the right or has a row without a picture, no batch at all, an even
            window, or a family whose attention nothing can be closed in.
    """
    layers = tuple(adapter_for(model).facts.attending)
    wide = default_window(len(layers)) if window is None else window
    if wide < 1 or wide % 2 == 0:
        raise ValueError(
            f"window={wide} is out of range: odd numbers from 1 on are allowed, so that a layer is in its middle"
        )
    closed, found = windows(layers, wide), list[float]()
    changes: list[list[list[float]]] = [[[] for _ in closed] for _ in PATHS]
    for batch in batches:
        _check(model, batch)
        plain = _last(model, batch)
        answers = plain.argmax(-1, keepdim=True)
        before = plain.gather(1, answers)
        found += before[:, 0].tolist()
        if progress is not None:
            progress()
        for path, per_window in zip(PATHS, changes, strict=True):
            for where, values in zip(closed, per_window, strict=True):
                with attach(model, Knockout(*path, layers=where)):
                    after = _last(model, batch).gather(1, answers)
                values += (after / before - 1)[:, 0].tolist()
                if progress is not None:
                    progress()
    if not found:
        raise ValueError("there are no prompts to look at")
    routes = [Route(*path, tuple(map(tuple, part))) for path, part in zip(PATHS, changes, strict=True)]
    return Flow(len(adapter_for(model).layers), closed, tuple(found), tuple(routes))


def _last(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """float32 (B, V): probabilities behind the last position."""
    probabilities: Tensor = model(**batch, **last_alone(model)).logits[:, -1].float().softmax(-1)
    return probabilities


def _check(model: PreTrainedModel, batch: dict[str, Any]) -> None:
    if "attention_mask" in batch and not bool(batch["attention_mask"][:, -1].all()):
        raise ValueError("a batch is padded on the right: pad it on the left, so that every row ends with its prompt")
    visual = torch.stack([*adapter_for(model).placeholders(batch).values()]).any(0).any(1)
    if not bool(visual.all()):
        row = int((~visual).nonzero()[0])
        raise ValueError(f"row {row} of a batch has no picture, so that nothing flows from one: leave it out")
