"""One pass over a prompt and its negative prompt, where both are given the same tokens: the weights are read once.

The rows of the negative prompt stand behind those of the prompt; only attention is done apart, each half over its own
keys, so that neither is padded to the other's length.

    rows       prompt 0, prompt 1 | negative 0, negative 1         (2 B, W, D) through norms, projections, MLPs
    attention  over the cache     | over the negative cache        (B, W, D) each
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vtokens.core.compat import swap_cache
from vtokens.engine.attention.masks import mask_and_angles
from vtokens.engine.attention.renumber import numbers, of_angles
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.checks.caches import check_continued
from vtokens.engine.checks.window import check_no_window
from vtokens.engine.plan import Plan
from vtokens.engine.state.cache_layers import holds_keys, shortened
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.negative_keys import divergence_of, negative_cache
from vtokens.engine.state.per_layer import as_argument, per_layer_of
from vtokens.engine.state.positions import fed_positions
from vtokens.engine.state.states import joined_states, part_states

InLane = Callable[[Lane, int, AttentionCall], tuple[Tensor, Any]]


class JointCache(Cache):
    """A cache for one pass over both: the first half of the rows goes to one cache, the second half to the other.

    `update` stores each half where it belongs and returns nothing of use, since the two differ in length: attention
    reads them from `halves`. States that layers keep in place of keys are of one size, and so stand here for the pass,
    one behind the other, until `part`.
    """

    def __init__(self, real: Cache, negative: Cache) -> None:
        both = [*enumerate(zip(real.layers, negative.layers, strict=True))]
        self._states = {index: pair for index, pair in both if not holds_keys(real, index)}
        layers = [joined_states(*pair) if index in self._states else pair[0] for index, pair in both]
        super().__init__(layers=layers if self._states else [])
        self.real, self.negative = real, negative
        self.halves: tuple[tuple[Tensor, Tensor], ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        half = len(key_states) // 2
        self.halves = (
            self.real.update(key_states[:half], value_states[:half], layer_idx),
            self.negative.update(key_states[half:], value_states[half:], layer_idx),
        )
        return key_states, value_states

    def part(self) -> None:
        """Bring each half of the states back to where it belongs."""
        for index, pair in self._states.items():
            part_states(self.layers[index], *pair)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.real.get_seq_length(layer_idx)


class Joint:
    """A pass over two lanes.

    Attributes:
        main, negative: the lanes.
        cache: of both.
    """

    def __init__(self, main: Lane, negative: Lane) -> None:
        self.main, self.negative, self.cache = main, negative, JointCache(main.cache, negative.cache)

    def adjust(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of decoder layer `index`; each lane's mask is kept for its attention."""
        if not self.main.specs[index].attends:
            for lane, states in zip((self.main, self.negative), hidden.chunk(2), strict=True):
                lane.hidden = states
            return dict(kwargs, attention_mask=self._padding(hidden), position_ids=None)
        positions, found = kwargs.get("position_ids"), []
        places = (None, None) if positions is None else positions.chunk(2)
        for lane, states, own in zip((self.main, self.negative), hidden.chunk(2), places, strict=True):
            lane.hidden = states
            lane.mask, angles = mask_and_angles(lane, index, shortened(lane.cache, index), own)
            found.append(angles)
        told = None
        if positions is not None and self.main.reads_positions:
            lanes = zip((self.main, self.negative), places, strict=True)
            told = torch.cat([numbers(lane, index, own) for lane, own in lanes if own is not None])
        kwargs = dict(kwargs, attention_mask=None, position_ids=told)
        if any(part is not None for part in found):
            angles = kwargs["position_embeddings"]
            halves = (of_angles(lambda part, half=half: part.chunk(2)[half], angles) for half in (0, 1))
            both = [given if part is None else part for given, part in zip(halves, found, strict=True)]
            kwargs["position_embeddings"] = of_angles(lambda *parts: torch.cat(parts), *both)
        angles = kwargs.get("position_embeddings")
        for half, lane in enumerate((self.main, self.negative) if angles is not None else ()):
            lane.angles = of_angles(lambda part, half=half: part.chunk(2)[half], angles)
        return kwargs

    def _padding(self, hidden: Tensor) -> Tensor | None:
        """bool (2 B, W), False on padding; None if there is none. A single token is never padding."""
        lanes = (self.main, self.negative)
        masks = [lane.fed_now() for lane in lanes]
        if hidden.shape[1] == 1 or all(mask is None for mask in masks):
            return None
        halves = hidden.new_ones(hidden.shape[:2], dtype=torch.bool).chunk(2)
        both = [half if mask is None else mask.to(half.device) for half, mask in zip(halves, masks, strict=True)]
        return torch.cat(both)

    def attend_apart(self, index: int, attention: AttentionCall, run: InLane) -> tuple[Tensor, Any]:
        """Run both halves of an attention call, each over its own keys and values."""
        lanes, halves = (self.main, self.negative), self.cache.halves
        outputs = [
            run(lane, index, replace(attention, query=query, key=key, value=value, mask=lane.mask))[0]
            for lane, query, (key, value) in zip(lanes, attention.query.chunk(2), halves, strict=True)
        ]
        return torch.cat(outputs), None

    def prompt_output(self, output: Any) -> Any:
        """The decoder's output for the prompt alone; the last states of the negative prompt stay with its lane."""
        self.negative.hidden = output[0].chunk(2)[1]
        self.cache.part()

        def first(part: Any) -> Any:
            if isinstance(part, Tensor):
                return part.chunk(2)[0]
            if isinstance(part, tuple):
                return tuple(first(inner) for inner in part)
            return self.main.cache if isinstance(part, JointCache) else part

        if isinstance(output, tuple):
            return first(output)
        for name, part in list(output.items()):
            output[name] = first(part)
        return output


def with_negative(main: Lane, plan: Plan, kwargs: dict[str, Any]) -> tuple[Joint, dict[str, Any]] | None:
    """Let the negative prompt into a pass that brings no pictures.

    Args:
        main: the lane of the prompt.
        plan: which strategy acts where in the lane of the negative prompt.

    Returns:
        Both lanes, and the language model's inputs with the rows of the negative prompt behind the others; None if the
        cache holds no negative prompt.
    """
    divergence, cache = divergence_of(main.cache), negative_cache(main.cache)
    if divergence is None or cache is None:
        return None
    adapter, hidden = main.adapter, kwargs["inputs_embeds"]
    past = divergence.length + main.past - divergence.fed
    # The negative prompt may be the longer one of the two.
    check_no_window(adapter, past + hidden.shape[1])
    check_continued(plan, cache)
    padding = divergence.mask(main.padding, main.past + hidden.shape[1])
    joint = Joint(main, Lane(adapter, plan, hidden, past, padding, cache))
    positions = fed_positions(main.past, kwargs, hidden)
    behind = positions - divergence.shift.to(positions.device)[:, None]
    per_layer = per_layer_of(adapter, kwargs)
    per_layer = None if per_layer is None else torch.cat([per_layer, per_layer])
    # The layers' own hooks put in the masks; four dimensions tell the language model not to make one.
    return joint, dict(
        {**swap_cache(adapter.language_model, kwargs, joint.cache), **as_argument(adapter, per_layer)},
        inputs_embeds=torch.cat([hidden, hidden]),
        position_ids=torch.cat([positions, behind], positions.dim() - 2),
        attention_mask=hidden.new_zeros(1, 1, 1, 1),
    )
