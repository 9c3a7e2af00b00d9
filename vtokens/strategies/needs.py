"""What a strategy needs of the engine on one model, said once, when it is attached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vtokens.core.errors import unknown
from vtokens.strategies.signals import Signal

_PIXELS = ("", "resize", "repeats")
_LAYERS = ("encode", "layer", "rows", "attend", "states", "mlp", "cache", "early", "shortcut")


@dataclass(frozen=True)
class Needs:
    """What `Strategy.needs` answers: where its stages run, what they read, and how it gets on with other strategies.

    Attributes:
        signals: what is observed before the stages run; they find it in `Visuals`.
        pixels: what `at_pixels` makes of pictures: "resize" or "repeats" (`Resized`, `Repeats`); "" if nothing.
        encode: the tower blocks, or rounds behind a tower that joins patches, in which `at_encode` is called.
        layer: the decoder layers before which `at_layer` is called.
        rows: the decoder layers of which `at_rows` says which visual tokens they compute; others pass as they are.
        attend: the decoder layers in whose attention `at_attend` is called.
        states: the decoder layers on what leaves which `at_states` is called.
        mlp: the decoder layers on what leaves whose MLP `at_states` is called.
        cache: the decoder layers of whose keys `at_cache` says which stay.
        early: the decoder layers of whose entering states `Logits.early` makes logits.
        shortcut: the decoder layers from inside whose attention `at_attend` sends head outputs past all layers but the
            last one (`Heads.shortcut`), where `Logits.shortcut` makes logits of them. `attend` names them too, and
            `early` both them and the last layer.
        unmerges: selections name the token that goes on for each dropped one (`Selection.member`).
        sizes: selections say how many tokens each kept one counts for (`Selection.sizes`).
        blends: selections make kept tokens sums of several (`Selection.weights`); refused where there is no place for
            sums.
        compact: what is dropped leaves no gap in the numbering: later tokens get the numbers that follow.
        norm: `Visuals.normed` or normed `Logits.early` is read, for which the decoder needs a norm behind its last
            layer.
        text_lane: `Heads.text_lane` or `States.text_lane` is read, for which the prompt's text runs once more,
            by itself.
        once: naming the strategy twice makes no sense, and is refused.
        watches: `at_attend` changes nothing. It is called in passes without pictures too, and `at_step` in its place
            in the attention over one new token.
        weighs: `at_attend` changes how rows divide their attention. Two that do are refused together: each would
            start from the model's own attention, and undo what the other did.
        minds_sizes: `at_attend` reckons with tokens that count for several, as `Heads.rescale` and `Heads.received` do;
            else it is refused beside strategies that make some.
        grounds: `at_logits` reads `Logits.grounding`, for which the output layer is shown the picture's last states.
        computes: `at_attend` computes head outputs in place of the attention implementation, and so runs before those
            that change them, wherever it is written.
        moves: `at_attend` lets pictures stand elsewhere for some rows than where the prompt has them (`Heads.places`);
            refused where attention does not turn queries and keys by their positions alone.
        waits: what a stage has to know of a device's values before it can go on, so that the host waits for them; ""
            where no stage does.

    Raises:
        TypeError: signals that are none, or layers that are no whole numbers; says how to write them.
        ValueError: `pixels` that is none of these.
    """

    signals: Sequence[Signal] = ()
    pixels: Literal["", "resize", "repeats"] = ""
    encode: Sequence[int] = ()
    layer: Sequence[int] = ()
    rows: Sequence[int] = ()
    attend: Sequence[int] = ()
    states: Sequence[int] = ()
    mlp: Sequence[int] = ()
    cache: Sequence[int] = ()
    early: Sequence[int] = ()
    shortcut: Sequence[int] = ()
    unmerges: bool = False
    sizes: bool = False
    blends: bool = False
    compact: bool = False
    norm: bool = False
    text_lane: bool = False
    once: bool = False
    watches: bool = False
    weighs: bool = False
    minds_sizes: bool = False
    grounds: bool = False
    computes: bool = False
    moves: bool = False
    waits: str = ""

    def __post_init__(self) -> None:
        self._check("signals", get_args(Signal), "(Saliency(),)")
        for name in _LAYERS:
            self._check(name, (int,), "(2,)")
        if self.pixels not in _PIXELS:
            raise unknown("pixels", self.pixels, _PIXELS[1:])

    def acts_at(self, stage: str) -> bool:
        """Whether a strategy that has a stage acts there with its settings: it does not where it names no layer."""
        where = (*self.states, *self.mlp) if stage == "states" else getattr(self, stage, (0,))
        return bool(where)

    def _check(self, name: str, kinds: tuple[type, ...], example: str) -> None:
        given = getattr(self, name)
        if given == ():
            return
        values = tuple(given) if isinstance(given, Iterable) else (None,)
        if not all(isinstance(value, kinds) for value in values):
            raise TypeError(f"Needs({name}={given!r}) is not allowed: a sequence such as {example} is")
        object.__setattr__(self, name, values)
