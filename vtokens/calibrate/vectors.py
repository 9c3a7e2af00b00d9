"""A few heads of a decoder as a classifier: what they put out at the end of a prompt, held against class means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.calibrate.tensors import read_tensors
from vtokens.core.facts import Facts
from vtokens.core.kept_logits import last_alone
from vtokens.engine.attach import joined
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads

HEADS = 20
"""The paper's number."""


@dataclass(frozen=True)
class _Listener(Strategy):
    """Notes what each head puts out at the last position of a prompt, and changes nothing."""

    name: ClassVar[str] = "head vectors"
    heard: dict[int, Tensor] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=facts.attending, watches=True)

    def at_attend(self, heads: Heads) -> None:
        self.heard[heads.layer] = heads.at(heads.last)[:, :, 0].float()

    def at_step(self, layer: int, query: Tensor, hidden: Tensor, output: Tensor) -> None:
        """Steps behind the prompt are none of its business."""


@torch.no_grad()
def head_outputs(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """float32 (B, L, H, D): outputs of all heads of the layers with attention, at the last position of each prompt.

    Args:
        model: of a supported family; strategies attached to it act.
        batch: a processor's output, padded on the left or on the right, a picture in each row.

    Raises:
        ValueError: heads of one model that are not of one width in all layers.
    """
    listener = _Listener()
    left = "attention_mask" not in batch or bool(batch["attention_mask"][:, -1].all())
    with joined(model, listener):
        model(**batch, **(last_alone(model) if left else {}))
    found = [listener.heard[layer] for layer in sorted(listener.heard)]
    if len({one.shape for one in found}) > 1:
        raise ValueError(
            f"the heads of a {type(model).__name__} are not of one width in all layers: there is no one vector a head"
        )
    return torch.stack(found, 1)


@dataclass(frozen=True)
class HeadVectors:
    """Sparse attention vectors: the heads that tell classes apart best, each with its class means.

    Each head votes for the class whose mean its output is most like, by the cosine; the class with most votes wins
    (Mitra et al., Sparse Attention Vectors, arXiv:2412.00142).

    Attributes:
        labels: names of the C classes, sorted.
        heads: int64 (K, 2), layer (counted among those with attention) and head.
        means: float32 (K, C, D), unit vectors.
        decoder: the decoder that they are of, as tables name it.
        question: what was asked about each example's picture.
    """

    labels: tuple[str, ...]
    heads: Tensor
    means: Tensor
    decoder: str
    question: str = ""

    def votes(self, outputs: Tensor) -> Tensor:
        """float32 (B, C): the share of the heads that vote for each class, of `head_outputs` (B, L, H, D)."""
        chosen = normalize(outputs[:, self.heads[:, 0], self.heads[:, 1]], dim=-1)
        nearest = torch.einsum("bkd,kcd->bkc", chosen, self.means).argmax(-1)
        return torch.nn.functional.one_hot(nearest, len(self.labels)).float().mean(1)

    def classify(self, model: PreTrainedModel, batch: dict[str, Any]) -> list[tuple[str, float]]:
        """For each row the class with most votes, the first of equals, and its share of them.

        Raises:
            ValueError: the model has another decoder.
        """
        decoder = adapter_for(model).facts.decoder
        if decoder != self.decoder:
            raise ValueError(
                f"these heads are of the decoder {self.decoder!r}, and the model's is {decoder!r}: fit its own"
            )
        share, which = self.votes(head_outputs(model, batch).to(self.means.device)).max(-1)
        return [(self.labels[index], value) for index, value in zip(which.tolist(), share.tolist(), strict=True)]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        facts = {"labels": "\n".join(self.labels), "decoder": self.decoder, "question": self.question}
        save_file({"heads": self.heads.contiguous(), "means": self.means.contiguous()}, path, facts)

    @classmethod
    def load(cls, path: str | Path) -> HeadVectors:
        """Read what `save` wrote.

        Raises:
            OSError: there is no such file.
            ValueError: it is something else.
        """
        words = ("labels", "decoder", "question")
        (heads, means), (labels, decoder, question) = read_tensors(path, ("heads", "means"), words, "head vectors")
        return cls(tuple(labels.split("\n")), heads, means, decoder, question)


def fit(outputs: Tensor, labels: Sequence[str], decoder: str, heads: int = HEADS, question: str = "") -> HeadVectors:
    """Choose the heads that classify the most examples rightly by the means of the others of each class.

    Args:
        outputs: float32 (N, L, H, D), of `head_outputs`.
        labels: the class of each.
        decoder: as `Facts.decoder`.
        heads: how many to take; the earlier ones of equals.
        question: what was asked.

    Raises:
        ValueError: fewer than two classes, a class of one example, a name with a line break, or no head.
    """
    names = sorted(set(labels))
    counts = {name: list(labels).count(name) for name in names}
    if len(labels) != len(outputs):
        raise ValueError(f"{len(labels)} labels for {len(outputs)} examples: one each is needed")
    if len(names) < 2:
        raise ValueError(f"{len(names)} classes are not enough: at least two are needed")
    if min(counts.values()) < 2:
        few = min(counts, key=lambda name: counts[name])
        raise ValueError(
            f"class {few!r} has one example: at least two of each are needed, to try one by the mean of the others"
        )
    if any("\n" in name for name in names):
        raise ValueError("a label with a line break is not allowed")
    if heads < 1:
        raise ValueError(f"heads={heads} is out of range: 1 and more are allowed")
    known = torch.tensor([names.index(name) for name in labels], device=outputs.device)
    member = torch.nn.functional.one_hot(known, len(names)).float()
    sums = torch.einsum("nc,nlhd->clhd", member, outputs)
    # An example is tried by means that it is not in; the sum over a class points where the mean does.
    right = torch.zeros(outputs.shape[1:3], device=outputs.device)
    for one, label in zip(outputs, known, strict=True):
        others = sums.index_add(0, label[None], -one[None])
        nearest = torch.einsum("lhd,clhd->lhc", normalize(one, dim=-1), normalize(others, dim=-1)).argmax(-1)
        right += nearest == label
    order = right.flatten().sort(descending=True, stable=True).indices[:heads]
    chosen = torch.stack([order // right.shape[1], order % right.shape[1]], 1)
    means = normalize(sums, dim=-1)[:, chosen[:, 0], chosen[:, 1]].transpose(0, 1)
    return HeadVectors(tuple(names), chosen, means, decoder, question)


def cross_validated(outputs: Tensor, labels: Sequence[str], heads: int = HEADS, folds: int = 5) -> tuple[int, int]:
    """How many of how many examples are classified rightly by heads and means that were found without them."""
    order = sorted(range(len(labels)), key=lambda at: labels[at])
    right = tried = 0
    for fold in range(folds):
        out = [at for place, at in enumerate(order) if place % folds == fold]
        rest = [at for at in order if at not in set(out)]
        try:
            found = fit(outputs[rest], [labels[at] for at in rest], "", heads)
        except ValueError:  # too few are left of a class
            continue
        which = found.votes(outputs[out]).argmax(-1).tolist() if out else []
        right += sum(found.labels[one] == labels[at] for one, at in zip(which, out, strict=True))
        tried += len(out)
    return right, tried


def outputs_of(model: PreTrainedModel, batches: Iterable[dict[str, Any]]) -> Tensor:
    """`head_outputs` of several batches behind one another."""
    return torch.cat([head_outputs(model, batch).cpu() for batch in batches])
