"""The hooks that carry strategies into a live model: they gather rows, nothing is patched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.compat import given_cache, returned_cache
from vtokens.engine import call as calls
from vtokens.engine import joint, logits, unmerge
from vtokens.engine.attend import attend
from vtokens.engine.attention import Attention, Tap
from vtokens.engine.branch import Branch
from vtokens.engine.cache import holds_copies
from vtokens.engine.call import Call, Record
from vtokens.engine.decoder import account, adjust, restore
from vtokens.engine.encode import Encode
from vtokens.engine.padding import cached_padding
from vtokens.engine.plan import Plan
from vtokens.engine.prefill import enter, find_ends, read_layout, refuse, select
from vtokens.engine.seen import MODALITIES, Seen, seen_in
from vtokens.engine.tower import TowerWatch
from vtokens.strategies.base import Strategy
from vtokens.strategies.heads import Memory


class Engine:
    """Runs strategies on one model. `install()` adds hooks, `remove()` takes every one of them away."""

    def __init__(self, adapter: Adapter, strategies: Sequence[Strategy]) -> None:
        self.adapter, self.strategies = adapter, tuple(strategies)
        self.plan = Plan(adapter, strategies)
        self.last_record: Record | None = None
        self._removable: list[Any] = []

    def install(self) -> None:
        """Attach to the model; on an error nothing stays behind."""
        adapter = self.adapter
        try:
            if adapter.model is not adapter.multimodal:
                self._before(adapter.model, self._on_model)
                if self.plan.contrast is not None:
                    self._removable.append(adapter.model.register_forward_hook(self._on_logits, always_call=True))
                    head = adapter.model.get_output_embeddings()
                    self._removable.append(head.register_forward_pre_hook(self._before_head))
                    self._removable.append(head.register_forward_hook(self._after_head))
            self._before(adapter.multimodal, self._on_start)
            self._removable.append(adapter.multimodal.register_forward_hook(self._on_end, always_call=True))
            self._before(adapter.language_model, self._on_language_model)
            hook = adapter.language_model.register_forward_hook(self._on_output, with_kwargs=True)
            self._removable.append(hook)
            for index, layer in enumerate(adapter.layers):
                self._before(layer, partial(self._on_layer, index))
                if self.plan.branch or (self.plan.negative is not None and self.plan.negative.branch):
                    self._removable.append(layer.register_forward_hook(partial(self._after_layer, index)))
            self._removable.append(TowerWatch(adapter, self.plan.blocks, self.plan.at_encode, self._on_features))
            if self.plan.at_encode and adapter.merge_points:
                self._removable.append(Encode(adapter, self.plan.at_encode))
            for index in self.plan.tapped(len(adapter.layers)):
                self._removable.append(Tap(adapter.layers[index].self_attn, partial(self._on_attention, index)))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take everything away again, in reverse order."""
        while self._removable:
            self._removable.pop().remove()
        calls.finish(id(self))
        calls.ended(id(self))

    def _before(self, module: nn.Module, hook: Any) -> None:
        self._removable.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _on_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.ended(id(self))
        opened = Call(self.adapter, {}, plan=self.plan)
        opened.labels, opened.keep = kwargs.get("labels"), kwargs.get("logits_to_keep", 0)
        calls.start(id(self), opened)

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = dict(kwargs, input_ids=args[0]) if args else kwargs
        opened = calls.current(id(self))
        call = Call(self.adapter, inputs, plan=self.plan, opened=opened)
        calls.start(id(self), call)
        # generate() runs the tower before the pass and hands its outputs on; a plain call runs it inside.
        given = inputs.get("mm_encoder_outputs") or {}
        seen = [seen_in(m, given[m], bool(self.plan)) for m in MODALITIES if given.get(m) is not None]
        call.seen = [s for s in seen if s is not None]

    def _on_features(self, seen: Seen) -> None:
        call = calls.current(id(self))
        if call is not None and call.inputs:
            call.seen.append(seen)

    def _on_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = calls.current(id(self))
        if call is None or call.direct or not call.inputs:
            # The language model on its own: it may still meet a reduced cache.
            call = Call(self.adapter, {}, direct=True, plan=self.plan)
            calls.start(id(self), call)
        cache, mask = given_cache(kwargs), kwargs.get("attention_mask")
        call.cache, call.past = cache, 0 if cache is None else cache.get_seq_length()
        call.fed_mask = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        assert call.plan is not None
        if not call.plan.unmerges and holds_copies(cache):
            raise ValueError(
                "this cache holds merged tokens, which attention has to see at all of their positions: attach the "
                "strategy that merged them again, or start with an empty cache"
            )
        if call.plan and not call.direct and call.branch_of is None:
            refuse(call, kwargs)
        layout = call.layout if call.branch_of is not None else None if call.direct else read_layout(call, kwargs)
        if call.branch_of is None:
            find_ends(call, layout, kwargs["inputs_embeds"].shape[1])
        if call.plan.contrast is not None and call.opened is not None:
            both = logits.enter(call, layout, calls.prompt(id(self.adapter)), kwargs)
            if both is not None:
                return args, both
        if layout is None:
            return None
        if call.plan.branch and call.past == 0 and any(layout.counts):
            assert call.ends is not None
            call.branch = Branch(self.adapter, kwargs["inputs_embeds"], layout, call.ends)
        changed = enter(call, layout, call.plan.at_prompt, kwargs)
        return None if changed is None else (args, changed)

    def _on_layer(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = calls.current(id(self))
        if call is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        assert call.plan is not None
        if call.joint is not None:
            return args, joint.adjust(call, index, hidden, kwargs)
        if call.layout is not None:
            for strategy in call.plan.at_layer.get(index, ()):
                hidden = select(call, strategy, partial(strategy.at_layer, index=index), hidden)
            if not any(call.layout.counts):
                call.branch = None  # no picture is left whose absence could be told
        if call.branch is not None:
            call.branch.observe(index)
        call.hidden, call.cache = hidden, given_cache(kwargs)
        changed = adjust(call, index, hidden, kwargs)
        if changed is None:
            return None
        return ((hidden, *args[1:]), changed) if args else (args, dict(changed, hidden_states=hidden))

    def _after_layer(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = calls.current(id(self))
        if call is not None and call.branch is not None:
            assert call.plan is not None
            call.branch.advance(index, call.plan.at_attend.get(index, ()), call.memories.get(index, Memory()))

    def _on_output(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        call = calls.current(id(self))
        if call is None:
            return None
        if call.direct:
            calls.finish(id(self))
        if call.joint is not None:
            return joint.leave(call, output)
        if call.record is None:
            return None
        call.record.views = call.by_layer
        call.record.attended = {index: part.member.shape[1] for index, part in call.folds.items()}
        call.record.copies = call.scratch.get(("copies",))
        if call.branch_of is None:
            self.last_record = call.record
        cache = returned_cache(output) if hasattr(output, "get") else given_cache(kwargs)
        if cache is not None:
            account(call, cache)
        return None if call.view is None else restore(call, output)

    def _on_attention(self, index: int, attention: Attention) -> tuple[Tensor, Any]:
        call = calls.current(id(self))
        if call is None:
            return attention.run()
        if call.branch is not None and call.branch.running:
            return call.branch.attend(index, attention)
        if call.joint is not None:
            return joint.attend(call, index, attention, self._unmerged)
        assert call.plan is not None
        if call.layout is None and attention.query.shape[2] == 1 and index in call.plan.watched:
            assert call.hidden is not None
            output = attention.run()
            for strategy in call.plan.watched[index]:
                strategy.at_step(index, attention.query, call.hidden, output[0])
            return output
        return self._unmerged(call, index, attention)

    def _unmerged(self, call: Call, index: int, attention: Attention) -> tuple[Tensor, Any]:
        assert call.plan is not None
        strategies = call.plan.at_attend.get(index, ())
        return unmerge.attend(call, index, attention, partial(self._attend, call, index), bool(strategies))

    def _attend(self, call: Call, index: int, attention: Attention) -> tuple[Tensor, Any]:
        assert call.plan is not None
        rows, query = call.plan.rows.get(index), attention.query
        if rows and call.layout is not None and call.record is not None:
            with call.record.selecting(query.device):
                for signal in rows:
                    cached = cached_padding(call, index)
                    call.observe_decoder(index, signal.rows, query, attention.key, attention.scaling, cached)
        return attend(call, index, attention, call.plan.at_attend.get(index, ()))

    def _on_end(self, module: nn.Module, args: Any, output: Any) -> None:
        call = calls.current(id(self))
        calls.finish(id(self))
        if call is not None and call.opened is not None and (call.fed is not None or call.joint is not None):
            calls.end(id(self), call)

    def _before_head(self, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        call = calls.ended(id(self), forget=False)
        return None if call is None or call.joint is None else (logits.both(call, args[0]),)

    def _after_head(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Any:
        call = calls.ended(id(self), forget=False)
        return None if call is None or call.joint is None else logits.apart(call, output)

    def _on_logits(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = calls.ended(id(self))
        if call is None or output is None:
            return None

        def run(branch: Call, inputs: dict[str, Any]) -> Any:
            calls.start(id(self), branch)
            try:
                return self.adapter.language_model(**inputs)
            finally:
                calls.finish(id(self))

        return logits.leave(call, output, calls.prompt(id(self.adapter)), run)
