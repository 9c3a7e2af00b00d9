"""Attaching strategies to a live model, and taking them off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers import __version__ as transformers_version

from vtokens.adapters import adapter_for
from vtokens.adapters.decoder import check_decoder
from vtokens.budget import Keep
from vtokens.engine import call as calls
from vtokens.engine.call import Record
from vtokens.engine.hooks import Engine
from vtokens.engine.report import Report, make_report
from vtokens.strategies import Spec, Strategy, format_spec, parse
from vtokens.strategies.logits import Prompt
from vtokens.versions import warn_if_untested

_HANDLE = "_vtokens_handle"


class Handle:
    """An attachment. As a context manager it detaches on leaving.

    Attributes:
        strategies: what runs, in order.
    """

    def __init__(self, model: PreTrainedModel, strategies: tuple[Strategy, ...]) -> None:
        warn_if_untested(transformers_version)
        self.strategies = strategies
        self._adapter = adapter_for(model)
        check_decoder(self._adapter.language_model)
        taken = _held(self._adapter.multimodal)
        if taken is not None:
            raise ValueError(
                f"this {type(model).__name__} already has {taken.strategy!r} attached: detach() it first, "
                f"or attach both as one, {taken.strategy + '+' + self.strategy!r}"
            )
        cache = getattr(getattr(model, "generation_config", None), "cache_implementation", None)
        if strategies and cache not in (None, "dynamic"):
            raise ValueError(
                f"generation_config.cache_implementation={cache!r} cannot hold pruned sequences, whose length differs "
                "from layer to layer: set it to None (the default DynamicCache)"
            )
        self._engine = Engine(self._adapter, strategies)
        self._engine.install()
        # On the model itself, so that both go together; past nn.Module, which is to know nothing of it.
        self._adapter.multimodal.__dict__[_HANDLE] = self

    @property
    def strategy(self) -> str:
        """The strategies as text; `parse` turns it back."""
        return format_spec(self.strategies)

    @property
    def attached(self) -> bool:
        """False after `detach()`."""
        return _held(self._adapter.multimodal) is self

    def detach(self) -> None:
        """Leave the model as if it had never been touched. Calling it twice does no harm."""
        if self.attached:
            del self._adapter.multimodal.__dict__[_HANDLE]
        self._engine.remove()

    @property
    def record(self) -> Record | None:
        """What the engine noted of the last prefill with pictures, left on the device; `report()` reads it."""
        return self._engine.last_record

    def report(self) -> Report:
        """What the last prefill with pictures did.

        Raises:
            RuntimeError: there was none yet.
        """
        if self._engine.last_record is None:
            raise RuntimeError("no pictures went through this model since the strategy was attached: call it first")
        return make_report(self.strategies, self._engine.last_record, self._adapter.language_model.config)

    @contextmanager
    def negative_prompt(self, **inputs: Any) -> Iterator[Handle]:
        """Hold answers against that to another prompt, for the calls this thread makes inside a `with` block.

        Args:
            inputs: `input_ids` (B, N) and what else the processor makes of text with the same pictures, padded on the
                left; pixels are not looked at. `generate` may repeat the rows of the batch.

        Raises:
            TypeError: no `input_ids`.
            ValueError: no strategy that asks for another prompt is attached.
        """
        if not isinstance(self._engine.plan.negative_kind, Prompt):
            raise ValueError(
                f"{self.strategy!r} holds the answer against no other prompt: attach one that does, such as 'lqcd'"
            )
        if not isinstance(inputs.get("input_ids"), Tensor):
            raise TypeError("negative_prompt(**processor(...)) needs the input_ids of the other prompt, as a tensor")
        owner = id(self._adapter)
        before = calls.prompt(owner)
        calls.set_prompt(owner, inputs)
        try:
            yield self
        finally:
            calls.set_prompt(owner, before)

    @contextmanager
    def joined(self, *more: Strategy) -> Iterator[Handle]:
        """Run further strategies behind the handle's own inside a `with` block; afterwards all is as it was.

        `strategies`, and so `report()`, go on meaning the handle's own. Blocks may be nested, and detaching inside one
        stays detached.

        Raises:
            TypeError, ValueError: what is wrong with them, or with them together; the attachment is as it was.
        """
        with self.running(*self._engine.strategies, *more):
            yield self

    @contextmanager
    def running(self, *strategies: Strategy) -> Iterator[Handle]:
        """Run these strategies in place of the handle's own inside a `with` block; as `joined` otherwise."""
        if not self.attached:
            raise RuntimeError(f"{self!r}: attach it again first")
        before, now = self._engine, Engine(self._adapter, strategies)
        before.remove()
        try:
            now.install()
            now.last_record = before.last_record
            self._engine = now
            yield self
        finally:
            now.remove()
            self._engine = before
            # What the pruner did in the block is what the handle reports next.
            before.last_record = now.last_record or before.last_record
            if self.attached:
                before.install()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        return f"<vtokens {self.strategy!r} {state} a {type(self._adapter.model).__name__}>"


def attach(model: PreTrainedModel, strategy: Spec, keep: Keep | None = None, **options: Any) -> Handle:
    """Attach strategies to a loaded model.

    Args:
        model: a transformers vision-language model of a supported family (`vtokens.models()`).
        strategy: `"fastv(keep=0.25, layer=2)"`, `"cls+fastv"`, a `Strategy`, a dict, or a list of these; None or
            "none" only measures.
        keep: the `keep` of the strategy that takes it.
        options: further fields of a single strategy.

    Returns:
        A handle with `detach()` and `report()`; use it as a context manager to detach on leaving.

    Raises:
        TypeError, ValueError: what is wrong and what is allowed; the model is left untouched.
    """
    return Handle(model, parse(strategy, keep, **options))


@contextmanager
def joined(model: PreTrainedModel, *more: Strategy) -> Iterator[Handle]:
    """`Handle.joined` on whatever is attached to `model`, which may be nothing."""
    handle = attachment(model)
    if handle is not None:
        with handle.joined(*more):
            yield handle
        return
    with Handle(model, more) as handle:
        handle.strategies = ()
        yield handle


def attachment(model: PreTrainedModel) -> Handle | None:
    """The handle of what is attached to `model`, or None."""
    return _held(adapter_for(model).multimodal)


def _held(multimodal: Any) -> Handle | None:
    return multimodal.__dict__.get(_HANDLE)


def detach(model: PreTrainedModel) -> None:
    """Detach whatever is attached to `model`; nothing happens if nothing is."""
    handle = attachment(model)
    if handle is not None:
        handle.detach()
