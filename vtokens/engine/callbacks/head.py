"""The hooks of the output layer, and of the model once it has made logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vtokens.engine.callbacks.base import Base, Kwargs
from vtokens.engine.compiled import untraced
from vtokens.engine.context import here
from vtokens.engine.stages import logits
from vtokens.engine.state.request import NegativePrefill


class HeadHooks(Base):
    """What becomes of the logits of a pass that has ended."""

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
