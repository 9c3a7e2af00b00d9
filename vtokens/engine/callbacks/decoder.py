"""The hooks of the decoder, its layers, their MLPs and their attention: a pass."""

from __future__ import annotations

from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from vtokens.core.compat import given_cache, returned_cache
from vtokens.engine import begin
from vtokens.engine.attention.key_padding import filled
from vtokens.engine.attention.observe import observe, observe_change, observe_keys, observe_neurons
from vtokens.engine.attention.sizes import sized
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.attention.temperature import tempered
from vtokens.engine.attention.unmerge import unmerged
from vtokens.engine.callbacks.base import REPLACED, Args, Base, Kwargs
from vtokens.engine.checks.arguments import named
from vtokens.engine.compiled import attend_alone, attending, cut_mask, entering, entering_layer, traced, untraced
from vtokens.engine.context import here
from vtokens.engine.forward import Pass
from vtokens.engine.lanes.rehearsal import rehearse
from vtokens.engine.stages import cache, early, layer, output, rows
from vtokens.engine.stages.attend import attend
from vtokens.engine.stages.states import steer
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.per_layer import beside_states
from vtokens.engine.state.request import NegativePrefill, Request
from vtokens.strategies.signals import Change
from vtokens.strategies.views.heads import Memory
from vtokens.strategies.views.states import Place


class DecoderHooks(Base):
    """A pass, from what enters the decoder to what leaves it."""

    @traced(entering)
    def on_language_model(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> Any:
        phase, block = here().phase(self), self.block()
        if kwargs is None:
            return self.forget_call()
        if isinstance(phase, NegativePrefill):
            passed, changed = begin.negative_prefill(self.adapter, phase, kwargs)
        elif isinstance(phase, Request) and begin.handed_on(phase, args, kwargs):
            if phase.plan and not _holds(tuple(self.adapter.layers), self.layers):
                raise RuntimeError(f"decoder layers were {REPLACED}")
            passed, changed = begin.requested(self.adapter, phase, kwargs)
            if passed.start is not None and phase.plan.rehearsal is not None:
                rehearse(passed.start, phase.plan.rehearsal, self.run_apart)
        elif block is not None:  # the decoder by itself: it may still meet a cache that strategies shortened
            passed, changed = begin.alone(self.adapter, block.plan, named(module, args, kwargs)), None
        else:
            return self.forget_call()
        here().enter(self, passed)
        return None if changed is None else (args, changed)

    @traced(entering_layer, cut_mask)
    def on_layer(self, index: int, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> Any:
        passed = here().phase(self)
        if not isinstance(passed, Pass) or kwargs is None:
            return None
        tap = self.standing.get(("tap", index))
        if tap is not None:
            tap.follow(module.self_attn)
        hidden, lane = args[0] if args else kwargs["hidden_states"], passed.main
        if passed.joint is not None:
            both = passed.joint.adjust(index, hidden, kwargs)
            early.note(passed, index, lane.hidden)
            return args, both
        lane.hidden = layer.drop(lane, index, hidden)
        early.note(passed, index, lane.hidden)
        rows.choose(lane, index)
        if lane.cache is None:  # a decoder that was given none may have made one
            lane.cache = given_cache(kwargs)
        if passed.text is not None and lane.shows:
            passed.text.observe(index)
        changed = layer.adjust(lane, index, kwargs)
        if changed is None and lane.hidden is hidden:
            return None
        changed = kwargs if changed is None else changed
        return (
            ((lane.hidden, *beside_states(self.adapter, args[1:], lane.columns)), changed)
            if args
            else (args, dict(changed, hidden_states=lane.hidden))
        )

    @untraced
    def after_layer(self, index: int, module: nn.Module, args: Args, output: Any) -> Any:
        passed = here().phase(self)
        if not isinstance(passed, Pass):
            return None
        output = rows.restore(passed.main, index, output)
        changed = self._steered(passed, index, "layer", output)
        if passed.text is not None and passed.main.shows:
            notes = passed.main.notes.get(index, Memory())
            passed.text.advance(index, passed.plan.at_attend.get(index, ()), notes)
        return changed

    @untraced
    def before_rows(self, index: int, name: str, module: nn.Module, args: Args) -> Any:
        lane = self._main_lane()
        return None if lane is None else rows.take(lane, index, name, args)

    @untraced
    def after_rows(self, index: int, name: str, module: nn.Module, args: Args, output: Any) -> Any:
        lane = self._main_lane()
        return None if lane is None else rows.put(lane, index, name, output)

    @untraced
    def before_neurons(self, index: int, module: nn.Module, args: Args) -> None:
        lane = self._main_lane()
        if lane is not None and lane.pictures is not None:
            for signal in lane.plan.observed_neurons.get(index, ()):
                observe_neurons(lane, lane.pictures, signal, args[0])

    def _main_lane(self) -> Lane | None:
        """The prompt's lane, where its layer is under way; None where another sequence runs through it."""
        passed = here().phase(self)
        if not isinstance(passed, Pass) or passed.joint is not None:
            return None
        return None if passed.text is not None and passed.text.active else passed.main

    @untraced
    def after_mlp(self, index: int, module: nn.Module, args: Args, output: Any) -> Any:
        passed = here().phase(self)
        if not isinstance(passed, Pass):
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        whole = _by_sample(hidden, args[0])
        if passed.text is not None and passed.text.active:
            return passed.text.note(index, "mlp", whole)
        changed = self._steered(passed, index, "mlp", whole).view_as(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    @traced(entering_layer)
    def after_part(self, signal: Change, module: nn.Module, args: Args, kwargs: Kwargs, output: Any = None) -> Any:
        lane = self._main_lane()
        if lane is None or output is None:
            return
        pictures = lane.pictures
        if pictures is None or not lane.shows or signal not in lane.plan.changes.get(signal.layer, ()):
            return
        given = args[0] if args else kwargs["hidden_states"]
        with pictures.record.selecting(given.device):
            made = output[0] if isinstance(output, tuple) else output
            observe_change(lane, pictures, signal, given, _by_sample(made, given))

    def _steered(self, passed: Pass, index: int, place: Place, output: Any) -> Any:
        """What leaves a layer or its MLP, with what strategies add to it."""
        hidden = output[0] if isinstance(output, tuple) else output
        if passed.joint is None:
            text = passed.text if passed.main.shows else None
            changed = steer(passed.main, index, place, hidden, text)
        else:
            lanes = (passed.joint.main, passed.joint.negative)
            halves = zip(lanes, hidden.chunk(2), strict=True)
            changed = torch.cat([steer(lane, index, place, half, None) for lane, half in halves])
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    @traced(entering)
    def on_output(self, module: nn.Module, args: Args, kwargs: Any, result: Any = None) -> Any:
        passed = here().phase(self)
        if not isinstance(passed, Pass) or result is None:
            return None
        if passed.joint is not None:
            for one in (passed.joint.main, passed.joint.negative):
                output.remember(one, one.cache)
                cache.compact(one, one.cache)
            return passed.joint.prompt_output(result)
        lane, pictures, block = passed.main, passed.main.pictures, self.block()
        if passed.request is None:
            self.forget_call()
        keys = returned_cache(result) if hasattr(result, "get") else given_cache(kwargs)
        if pictures is None:
            output.remember(lane, keys)
            cache.compact(lane, keys)
            return None
        output.report(lane, pictures)
        if any(acting.needs.grounds for acting in lane.plan.at_logits):
            lane.final = result[0]
        if passed.request is not None and block is not None:
            block.records.note(pictures.record)
        if keys is not None:
            output.note_keymaps(lane, pictures, keys)
            cache.compact(lane, keys)
        return None if lane.view is None else output.restore(lane, result)

    @traced(attending, attend_alone)
    def on_attention(self, index: int, attention: AttentionCall) -> tuple[Tensor, Any]:
        for watch in self.watches:
            if watch.thread == get_ident() and index in watch.layers:
                watch.seen(index, attention.query)
        passed = here().phase(self)
        if not isinstance(passed, Pass):
            return attention.run()
        if passed.text is not None and passed.text.active:
            return passed.text.on_attention(index, attention)
        if passed.joint is not None:
            return passed.joint.attend_apart(index, attention, partial(self._in_lane, passed))
        lane, watched = passed.main, passed.plan.watched.get(index)
        if watched and lane.pictures is None and attention.query.shape[2] == 1:
            result = attention.run()
            for strategy in watched:
                strategy.at_step(index, attention.query, lane.hidden, result[0])
            return result
        return self._in_lane(passed, lane, index, attention)

    def _in_lane(self, passed: Pass, lane: Lane, index: int, attention: AttentionCall) -> tuple[Tensor, Any]:
        counted = lane.past if passed.joint is None else passed.joint.main.past
        attention = tempered(lane, index, filled(lane, index, attention), counted)
        strategies = lane.plan.at_attend.get(index, ())
        attention.rows = lane.computed.get(index)

        def inner(lane: Lane, attention: AttentionCall) -> tuple[Tensor, Any]:
            signals, pictures = lane.plan.observed.get(index), lane.pictures
            if signals and pictures is not None:
                with pictures.record.selecting(attention.query.device):
                    for signal in signals:
                        observe(lane, pictures, signal, attention)
            text = passed.text if passed.text is not None and lane.shows else None
            return attend(lane, index, attention, strategies, text)

        if lane.plan.sizes or lane.plan.at_cache:
            attention = sized(lane, index, attention)
        if lane.pictures is not None and lane.shows:
            for signal in lane.plan.observed_keys.get(index, ()):
                observe_keys(lane, lane.pictures, signal, attention)
        if lane.plan.unmerges:
            result = unmerged(lane, index, attention, inner, bool(strategies))
        else:
            result = inner(lane, attention)
        if index in lane.plan.at_cache:
            cache.decide(lane, index, attention)
        return result


def _holds(now: tuple[nn.Module, ...], before: tuple[nn.Module, ...]) -> bool:
    """Whether layers are those of before, each itself or inside a wrapper that was put around it since."""
    if now == before:
        return True
    # Asked in every pass: a wrapper's second module is what it wraps.
    pairs = zip(now, before, strict=False)
    return len(now) == len(before) and all(any(part is old for part in new.modules()) for new, old in pairs)


def _by_sample(output: Tensor, given: Tensor) -> Tensor:
    """What a part of a layer gives, as (B, L, H): mixtures of experts may give rows of all samples in one list.

    Else its rows need not be those that the part was given: those that pass it by are put back behind it.
    """
    return output.view_as(given) if output.dim() != given.dim() else output
