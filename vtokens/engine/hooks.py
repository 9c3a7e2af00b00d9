"""What the hooks on a model do: they find the phase of the caller's call, and hand it to a stage.

A call of the model, in the order of its hooks; a hook that meets another phase than it expects does nothing:

    module           hook       method               phase before -> after
    model            before     on_model             none             -> Outer
    model.model      before     on_start             Outer or none    -> Request
    feature call     in place   on_features          Request             (a run of the tower is noted)
    language_model   before     on_language_model    Request          -> Pass
    layers[i]        before     on_layer             Pass                (tokens are dropped, the mask is cut)
    self_attn        inside     on_attention         Pass
    mlp              after      after_mlp            Pass                (steered)
    layers[i]        after      after_layer          Pass                (steered; the text lane follows)
    language_model   after      on_output            Pass                (cache layers, states at full length)
    model.model      after      on_end               Pass             -> Ended if logits are changed, else none
    output layer     both       before_, after_head  Ended               (a joint pass only)
    model            after      on_logits            Ended            -> none

A negative prompt is prefilled inside `on_logits`: NegativePrefill, then Pass, for one call of language_model.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.core.compat import given_cache, returned_cache
from vtokens.engine import begin
from vtokens.engine.attention.observe import observe, observe_keys
from vtokens.engine.attention.padding import filled
from vtokens.engine.attention.sizes import sized
from vtokens.engine.attention.tap import Attention
from vtokens.engine.attention.unmerge import unmerged
from vtokens.engine.block import Block, Given, blocks, negative_prompt
from vtokens.engine.checks.arguments import named
from vtokens.engine.compiled import (
    attending,
    beside,
    cut_mask,
    entering,
    entering_layer,
    leaving,
    run,
    traced,
    without_pictures,
)
from vtokens.engine.context import here
from vtokens.engine.forward import Pass
from vtokens.engine.stages import cache, layer, logits, output
from vtokens.engine.stages.attend import attend
from vtokens.engine.stages.states import steer
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.request import NegativePrefill, Outer, Request
from vtokens.engine.state.tower_run import MODALITIES, TowerRun, run_in
from vtokens.strategies.views.heads import Memory
from vtokens.strategies.views.states import Place

_REPLACED = "replaced since strategies were attached, which stand on the old ones: detach() and attach() again"
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Hooks:
    """What hooks call. Each asks for the phase of the caller's own call, so that threads do not meet.

    Torch calls a hook without keyword arguments, or without output, while another thread is just putting it on: such a
    call began before the strategies came, and is left alone.

    Attributes:
        adapter: the model's.
        own: what is attached for every caller; None if nothing is.
        prompts: the negative prompts of all callers.
        standing: what stands on the model (`parts`), by name.
        layers: the decoder layers on which it stands.
        light: all that runs there does nothing in a step but cut masks, whoever's it is.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.own: Block | None = None
        self.prompts: list[Given] = []
        self.standing: dict[Hashable, Any] = {}
        self.layers: tuple[nn.Module, ...] = ()
        self.light = False

    def block(self) -> Block | None:
        """What runs for the caller: the innermost `with` block, or what is attached; None if nothing does."""
        found = blocks(self)
        return found[-1] if found else self.own

    def interrupted(self) -> None:
        """Forget the caller's call: it ended, or what is left of it belongs to nobody."""
        here().leave(self)

    @traced(without_pictures)
    def on_model(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> None:
        self.interrupted()
        block = self.block()
        if block is None or kwargs is None:
            return
        _check_replica(module, block)
        kwargs = named(module, args, kwargs)
        here().enter(self, Outer(kwargs.get("labels"), kwargs.get("logits_to_keep", 0)))
        if block.plan.contrast is not None:
            self.standing["head"].follow(self.adapter.model.get_output_embeddings())

    @traced(entering)
    def on_start(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> None:
        outer = here().phase(self)
        self.interrupted()  # any other phase is what an interrupted call left
        block = self.block()
        if block is None or kwargs is None:
            return
        _check_replica(module, block)
        inputs, plan = named(module, args, kwargs), block.plan
        given = None if plan.contrast is None else negative_prompt(self, self.prompts)
        request = Request(inputs, plan, outer if isinstance(outer, Outer) else None, given)
        here().enter(self, request)
        # generate() runs the tower before the pass and hands its outputs on; a plain call runs it inside.
        features = inputs.get("mm_encoder_outputs") or {}
        for modality in MODALITIES:
            if features.get(modality) is not None:
                run = run_in(modality, features[modality], bool(plan), self.adapter)
                request.runs.extend([] if run is None else [run])

    def on_features(self, run: TowerRun) -> None:
        request = here().phase(self)
        if isinstance(request, Request):
            request.runs.append(run)

    @traced(entering)
    def on_language_model(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> Any:
        phase, block = here().phase(self), self.block()
        if kwargs is None:
            return self.interrupted()
        if isinstance(phase, NegativePrefill):
            passed, changed = begin.negative_prefill(self.adapter, phase, kwargs)
        elif isinstance(phase, Request) and begin.handed_on(phase, args, kwargs):
            if phase.plan and not _holds(tuple(self.adapter.layers), self.layers):
                raise RuntimeError(f"decoder layers were {_REPLACED}")
            passed, changed = begin.requested(self.adapter, phase, kwargs)
        elif block is not None:  # the decoder by itself: it may still meet a cache that strategies shortened
            passed, changed = begin.alone(self.adapter, block.plan, named(module, args, kwargs)), None
        else:
            return self.interrupted()
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
            return args, passed.joint.adjust(index, hidden, kwargs)
        lane.hidden, lane.cache = layer.drop(lane, index, hidden), given_cache(kwargs)
        if passed.text is not None and lane.shows:
            passed.text.observe(index)
        changed = layer.adjust(lane, index, kwargs)
        if changed is None and lane.hidden is hidden:
            return None
        changed = kwargs if changed is None else changed
        return ((lane.hidden, *args[1:]), changed) if args else (args, dict(changed, hidden_states=lane.hidden))

    @beside
    def after_layer(self, index: int, module: nn.Module, args: Args, output: Any) -> Any:
        passed = here().phase(self)
        if not isinstance(passed, Pass):
            return None
        changed = self._steered(passed, index, "layer", output)
        if passed.text is not None and passed.main.shows:
            notes = passed.main.notes.get(index, Memory())
            passed.text.advance(index, passed.plan.at_attend.get(index, ()), notes)
        return changed

    @beside
    def after_mlp(self, index: int, module: nn.Module, args: Args, output: Any) -> Any:
        passed = here().phase(self)
        if not isinstance(passed, Pass):
            return None
        if passed.text is not None and passed.text.active:
            return passed.text.note(index, "mlp", output[0] if isinstance(output, tuple) else output)
        return self._steered(passed, index, "mlp", output)

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
            return passed.joint.part(result)
        lane, pictures, block = passed.main, passed.main.pictures, self.block()
        if passed.request is None:
            self.interrupted()
        keys = returned_cache(result) if hasattr(result, "get") else given_cache(kwargs)
        if pictures is None:
            output.remember(lane, keys)
            cache.compact(lane, keys)
            return None
        output.report(lane, pictures)
        if passed.request is not None and block is not None:
            block.records.note(pictures.record)
        if keys is not None:
            output.account(lane, pictures, keys)
            cache.compact(lane, keys)
        return None if lane.view is None else output.restore(lane, result)

    @traced(attending, run)
    def on_attention(self, index: int, attention: Attention) -> tuple[Tensor, Any]:
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

    def _in_lane(self, passed: Pass, lane: Lane, index: int, attention: Attention) -> tuple[Tensor, Any]:
        strategies, attention = lane.plan.at_attend.get(index, ()), filled(lane, index, attention)

        def inner(lane: Lane, attention: Attention) -> tuple[Tensor, Any]:
            signals, pictures = lane.plan.observed.get(index), lane.pictures
            if signals and pictures is not None:
                with pictures.record.selecting(attention.query.device):
                    for signal in signals:
                        observe(lane, pictures, signal, attention)
            text = passed.text if lane.shows else None
            return attend(lane, index, attention, strategies, text)

        if lane.plan.sizes or lane.plan.at_cache:
            attention = sized(lane, index, attention)
        if lane.pictures is not None and lane.shows:
            for signal in lane.plan.observed_keys.get(index, ()):
                observe_keys(lane, lane.pictures, signal, attention)
        result = unmerged(lane, index, attention, inner, bool(strategies))
        if index in lane.plan.at_cache:
            cache.decide(lane, index, attention)
        return result

    @traced(leaving)
    def on_end(self, module: nn.Module, args: Any, result: Any) -> None:
        phase = here().phase(self)
        self.interrupted()
        if isinstance(phase, Request) and result is not None and phase.plan:
            raise RuntimeError(f"the decoder was {_REPLACED}")
        ended = logits.Ended.of(phase) if isinstance(phase, Pass) else None
        if ended is not None:
            here().enter(self, ended)

    @beside
    def before_head(self, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        ended = here().phase(self)
        if not isinstance(ended, logits.Ended) or not isinstance(ended.following, logits.Awaited):
            return None
        both = ended.following.before_head(args[0])
        return None if both is None else (both,)

    @beside
    def after_head(self, module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> Any:
        ended = here().phase(self)
        if not isinstance(ended, logits.Ended) or not isinstance(ended.following, logits.Awaited):
            return None
        return ended.following.after_head(result)

    @beside
    def on_logits(self, module: nn.Module, args: Any, result: Any) -> Any:
        ended = here().phase(self)
        if not isinstance(ended, logits.Ended):
            return None
        self.interrupted()
        if result is None:
            return None
        return logits.changed(ended, self.adapter.model.get_output_embeddings(), result, self._run)

    def _run(self, sequence: NegativePrefill, inputs: Kwargs) -> Any:
        """The decoder's output for a negative prompt."""
        here().enter(self, sequence)
        try:
            return self.adapter.language_model(**inputs)
        finally:
            self.interrupted()


def _check_replica(module: nn.Module, block: Block) -> None:
    if block.plan and getattr(module, "_is_replica", False):
        raise RuntimeError(
            "DataParallel runs copies of the model on several devices, without what strategies keep of it: use one "
            "process a device (DistributedDataParallel), or detach() the strategy"
        )


def _holds(now: tuple[nn.Module, ...], before: tuple[nn.Module, ...]) -> bool:
    """Whether layers are those of before, each itself or inside a wrapper that was put around it since."""
    if now == before:
        return True
    # Asked in every pass: a wrapper's second module is what it wraps.
    pairs = zip(now, before, strict=False)
    return len(now) == len(before) and all(any(part is old for part in new.modules()) for new, old in pairs)
