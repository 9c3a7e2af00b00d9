"""Attaching strategies to a live model, and taking them off again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Unpack

from torch import nn
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.budget import Keep
from vtokens.engine.handle import Handle, handle_on
from vtokens.strategies import Spec, Strategy, parse
from vtokens.strategies.options import StrategyOptions

__all__ = ["Handle", "attach", "attachment", "detach", "joined", "without"]


def attach(model: nn.Module, strategy: Spec, keep: Keep | None = None, **options: Unpack[StrategyOptions]) -> Handle:
    """Attach strategies to a loaded model.

    Args:
        model: a transformers vision-language model of a supported family (`vtokens.models()`), also inside of what
            `torch.compile`, `DataParallel` or peft make of it.
        strategy: `"fastv(keep=0.25, layer=2)"`, `"cls+fastv"`, a `Strategy`, a dict, or a list of these; None or
            "none" only measures.
        keep: the `keep` of the strategy that takes it.
        options: further fields of a single strategy.

    Returns:
        A handle with `detach()` and `report()`; use it as a context manager to detach on leaving.

    Raises:
        TypeError, ValueError: what is wrong and what is allowed; the model is left untouched.
    """
    return Handle(model, parse(strategy, keep, **options))._attach()


@contextmanager
def joined(model: PreTrainedModel, *more: Strategy) -> Iterator[Handle]:
    """`Handle.joined` on whatever is attached to `model`, which may be nothing."""
    handle = attachment(model) or Handle(model)
    with handle.joined(*more):
        yield handle


@contextmanager
def without(model: PreTrainedModel, stages: Collection[str], *more: Strategy) -> Iterator[Handle]:
    """`Handle.without` on whatever is attached to `model`, which may be nothing."""
    handle = attachment(model) or Handle(model)
    with handle.without(stages, *more):
        yield handle


def attachment(model: nn.Module) -> Handle | None:
    """The handle of what is attached to `model`, or None."""
    return handle_on(adapter_for(model).multimodal)


def detach(model: nn.Module) -> None:
    """Detach whatever is attached to `model`; nothing happens if nothing is."""
    handle = attachment(model)
    if handle is not None:
        handle.detach()
