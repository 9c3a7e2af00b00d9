"""What all hooks on a model share: whose calls they serve, and what stands on it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import nn

from vtokens.adapters import Adapter
from vtokens.engine.block import Block, GivenPrompt, Watch, blocks
from vtokens.engine.context import here
from vtokens.engine.state.request import NegativePrefill

REPLACED = "replaced since strategies were attached, which stand on the old ones: detach() and attach() again"
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Base:
    """The state that all hooks on a model share. Each hook asks for the phase of its caller's call, not of others'.

    Torch calls a hook without keyword arguments, or without output, while another thread is just putting it on: such a
    call began before the strategies came, and is left alone.

    Attributes:
        adapter: the model's.
        own: what is attached for every caller; None if nothing is.
        prompts: the negative prompts of all callers.
        watches: the threads that are told of attention without a strategy.
        standing: what stands on the model (`parts`), by name.
        layers: the decoder layers on which it stands.
        light: all that runs there does nothing in a step but cut masks, whoever's it is.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.own: Block | None = None
        self.prompts: list[GivenPrompt] = []
        self.watches: tuple[Watch, ...] = ()
        self.standing: dict[Hashable, Any] = {}
        self.layers: tuple[nn.Module, ...] = ()
        self.light = False

    def block(self) -> Block | None:
        """What runs for the caller: the innermost `with` block, or what is attached; None if nothing does."""
        found = blocks(self)
        return found[-1] if found else self.own

    def follow(self) -> None:
        """Go to modules that took the place of those on which something stands.

        Raises:
            RuntimeError: the tower is another than what was attached was made for.
        """
        raise NotImplementedError

    def forget_call(self) -> None:
        """Forget the phase of the caller's call: that is over, or was cut off and left its phase behind."""
        here().leave(self)

    def run_apart(self, sequence: NegativePrefill, inputs: Kwargs) -> Any:
        """The decoder's output for a sequence of the engine's own."""
        here().enter(self, sequence)
        try:
            return self.adapter.language_model(**inputs)
        finally:
            self.forget_call()
