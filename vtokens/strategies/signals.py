"""The signals that a strategy may ask to be observed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

QueryRows = Literal["last", "after", "text", "visual", "raters", "all"]
Pool = Literal["mean", "max", "each"]
Text = Literal["after", "all"]
Part = Literal["attention", "mlp"]
Voters = Literal["cls", "all"]
Heads = Literal["mean", "joint"]
Scored = tuple[int, Voters, Heads]
"""A tower block (0-based) and how its attention is read."""


@dataclass(frozen=True)
class Saliency:
    """Asks for the vision tower's opinion of each token.

    Attributes:
        blocks: tower blocks (0-based, negative from the end) whose scores are summed, each once; None is the block
            that made the features.
        rows: whose attention counts: "cls" is that of the class token, and of all patches on towers without one; "all"
            is that of all patches and of the class token, on any tower.
        heads: "mean" is the mean over heads; "joint" is that of one head as wide as all of them together, with queries
            and keys as they are and 1 / sqrt(width) for a factor, as LLaVA-PruMerge (arXiv:2403.15388) has it.
    """

    blocks: tuple[int, ...] | None = None
    rows: Voters = "cls"
    heads: Heads = "mean"

    def scored(self, depth: int, feature: int) -> tuple[Scored, ...]:
        """The blocks of a tower of `depth` that are read, and how; `feature` is the block that made the features."""
        numbers = (feature,) if self.blocks is None else (block % depth for block in self.blocks)
        return tuple((number, self.rows, self.heads) for number in dict.fromkeys(numbers))


@dataclass(frozen=True)
class TowerKeys:
    """Asks for the keys of one block of the vision tower, brought to visual tokens as features are.

    Attributes:
        block: tower block (0-based, negative from the end); None is the one that made the features.
    """

    block: int | None = None


@dataclass(frozen=True)
class TowerStates:
    """Asks for what leaves one block of the vision tower, before the projector, brought to tokens as features are.

    Attributes:
        block: tower block (0-based, negative from the end); None is the one that made the features.
    """

    block: int | None = None


@dataclass(frozen=True)
class Sensitivity:
    """Asks how far the projector's output moves where a row of the tower is pushed, for each visual token.

    The mean over random unit directions u of |P(x + step u) - P(x - step u)| / (2 step), central differences of what
    turns the tower's rows x into features. All tokens of all pictures are pushed alike, and in float32 whatever the
    model's dtype, since bfloat16 loses such steps.

    Attributes:
        directions: how many u there are; the projector runs twice for each.
        step: the length of a push.
        seed: which directions.
    """

    directions: int = 64
    step: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Attention:
    """Asks for the attention that keys receive in one decoder layer, pooled over heads and query rows.

    Attributes:
        layer: decoder layer, 0-based.
        rows: "last" is the last prompt position, "after" the first word behind the last picture, "text" all text from
            the first visual token on, "visual" all visual tokens, "raters" the words of that text which the picture
            is about: where they enter the decoder, visual tokens spread softmax(v . t) over them, and these get more
            than the mean, as in SparseVLM (arXiv:2410.04417); "all" is every position of the prompt.
        rotary: False undoes the rotary embedding, so that distance has no say. Rows then share their attention among
            the visual tokens of the pass alone, as in FEATHER (arXiv:2412.13180); all else receives 0.
        pool: "mean", or "max": the most that any head gives in any row; "each" is the mean over rows of each head, so
            that what is read has one more dimension, that of heads.
        level: divides each weight by what the rotary embedding alone makes of its distance: the mean cosine of the
            angles between query and key, at least 0.05, as SparseVLM+ corrects it. Only with pool="each".
        lazy: worked out if somebody reads it before the next decoder layer, and not at all if nobody does.
    """

    layer: int
    rows: QueryRows = "last"
    rotary: bool = True
    pool: Pool = "mean"
    lazy: bool = False
    level: bool = False


@dataclass(frozen=True)
class LayerKeys:
    """Asks for the keys of one decoder layer.

    Attributes:
        layer: decoder layer, 0-based.
        rotary: False undoes the rotary embedding.
    """

    layer: int
    rotary: bool = True


@dataclass(frozen=True)
class Entering:
    """Asks for the states that enter a decoder layer, behind what strategies drop before it.

    Attributes:
        layer: decoder layer, 0-based.
    """

    layer: int


@dataclass(frozen=True)
class Change:
    """Asks how a decoder layer's attention, or its MLP, changes what it is given: in length, and in direction.

    Attributes:
        layer: decoder layer, 0-based.
        part: "attention" or "mlp": its module, which is given normed states, and whose output is added to the stream.
    """

    layer: int
    part: Part = "attention"


@dataclass(frozen=True)
class Relevance:
    """Asks how much each visual token is like the prompt's text: the mean of its cosines with the text's embeddings.

    Both are taken where they enter the decoder, so that it can be read before any layer, and costs no attention.

    Attributes:
        text: "after" is the text from the first visual token to the end of the prompt; all of it where there is none.
            "all" is all text up to there.
    """

    text: Text = "after"


@dataclass(frozen=True)
class Neurons:
    """Asks how many of the neurons that are active at one word of the prompt are active at each position too.

    A neuron of a gated MLP is active where what its gate lets through is above 0: act(gate) * up > 0.

    Attributes:
        layer: decoder layer, 0-based.
        reference: the word, counted from the end of the prompt: -1 is its last position. The first position of a
            shorter prompt stands for it.
    """

    layer: int
    reference: int = -1


Signal = (
    Saliency | TowerKeys | TowerStates | Sensitivity | Attention | LayerKeys | Entering | Change | Neurons | Relevance
)
OfTower = Saliency | TowerKeys | TowerStates
"""Signals of blocks of the vision tower."""
InLayer = Attention | LayerKeys | Entering | Change | Neurons
"""Signals of one decoder layer."""


class Observed(Protocol):
    """Where a view finds the signals its strategy asked for."""

    def saliency(self, blocks: tuple[int, ...] | None, rows: Voters = "cls", heads: Heads = "mean") -> Tensor: ...

    def tower_keys(self, block: int | None) -> Tensor: ...

    def tower_states(self, block: int | None) -> Tensor: ...

    def encoded(self, name: str) -> Tensor: ...

    def sensitivity(self, signal: Sensitivity) -> Tensor: ...

    def noted(self, signal: InLayer) -> Tensor: ...

    def relevance(self, text: Text) -> Tensor: ...

    def text(self, text: Text) -> Tensor: ...

    def ids(self) -> Tensor: ...

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor: ...

    def copies(self) -> Tensor | None: ...

    def sizes(self) -> Tensor | None: ...

    def knows(self, signal: InLayer) -> bool: ...

    def normed(self, states: Tensor) -> Tensor: ...

    def notes(self, strategy: object) -> dict[int, Any]: ...

    @property
    def depth(self) -> int: ...
