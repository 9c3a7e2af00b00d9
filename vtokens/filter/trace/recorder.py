"""A strategy that records forward passes and changes nothing, joined to the attached ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.facts import Facts
from vtokens.engine.block import Watch
from vtokens.engine.handle import Handle, handle_on
from vtokens.engine.installed import watching
from vtokens.filter.trace.tape import Tape
from vtokens.filter.trace.trace import Parts
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads

__all__ = ["Recorder", "Tape", "recording"]


@dataclass(frozen=True)
class Recorder(Strategy):
    """Notes what a tape asks for and changes nothing; attention as the model's weights give it, whatever acts on it."""

    name: ClassVar[str] = "the filter"
    tape: Tape = field(compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=self.tape.tapped, watches=True)

    def at_attend(self, heads: Heads) -> None:
        self.tape.note(heads)

    def at_step(self, layer: int, query: Tensor, hidden: Tensor, output: Tensor) -> None:
        if not self.tape.lost:
            self.tape.step(layer, query, hidden, output)


@contextmanager
def recording(model: PreTrainedModel, parts: Parts, rows: int | None = None) -> Iterator[tuple[Tape, Handle]]:
    """Watch a model inside a `with` block, beside whatever is attached to it.

    What the model itself says is noted: logits as they are before strategies change them. While it writes these act;
    while it reads they do at their other stages alone (`Strategy.silent`).

    Args:
        model: of a supported family.
        parts: what to note; contrasts are none of the recorder's business.
        rows: see `Tape`.

    Yields:
        The tape, and the handle under which the model runs.

    Raises:
        ValueError: the model has not what `parts` asks for.
    """
    adapter = adapter_for(model)
    handle = handle_on(adapter.multimodal) or Handle(model)
    parts.check(len(adapter.layers))
    linear = tuple(index for index, spec in enumerate(adapter.specs) if spec.kind == "linear")
    among = [index for index in range(len(adapter.layers)) if index not in linear]
    tape = Tape(parts.on(among), rows, adapter, linear)
    recorder = Recorder(tape)
    if rows is not None:
        tape.left_out = tuple(
            one.name for one in handle.running_now if one.silent() is None and one.stages() != ("logits",)
        )
    light = rows is None and handle.light_now and not parts.divergence
    with ExitStack() as stack:
        stack.enter_context(handle.joined(recorder) if rows is None else handle.without({"logits"}, recorder))

        def ended() -> None:
            # What else runs is over with the prompt: steps need no strategy, and an answer that is let through nothing.
            # Cache layers of the engine's kind need its hooks, which are gone where nothing is attached.
            if light and (handle.attached or _stock(tape.cache)):
                with ExitStack() as before:
                    before.push(stack.pop_all())
                    if not tape.lost:
                        stack.enter_context(_steps(model, tape))

        stack.enter_context(_hooked(model, tape, tape.untapped, partial(handle.runs, recorder), ended))
        yield tape, handle


def _stock(cache: Any) -> bool:
    """Whether all layers of a cache are those of transformers; yes if nothing is cached."""
    return cache is None or not any(type(layer).__module__.startswith("vtokens.") for layer in cache.layers)


@contextmanager
def _steps(model: PreTrainedModel, tape: Tape) -> Iterator[None]:
    """Note the steps behind a prompt as they pass by: to tell a strategy of them costs as much as a small layer."""
    thread = get_ident()
    with ExitStack() as stack:

        def ended() -> None:
            if tape.lost:
                stack.pop_all().close()

        stack.enter_context(watching(tape.adapter, Watch(tape.parts.layers, tape.attended)))
        stack.enter_context(
            _hooked(model, tape, sorted(tape.parts.states - {tape.depth}), lambda: get_ident() == thread, ended)
        )
        yield


@contextmanager
def _hooked(
    model: PreTrainedModel, tape: Tape, layers: Iterable[int], runs: Callable[[], bool], ended: Callable[[], None]
) -> Iterator[None]:
    """Let a tape see what enters some decoder layers, and what leaves the decoder and the model.

    runs: whether a call is the tape's business: the model's other callers, in other threads, are none of it.
    ended: called behind each call that is.
    """
    adapter = tape.adapter

    def on_layer(number: int, module: Any, args: Any, kwargs: dict[str, Any] | None = None) -> None:
        # Torch leaves the arguments out of a call of another thread that is under way while the hook is put on.
        if kwargs is not None and runs():
            tape.entering[number] = args[0] if args else kwargs["hidden_states"]

    def after_decoder(module: Any, args: Any, output: Any) -> None:
        if runs():
            tape.after_decoder(module, args, output)

    def after_model(module: Any, args: Any, kwargs: Any, output: Any = None) -> None:
        if runs():
            tape.after_model(kwargs["input_ids"] if "input_ids" in kwargs else args[0], output.logits)
            ended()

    # Behind the engine's own hooks, which drop tokens before layers, and bring states back to full length.
    hooks = [adapter.language_model.register_forward_hook(after_decoder)]
    for number in layers:
        layer = adapter.layers[number]
        hooks.append(layer.register_forward_pre_hook(partial(on_layer, number), with_kwargs=True))
    # Before the engine's own hook, which hands strategies the logits.
    hooks.append(model.register_forward_hook(after_model, with_kwargs=True, prepend=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
