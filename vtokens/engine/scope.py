"""Which strategies and which negative prompt hold for a call: what the attachment has, or a `with` block of its caller.

Blocks are kept in a ContextVar, so that each thread and task runs under its own: others go on as if there were none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from vtokens.engine.plan import Plan
    from vtokens.engine.records import Records

lock = threading.RLock()
"""Held while something is put on a model or taken off."""
# A forked process has no other thread that could let go of it. Windows forks nothing, and has no such function.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


@dataclass(eq=False)
class Block:
    """What runs on a model: of an attachment, or inside a `with` block.

    Attributes:
        owner: the model's engine; None once the block was left, in whichever order and thread.
        plan: which strategy acts where.
        records: where passes are noted.
    """

    owner: Any
    plan: Plan
    records: Records


@dataclass(eq=False)
class Given:
    """A negative prompt given inside a `with` block.

    Attributes:
        owner: as in `Block`.
        inputs: `input_ids` and what else the processor made of it.
        thread: the thread that gave it.
        others: the threads that ran already; one that is started later may answer for the block.
    """

    owner: Any
    inputs: Mapping[str, Any]
    thread: int = field(default_factory=threading.get_ident)
    others: WeakSet[threading.Thread] = field(default_factory=lambda: WeakSet(threading.enumerate()))


_blocks: ContextVar[tuple[Block | Given, ...]] = ContextVar("vtokens_blocks", default=())


@contextmanager
def inside(block: Block | Given) -> Iterator[None]:
    """Let a block hold for the caller; blocks may be left in another order than they were entered."""
    _blocks.set((*_open(), block))
    try:
        yield
    finally:
        block.owner = None
        _blocks.set(_open())


@contextmanager
def prompted(given: Given) -> Iterator[None]:
    """Let a negative prompt hold for the caller, and for threads that it starts."""
    prompts = given.owner.prompts
    prompts.append(given)
    try:
        with inside(given):
            yield
    finally:
        prompts.remove(given)


def _open() -> tuple[Block | Given, ...]:
    # A copied context may hold blocks that the context it was copied from has left.
    return tuple(block for block in _blocks.get() if block.owner is not None)


def blocks(owner: Any) -> list[Block]:
    """The caller's open blocks of a model, the innermost last."""
    return [block for block in _blocks.get() if isinstance(block, Block) and block.owner is owner]


def prompt(owner: Any, given: list[Given]) -> Mapping[str, Any] | None:
    """The negative prompt that holds for the caller; None if there is none.

    A thread starts with an empty context. `Thread(target=model.generate)` inside a block is meant to run under it all
    the same, so a thread that gave no prompt itself takes that of the block in which it may have been started.

    Args:
        owner: the model's engine.
        given: the prompts of all callers.

    Raises:
        ValueError: it may have been started in several.
    """
    own = [block for block in _blocks.get() if isinstance(block, Given) and block.owner is owner]
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
