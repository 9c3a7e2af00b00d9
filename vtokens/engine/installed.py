"""The object that is stored on a model with strategies: it puts hooks on, and takes them off with the last block."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from vtokens.adapters import Adapter
from vtokens.engine.block import Block, Watch
from vtokens.engine.compiled import notice_hooks
from vtokens.engine.context import inside, lock
from vtokens.engine.hooks import Hooks
from vtokens.engine.parts import Parts, parts, taps, where
from vtokens.engine.plan import Plan
from vtokens.engine.record import Records

_ENGINE = "_vtokens_engine"


class Engine(Hooks):
    """The engine of one model, which stays there for as long as some block needs it.

    `Hooks` is what torch calls; this counts the blocks that need each part of what stands on the model.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._blocks: list[Block] = []
        self._at: dict[Hashable, tuple[Any, ...]] = {}  # part -> the modules on which it stands

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        """The engine of a copied model: what is attached stays, what runs for a while in the original does not.

        Of a part that is copied alone, whose hooks go with it, one that runs nothing.
        """
        new = memo[id(self)] = Engine.__new__(Engine)  # first, since the model leads back here
        new.__init__(copy.deepcopy(self.adapter, memo))  # type: ignore[misc]
        if new.adapter.multimodal is self.adapter.multimodal:
            return new
        new.own = copy.deepcopy(self.own, memo)
        new._blocks = [] if new.own is None else [new.own]
        new.layers = copy.deepcopy(self.layers, memo)
        new.standing, new._at = copy.deepcopy((self.standing, self._at), memo)
        new.light = new._is_light(self.adapter)
        return new

    def _is_light(self, adapter: Adapter) -> bool:
        """Whether steps of one token may be traced: layers that share keys are told what another one was.

        Args:
            adapter: knows the layers; that of the original where a model is being copied, which has none until then.
        """
        alone = all(spec.slot == index for index, spec in enumerate(adapter.specs))
        return alone and not self.watches and all(block.plan.light for block in self._blocks)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled along with the model.

        Raises:
            TypeError: inside a `with` block, whose end the pickled model would never see.
        """
        if self.watches or any(block is not self.own for block in self._blocks):
            raise TypeError(
                "a model cannot be pickled while strategies run on it for a while, such as a filter's: leave the "
                "`with` block first, or save model.state_dict()"
            )
        return {**self.__dict__, "prompts": []}

    def open(self, block: Block) -> None:
        """Put on the model what a block needs; on an error nothing stays behind."""
        with lock:
            notice_hooks()
            self._blocks.append(block)
            try:
                self._sync()
            except BaseException:
                self.close(block)
                raise

    def close(self, block: Block) -> None:
        """Take off what no other block needs; once more does no harm."""
        with lock:
            block.owner = None
            self._blocks = [other for other in self._blocks if other is not block]
            self._sync()
        self.forget_call()

    def watch(self, *watches: Watch) -> None:
        """Tell these threads of attention, in place of those that were told so far."""
        with lock:
            notice_hooks()
            self.watches = watches
            self._sync()

    def follow(self) -> None:
        for block in self._blocks:
            block.plan.check_tower(self.adapter)
        if len(self.adapter.layers) != len(self.layers):
            return  # refused where they are to run
        moved = [key for key, at in self._at.items() if _other(where(self.adapter, key), at)]
        if moved:
            with lock:
                notice_hooks()
                for key in moved:
                    if key in self.standing:
                        self.standing.pop(key).remove()
                self._sync()

    def _sync(self) -> None:
        wanted = Parts()
        if not self.standing:
            self.layers = tuple(self.adapter.layers)
        for block in self._blocks:
            wanted |= parts(self, block.plan)
        for watch in self.watches:
            wanted |= taps(self, watch.layers)
        for key in [key for key in reversed(self.standing) if key not in wanted]:
            self.standing.pop(key).remove()
        for key, make in wanted.items():
            if key not in self.standing:
                self.standing[key] = make()
                if at := where(self.adapter, key):
                    self._at[key] = at
        self._at = {key: at for key, at in self._at.items() if key in self.standing}
        self.light = self._is_light(self.adapter)
        # On the model itself, so that both go together; past nn.Module, which is to know nothing of it.
        attributes = self.adapter.multimodal.__dict__
        if self._blocks or self.watches:
            attributes[_ENGINE] = self
        elif attributes.get(_ENGINE) is self:
            del attributes[_ENGINE]


def _other(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    return any(one is not old for one, old in zip(now, before, strict=True))


def engine_on(adapter: Adapter) -> Engine | None:
    """The engine on a model; None while nothing runs there."""
    found: Engine | None = adapter.multimodal.__dict__.get(_ENGINE)
    return found


def put(adapter: Adapter, plan: Plan, records: Records) -> Block:
    """Put what a plan needs on a model; returns the block, for which it stays there."""
    with lock:
        engine = engine_on(adapter) or Engine(adapter)
        block = Block(engine, plan, records)
        engine.open(block)
    return block


@contextmanager
def while_on(adapter: Adapter, plan: Plan, records: Records) -> Iterator[None]:
    """Run a plan inside a `with` block, for its caller alone."""
    block = put(adapter, plan, records)
    engine = block.owner
    try:
        with inside(block):
            yield
    finally:
        engine.close(block)


@contextmanager
def watching(adapter: Adapter, watch: Watch) -> Iterator[None]:
    """Tell a thread of attention inside a `with` block, whatever runs; put on taps alone, and no other hook."""
    with lock:
        engine = engine_on(adapter) or Engine(adapter)
        engine.watch(*engine.watches, watch)
    try:
        yield
    finally:
        with lock:
            engine.watch(*(one for one in engine.watches if one is not watch))
