"""Finding the dimensions that give a decoder's attention sinks away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.engine.checks.outside import check_inside
from vtokens.tables.sinks import Sinks

TAU = 20.0
"""The paper's threshold."""
_SHARE = 0.8
"""A state of width D reaches at most sqrt(D); in narrow decoders, a sink is what passes this share of that.

Measured on SmolLM2-135M (width 576, at most 24): its sinks stand at 22.8 to 23.8 and most of what stands beside them
below 18, so that half of sqrt(D) would take ordinary tokens for sinks by the dozen. Behind a projector that was trained
visual tokens come closer, to 20.7, and draw no attention: hence `raised`.
"""


def default_tau(width: int) -> float:
    """The threshold for states of a width: the paper's 20, and less below a width of 625."""
    return min(TAU, _SHARE * width**0.5)


def raised(tau: float, first: Tensor, visual: Tensor) -> float:
    """A narrow decoder's threshold where it leaves what visual tokens reach beside what sinks do.

    In wide states sinks are ten times what others are; in narrow ones all are crowded below sqrt(D). The threshold then
    goes up into the middle of the widest gap between what passes it.

    Args:
        tau: `default_tau`, from which a gap may begin.
        first: phi of first tokens, in layers and prompts.
        visual: phi of visual tokens.
    """
    passed = torch.cat((first, visual))
    edges = torch.cat((passed.new_tensor([tau]), passed[passed > tau].sort().values))
    if len(edges) == 1:
        return tau
    gaps = edges.diff()
    widest = int(gaps.argmax())
    return tau if widest == 0 else float(edges[widest] + gaps[widest] / 2)


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        sinks: the table.
        seen: prompts looked at.
        first: for each middle layer, the largest phi the first token reached in any dimension (median over prompts).
        layers: these layers.
        visual: sink tokens among the visual ones, as a share, over middle layers and prompts; 0 without sinks.
    """

    sinks: Sinks
    seen: int
    layers: tuple[int, ...]
    first: tuple[float, ...]
    visual: float


def discover(model: PreTrainedModel, batches: Iterable[dict[str, Any]], *, tau: float | None = None,
             progress: Callable[[], None] | None = None) -> Discovery:  # fmt: skip
    """Look for dimensions in which the first token is huge in the decoder's middle layers (section 3 of VAR's paper).

    Args:
        model: a loaded model of a supported family, nothing attached.
        batches: processor outputs of one prompt each, with a picture.
        tau: how many times the root mean square of a state is huge; by default `default_tau`, `raised` in decoders that
            are narrower than the paper's threshold is made for.
        progress: called after each prompt.

    Raises:
        ValueError: no prompts, or `tau` above what any state can reach.
    """
    adapter = adapter_for(model)
    check_inside(adapter, "var's calibration")
    width, depth = adapter.language_model.config.hidden_size, len(adapter.layers)
    chosen, tau = tau is not None, default_tau(width) if tau is None else tau
    if not 0 < tau < width**0.5:
        raise ValueError(f"tau={tau!r} is out of range: states of width {width} reach at most {width**0.5:.1f}")
    middle = range(depth // 4, max(depth // 4 + 1, depth - depth // 4))
    states: dict[int, Tensor] = {}
    hooks = [
        adapter.layers[index].register_forward_pre_hook(partial(_keep, states, index), with_kwargs=True)
        for index in middle
    ]
    ratios, pictures = [], []
    try:
        for batch in batches:
            with torch.no_grad():
                model(**batch)
            ratios.append(torch.stack([_ratio(states[index][0, :1])[0] for index in middle]))
            placeholder = torch.stack(list(adapter.placeholders(batch).values())).any(0)[0]
            pictures.append(torch.stack([states[index][0, placeholder] for index in middle]))
            if progress is not None:
                progress()
    finally:
        for hook in hooks:
            hook.remove()
    if not ratios:
        raise ValueError("no prompts to look at: at least one is needed")
    phi = torch.stack(ratios)  # (prompts, layers, D)
    # Huge in most layers of most prompts: the massive activations are the same whatever is asked.
    dims = ((phi > tau).float().mean((0, 1)) > 0.5).nonzero().flatten().tolist()
    sinks = Sinks(adapter.facts.decoder, tuple(dims), tau, f"vtokens calibrate var, {len(ratios)} prompts")
    if dims and not chosen and tau < TAU:
        seen = torch.cat([sinks.phi(states).flatten() for states in pictures])
        sinks = replace(sinks, tau=raised(tau, phi[:, :, dims].amax(2).flatten(), seen))
    share = torch.cat([sinks.find(states).float().flatten() for states in pictures]).mean().item() if dims else 0.0
    return Discovery(sinks, len(ratios), tuple(middle), tuple(phi.amax(2).median(0).values.tolist()), share)


def _keep(states: dict[int, Tensor], index: int, module: Any, args: Any, kwargs: Any) -> None:
    states[index] = args[0] if args else kwargs["hidden_states"]


def _ratio(hidden: Tensor) -> Tensor:
    """float32 (W, D): each dimension over the root mean square of its state."""
    hidden = hidden.float()
    return hidden.abs() / hidden.square().mean(-1, keepdim=True).add(1e-6).sqrt()
