"""The handle of strategies that are attached to a model: what runs for which caller, and what it did."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import __version__ as transformers_version

from vtokens.adapters import adapter_for
from vtokens.adapters.decoder import check_decoder
from vtokens.core import notebook
from vtokens.core.versions import warn_if_untested
from vtokens.engine.block import Block, GivenPrompt, blocks, prompted
from vtokens.engine.checks.arguments import check_signature
from vtokens.engine.checks.modifiers import with_modifiers
from vtokens.engine.chosen import chosen
from vtokens.engine.context import lock
from vtokens.engine.installed import engine_on, put, while_on
from vtokens.engine.make_report import make_report
from vtokens.engine.plan import Plan
from vtokens.engine.plans import Plans
from vtokens.engine.record import Record, Records
from vtokens.engine.report import Report
from vtokens.engine.row_report import Costs, RowReport, row_reports
from vtokens.strategies import Spec, Strategy, format_spec, parse
from vtokens.strategies.views.logits import Prompt

_HANDLE = "_vtokens_handle"


def handle_on(multimodal: Any) -> Handle | None:
    """The handle of what is attached to a multimodal module, or None."""
    return multimodal.__dict__.get(_HANDLE)


class Handle:
    """An attachment. As a context manager it detaches on leaving.

    Attributes:
        strategies: what runs, in order.
        choices: a line for each strategy that was chosen for the model (`auto`): what it stands for, and why.
    """

    def __init__(self, model: nn.Module, strategies: tuple[Strategy, ...] = ()) -> None:
        warn_if_untested(transformers_version)
        self._adapter, self._records = adapter_for(model), Records()
        self._plans, self._costs = Plans(), Costs()
        check_decoder(self._adapter)
        check_signature(self._adapter)
        self.strategies, self.choices = chosen(self._adapter, strategies)
        self._own: Block | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        """The handle of a copied model, which is copied first, so that both are of one copy."""
        copy.deepcopy(self._adapter.model, memo)
        if id(self) not in memo:
            new = memo[id(self)] = Handle.__new__(Handle)
            new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        found: Handle = memo[id(self)]
        return found

    def _attach(self) -> Handle:
        model = self._adapter.model
        with lock:
            taken = handle_on(self._adapter.multimodal)
            if taken is not None:
                raise ValueError(
                    f"this {type(model).__name__} already has {taken.strategy!r} attached: detach() it first, "
                    f"or attach both as one, {taken.strategy + '+' + self.strategy!r}"
                )
            self._own = put(self._adapter, Plan(self._adapter, self.strategies), self._records)
            self._own.owner.own = self._own
            self._adapter.multimodal.__dict__[_HANDLE] = self
        return self

    @property
    def strategy(self) -> str:
        """The strategies as text; `parse` turns it back."""
        return format_spec(self.strategies)

    @property
    def attached(self) -> bool:
        """False after `detach()`."""
        return handle_on(self._adapter.multimodal) is self

    def detach(self) -> None:
        """Leave the model as if it had never been touched. Calling it twice does no harm.

        The caller's `with` blocks end with it; those of other threads go on until they are left.
        """
        with lock:
            own, engine = self._own, engine_on(self._adapter)
            if self.attached:
                del self._adapter.multimodal.__dict__[_HANDLE]
            if engine is not None and own is not None and own.owner is engine:
                engine.own = None
                for block in (*blocks(engine), own):
                    engine.close(block)

    @property
    def record(self) -> Record | None:
        """What the engine noted of the last prefill with pictures, left on the device; `report()` reads it."""
        return self._records.mine()

    def report(self) -> Report:
        """What the last prefill with pictures did: the last of the calling thread, or one of a thread that began since.

        Raises:
            RuntimeError: there was none yet.
        """
        record = self.record
        if record is None:
            raise RuntimeError("no pictures went through this model since the strategy was attached: call it first")
        return make_report(self.strategies, record, self._adapter.language_model.config, self.choices)

    def row_reports(self, lengths: Sequence[int], since: Record | None = None) -> tuple[RowReport, ...]:
        """What the last call of the calling thread did to each row, counted as if the row had run by itself.

        Args:
            lengths: positions of each row's prompt, padding left out.
            since: `record` as it was before the call: a call without pictures leaves it as it is.
        """
        record, config = self.record, self._adapter.language_model.config
        return row_reports(None if record is since else record, config, lengths, self._costs)

    def check(self, strategy: Spec) -> tuple[str, ...]:
        """Whether strategies could run in place of what runs now (`using`), without running anything.

        Returns:
            A line for each strategy that would be chosen for the model (`auto`): what it stands for, and why.

        Raises:
            TypeError, ValueError: what is wrong with them.
        """
        strategies = parse(strategy)
        Plan(self._adapter, strategies)
        return chosen(self._adapter, strategies)[1]

    def beside(self, first: Spec, second: Spec) -> bool:
        """Whether rows of one batch can run these two (`using`), each of which the model takes by itself (`check`)."""
        try:
            Plan(self._adapter, programs=[parse(first), parse(second)])
        except ValueError:
            return False
        return True

    def acts_in_steps(self, strategy: Spec) -> bool:
        """Whether strategies do anything once a prompt was read, beside letting later tokens see fewer keys."""
        return not Plan(self._adapter, parse(strategy)).light

    @contextmanager
    def negative_prompt(self, **inputs: Any) -> Iterator[Handle]:
        """Hold answers against that to another prompt, for the calls of a `with` block.

        These are the calls of this thread, and of a thread that is started inside the block, as
        `Thread(target=model.generate, ...)` for a streamer. Where several threads have such blocks open at a time, a
        thread started in one has to be handed the context: `Thread(target=contextvars.copy_context().run,
        args=(model.generate,), kwargs=...)`. Leave the block when its calls are done.

        Args:
            inputs: `input_ids` (B, N) and what else the processor makes of text with the same pictures, padded on the
                left; pixels are not looked at. `generate` may repeat the rows of the batch.

        Raises:
            TypeError: no `input_ids`.
            ValueError: no strategy that asks for another prompt is attached.
        """
        block = self._block()
        if block is None or not (block.plan.contrast is not None and isinstance(block.plan.contrast.negative, Prompt)):
            raise ValueError(
                f"{self.strategy!r} holds the answer against no other prompt: attach one that does, such as 'lqcd'"
            )
        if not isinstance(inputs.get("input_ids"), Tensor):
            raise TypeError("negative_prompt(**processor(...)) needs the input_ids of the other prompt, as a tensor")
        with prompted(GivenPrompt(block.owner, inputs)):
            yield self

    @contextmanager
    def joined(self, *more: Strategy) -> Iterator[Handle]:
        """Run further strategies behind what runs now, for this thread's calls inside a `with` block.

        Other threads are not concerned, nor are those started inside, unless they are handed the context
        (`contextvars.copy_context().run`). `strategies`, and so `report()`, go on meaning the handle's own. Blocks may
        be nested, and left in any order; detaching inside one stays detached.

        Raises:
            TypeError, ValueError: what is wrong with them, or with them together; the attachment is as it was.
            RuntimeError: the handle is detached.
        """
        with self.without((), *more):
            yield self

    @contextmanager
    def without(self, stages: Collection[str], *more: Strategy) -> Iterator[Handle]:
        """Run what runs now without the strategies that act at any of these stages, and with others; as `joined`.

        Of a strategy that acts at "logits" and elsewhere, what it does elsewhere goes on (`Strategy.silent`).
        """

        def left(strategies: Iterable[Strategy]) -> tuple[Strategy, ...]:
            if "logits" in stages:
                strategies = [half for one in strategies if (half := one.silent()) is not None]
            return (*with_modifiers(strategies, lambda one: bool({*stages} & {*one.stages()})), *more)

        block = self._block()
        if block is not None and block.plan.programs is not None:
            plan = Plan(self._adapter, programs=[left(program) for program in block.plan.programs])
        else:
            plan = Plan(self._adapter, left(block.plan.strategies if block is not None else ()))
        with self._under(plan):
            yield self

    @contextmanager
    def using(self, strategy: Spec | Sequence[Spec]) -> Iterator[Handle]:
        """Run other strategies in place of what runs now: one spec for all rows, or a list with one for each row.

        `with handle.using(["cls(keep=0.25)", "none", "fastv(keep=0.5)"]): model.generate(**batch)` answers each of
        three rows as it would alone under its own strategies; beams and returned sequences run their row's. Calls of
        other threads are not concerned, as in `joined`.

        Args:
            strategy: a spec as `attach` takes it, or a list of specs, one a row, as text, dicts or strategies.

        Raises:
            TypeError, ValueError: what is wrong with them, or cannot run beside each other; the attachment is as it
                was. A batch of another number of rows is refused when it is run.
            RuntimeError: the handle is detached.
        """
        if isinstance(strategy, list | tuple):
            with self._under(self._plans.of(self._adapter, strategy)):
                yield self
        else:
            with self.running(*parse(strategy)):
                yield self

    @contextmanager
    def running(self, *strategies: Strategy) -> Iterator[Handle]:
        """Run these strategies in place of what runs now; as `joined` otherwise."""
        with self._under(Plan(self._adapter, strategies)):
            yield self

    @contextmanager
    def _under(self, plan: Plan) -> Iterator[None]:
        if self._own is not None and not self.attached:
            raise RuntimeError(f"{self!r}: attach it again first")
        with while_on(self._adapter, plan, self._records):
            yield

    @property
    def running_now(self) -> tuple[Strategy, ...]:
        """What runs for the calling thread now, of all rows: the handle's own, or those of a `with` block."""
        block = self._block()
        return () if block is None else block.plan.strategies

    @property
    def programs_now(self) -> tuple[tuple[Strategy, ...], ...]:
        """The same row by row inside `using([...])`; else one program, that of all rows."""
        block = self._block()
        programs = None if block is None else block.plan.programs
        return (self.running_now,) if programs is None else tuple(map(tuple, programs))

    @property
    def light_now(self) -> bool:
        """Whether what runs for the calling thread now is over once a prompt was read: steps see fewer keys at most."""
        block = self._block()
        return block is None or block.plan.light

    def runs(self, strategy: Strategy) -> bool:
        """Whether the calling thread runs this very strategy on the model now."""
        return any(one is strategy for one in self.running_now)

    def _block(self) -> Block | None:
        engine = engine_on(self._adapter)
        return None if engine is None else engine.block()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        return f"<vtokens {self.strategy!r} {state} a {type(self._adapter.model).__name__}>"

    def _repr_html_(self) -> str:
        last = notebook.line("no pictures yet") if self.record is None else self.report()._repr_html_()
        return notebook.block(notebook.line(repr(self)), last)
