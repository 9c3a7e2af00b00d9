"""The hooks of a model with logits, of its output layer and of its multimodal module: a call begins, and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vtokens.adapters.anatomy import PIXELS
from vtokens.adapters.decoder import inside
from vtokens.adapters.output import copies_by_name
from vtokens.core.kept_logits import cuts_logits
from vtokens.engine.block import Block, negative_prompt
from vtokens.engine.callbacks.base import REPLACED, Args, Base, Kwargs
from vtokens.engine.checks.arguments import named
from vtokens.engine.compiled import entering, leaving, traced, untraced, without_pictures
from vtokens.engine.context import here
from vtokens.engine.forward import Pass
from vtokens.engine.stages import logits
from vtokens.engine.state.request import Outer, Request
from vtokens.engine.state.tower_run import MODALITIES, TowerRun, run_in


class ModelHooks(Base):
    """From a call of the model to its request, and from the end of the decoder to logits."""

    @traced(without_pictures)
    def on_model(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> None:
        self.forget_call()
        block = self.block()
        if block is None or kwargs is None:
            return
        _check_replica(module, block)
        kwargs = named(module, args, kwargs)
        kind: Any = type(inside(module))
        keep = kwargs.get("logits_to_keep", 0)
        here().enter(self, Outer(kwargs.get("labels"), keep, keep if cuts_logits(kind) else 0))
        if block.plan.contrast is not None:
            self.standing["head"].follow(self.adapter.model.get_output_embeddings())

    @traced(entering)
    def on_start(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> None:
        outer = here().phase(self)
        self.forget_call()  # any other phase is what an interrupted call left
        block = self.block()
        if block is None or kwargs is None:
            return
        _check_replica(module, block)
        if not entering(module, args, kwargs):
            self.follow()
        inputs, plan = named(module, args, kwargs), block.plan
        given = None if plan.contrast is None else negative_prompt(self, self.prompts)
        request = Request(inputs, plan, outer if isinstance(outer, Outer) else None, given)
        here().enter(self, request)
        # generate() runs the tower before the pass and hands its outputs on; a plain call runs it inside.
        features = inputs.get("mm_encoder_outputs") or {}
        for modality in MODALITIES:
            if features.get(modality) is not None:
                copies_by_name(self.adapter, features[modality])
                run = run_in(modality, features[modality], bool(plan), self.adapter)
                request.runs.extend([] if run is None else [run])

    def encoding(self, modalities: Sequence[str]) -> str:
        request = here().phase(self)
        if len(modalities) > 1 and isinstance(request, Request):
            done = {run.modality for run in request.runs}
            given = (one for one in modalities if one not in done and request.inputs.get(PIXELS[one]) is not None)
            return next(given, modalities[0])
        # What is called before the pass is told apart by where its features are handed on (`run_in`).
        return modalities[0]

    def on_features(self, run: TowerRun) -> None:
        request = here().phase(self)
        if isinstance(request, Request):
            request.runs.append(run)

    @traced(leaving)
    def on_end(self, module: nn.Module, args: Any, result: Any) -> None:
        phase = here().phase(self)
        self.forget_call()
        if isinstance(phase, Request) and result is not None and phase.plan:
            raise RuntimeError(f"the decoder was {REPLACED}")
        ended = logits.Ended.of(phase) if isinstance(phase, Pass) else None
        if ended is not None:
            here().enter(self, ended)

    @untraced
    def before_head(self, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        ended = here().phase(self)
        if not isinstance(ended, logits.Ended) or not isinstance(ended.following, logits.Awaited):
            return None
        both = ended.following.before_head(args[0])
        return None if both is None else (both,)

    @untraced
    def after_head(self, module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> Any:
        ended = here().phase(self)
        if not isinstance(ended, logits.Ended) or not isinstance(ended.following, logits.Awaited):
            return None
        return ended.following.after_head(result)

    @untraced
    def on_logits(self, module: nn.Module, args: Any, result: Any) -> Any:
        ended = here().phase(self)
        if not isinstance(ended, logits.Ended):
            return None
        self.forget_call()
        if result is None:
            return None
        return logits.changed(ended, self.adapter.model.get_output_embeddings(), result, self.run_apart)


def _check_replica(module: nn.Module, block: Block) -> None:
    if block.plan and getattr(module, "_is_replica", False):
        raise RuntimeError(
            "DataParallel runs copies of the model on several devices, without what strategies keep of it: use one "
            "process a device (DistributedDataParallel), or detach() the strategy"
        )
