"""What runs on a model for a caller: the attachment, or a `with` block of strategies, or of a negative prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from torch import Tensor

from vtokens.engine.context import Entry, entries, inside
from vtokens.engine.plan import Plan
from vtokens.engine.record import Records


class Block(Entry):
    """Strategies that run on a model: those of an attachment, or of a `with` block.

    Attributes:
        owner: the model's engine; None once the block was left.
        plan: which strategy acts where.
        records: where passes are noted.
    """

    def __init__(self, owner: Any, plan: Plan, records: Records) -> None:
        super().__init__(owner)
        self.plan, self.records = plan, records


class Watch:
    """A thread that wants to be told of attention, and changes nothing; no strategy of its own runs for that.

    Attributes:
        layers: the decoder layers whose attention it is told of.
        seen: called with the layer and its queries (B, H, W, D), rotary embedding applied.
        thread: whose calls these are.
    """

    def __init__(self, layers: Collection[int], seen: Callable[[int, Tensor], None]) -> None:
        self.layers, self.seen = frozenset(layers), seen
        self.thread = threading.get_ident()


class GivenPrompt(Entry):
    """A negative prompt given inside a `with` block.

    Attributes:
        owner: the model's engine; None once the block was left.
        inputs: `input_ids` and what else the processor made of it.
        thread: the thread that gave it.
        others: the threads that ran already; one that is started later may answer for the block.
    """

    def __init__(self, owner: Any, inputs: Mapping[str, Any]) -> None:
        super().__init__(owner)
        self.inputs = inputs
        self.thread = threading.get_ident()
        self.others = WeakSet(threading.enumerate())


@contextmanager
def prompted(given: GivenPrompt) -> Iterator[None]:
    """Let a negative prompt hold for the caller, and for threads that the caller starts."""
    prompts = given.owner.prompts
    prompts.append(given)
    try:
        with inside(given):
            yield
    finally:
        prompts.remove(given)


def blocks(owner: Any) -> list[Block]:
    """The caller's open blocks of a model, the innermost last."""
    return [entry for entry in entries() if isinstance(entry, Block) and entry.owner is owner]


def negative_prompt(owner: Any, given: list[GivenPrompt]) -> Mapping[str, Any] | None:
    """The negative prompt that holds for the caller; None if there is none.

    A thread starts with an empty context. `Thread(target=model.generate)` inside a block is meant to run under it all
    the same, so a thread that gave no prompt itself takes that of the block in which it may have been started.

    Args:
        owner: the model's engine.
        given: the prompts of all callers.

    Raises:
        ValueError: it may have been started in several.
    """
    own = [entry for entry in entries() if isinstance(entry, GivenPrompt) and entry.owner is owner]
    if own:
        return own[-1].inputs
    current = threading.current_thread()
    # The innermost of each thread.
    found = {block.thread: block.inputs for block in given if current not in block.others}
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} threads gave a negative prompt, and this one, started since, gave none: hand the context "
            "on, as in Thread(target=contextvars.copy_context().run, args=(model.generate,), kwargs=inputs)"
        )
    return next(iter(found.values()), None)
