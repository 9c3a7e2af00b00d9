"""What the hooks do that carry strategies into a live model: they gather rows, nothing is patched."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.core.compat import given_cache, returned_cache
from vtokens.engine import call as calls
from vtokens.engine import joint, logits, unmerge
from vtokens.engine.arguments import side_inputs
from vtokens.engine.attend import attend
from vtokens.engine.attention import Attention
from vtokens.engine.branch import Branch
from vtokens.engine.cache import holds_copies, holds_ours
from vtokens.engine.call import Call
from vtokens.engine.decoder import account, adjust, restore
from vtokens.engine.padding import cached_padding
from vtokens.engine.prefill import enter, find_ends, read_layout, refuse, select
from vtokens.engine.scope import Block, Given, blocks, prompt
from vtokens.engine.seen import MODALITIES, Seen, seen_in
from vtokens.engine.window import check_window
from vtokens.strategies.views.heads import Memory

_REPLACED = "replaced since strategies were attached, which stand on the old ones: detach() and attach() again"


class Hooks:
    """What hooks call. Each asks which pass of the caller's is under way, so that threads do not meet.

    Attributes:
        adapter: the model's.
        own: what is attached for every caller; None if nothing is.
        prompts: the negative prompts of all callers.
        standing: what stands on the model (`parts`), by name.
        layers: the decoder layers on which it stands.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.own: Block | None = None
        self.prompts: list[Given] = []
        self.standing: dict[Hashable, Any] = {}
        self.layers: tuple[nn.Module, ...] = ()

    def block(self) -> Block | None:
        """What runs for the caller: the innermost `with` block, or what is attached; None if nothing does."""
        found = blocks(self)
        return found[-1] if found else self.own

    def interrupted(self) -> None:
        """Forget the caller's pass: it ended, or what is left of it belongs to nobody."""
        calls.finish(self)
        calls.ended(self)

    def on_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        self.interrupted()
        block = self.block()
        if block is None or kwargs is None:  # without them while another thread puts the hook on
            return
        _check_replica(module, block)
        opened = Call(self.adapter, {}, plan=block.plan, outer=True)
        opened.labels, opened.keep = kwargs.get("labels"), kwargs.get("logits_to_keep", 0)
        calls.start(self, opened)
        if block.plan.contrast is not None:
            self.standing["head"].follow(self.adapter.model.get_output_embeddings())

    def on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        # What an interrupted pass left is nobody's any more.
        opened = calls.current(self)
        opened = opened if opened is not None and opened.outer else None
        self.interrupted()
        block = self.block()
        if block is None or kwargs is None:
            return
        _check_replica(module, block)
        inputs = dict(kwargs, input_ids=args[0]) if args else kwargs
        call = Call(self.adapter, inputs, plan=block.plan, opened=opened)
        calls.start(self, call)
        # generate() runs the tower before the pass and hands its outputs on; a plain call runs it inside.
        given = inputs.get("mm_encoder_outputs") or {}
        seen = [seen_in(m, given[m], bool(block.plan), self.adapter) for m in MODALITIES if given.get(m) is not None]
        call.seen = [s for s in seen if s is not None]

    def on_features(self, seen: Seen) -> None:
        call = calls.current(self)
        if call is not None and not call.outer and not call.entered:
            call.seen.append(seen)

    def on_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        call, block = calls.current(self), self.block()
        if kwargs is None or not _handed_on(call, args, kwargs):
            self.interrupted()
            if block is None or kwargs is None:
                return None
            # The language model on its own: it may still meet a reduced cache.
            call = Call(self.adapter, {}, direct=True, plan=block.plan)
            calls.start(self, call)
        assert call is not None
        assert call.plan is not None
        call.entered = True
        if call.plan and not _holds(tuple(self.adapter.layers), self.layers):
            raise RuntimeError(f"decoder layers were {_REPLACED}")
        cache, mask = given_cache(kwargs), kwargs.get("attention_mask")
        call.cache, call.past = cache, 0 if cache is None else cache.get_seq_length()
        call.fed_mask = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        if not call.plan.unmerges and holds_copies(cache):
            raise ValueError(
                "this cache holds merged tokens, which attention has to see at all of their positions: attach the "
                "strategy that merged them again, or start with an empty cache"
            )
        acts = bool(call.plan) and not call.direct and call.branch_of is None
        if acts:
            refuse(call, kwargs)
        if (acts and call.seen) or call.branch_of is not None or holds_ours(cache):
            check_window(self.adapter.language_model.config, call.past + _length(args, kwargs))
        layout = call.layout if call.branch_of is not None else None if call.direct else read_layout(call, kwargs)
        if call.branch_of is None and not call.direct:
            find_ends(call, layout, _length(args, kwargs))
        if call.plan.contrast is not None and call.opened is not None:
            call.prompt = prompt(self, self.prompts)
            both = logits.enter(call, layout, kwargs)
            if both is not None:
                return args, both
        if layout is None:
            return None
        if call.plan.branch and call.past == 0 and any(layout.counts):
            assert call.ends is not None
            side = side_inputs(self.adapter, kwargs)
            call.branch = Branch(self.adapter, kwargs["inputs_embeds"], layout, call.ends, side)
        changed = enter(call, layout, call.plan.at_prompt, kwargs)
        return None if changed is None else (args, changed)

    def on_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = calls.current(self)
        if call is None or kwargs is None or not call.entered:
            return None
        tap = self.standing.get(("tap", index))
        if tap is not None:
            tap.follow(module.self_attn)
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

    def after_layer(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = calls.current(self)
        if call is not None and call.branch is not None:
            assert call.plan is not None
            call.branch.advance(index, call.plan.at_attend.get(index, ()), call.memories.get(index, Memory()))

    def on_output(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any = None) -> Any:
        call = calls.current(self)
        if call is None or output is None:  # without one while another thread puts the hook on
            return None
        if call.direct:
            calls.finish(self)
        if call.joint is not None:
            return joint.leave(call, output)
        if call.record is None:
            return None
        call.record.views = call.by_layer
        call.record.attended = {index: part.member.shape[1] for index, part in call.folds.items()}
        call.record.copies = call.scratch.get(("copies",))
        block = self.block()
        if call.branch_of is None and block is not None:
            block.records.note(call.record)
        cache = returned_cache(output) if hasattr(output, "get") else given_cache(kwargs)
        if cache is not None:
            account(call, cache)
        return None if call.view is None else restore(call, output)

    def on_attention(self, index: int, attention: Attention) -> tuple[Tensor, Any]:
        call = calls.current(self)
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

    def on_end(self, module: nn.Module, args: Any, output: Any) -> None:
        call = calls.current(self)
        calls.finish(self)
        if call is not None and output is not None and call.plan and not call.entered:
            raise RuntimeError(f"the decoder was {_REPLACED}")
        if call is not None and call.opened is not None and (call.fed is not None or call.joint is not None):
            calls.end(self, call)

    def before_head(self, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        call = calls.ended(self, forget=False)
        if call is None or call.joint is None:
            return None
        call.headed += 1  # once: whoever calls the layer after an interruption gets what it says
        return (logits.both(call, args[0]),) if call.headed == 1 else None

    def after_head(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Any:
        call = calls.ended(self, forget=False)
        return logits.apart(call, output) if call is not None and call.headed == 1 else None

    def on_logits(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = calls.ended(self)
        if call is None or output is None:
            return None

        def run(branch: Call, inputs: dict[str, Any]) -> Any:
            calls.start(self, branch)
            try:
                return self.adapter.language_model(**inputs)
            finally:
                calls.finish(self)

        return logits.leave(call, output, run)


def _handed_on(call: Call | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the language model got this from a pass of the whole model, and not from the caller itself.

    torch tells hooks of an exception, but of no KeyboardInterrupt, so that the pass may be one that was cut off.
    """
    if call is None or call.outer or call.entered or call.direct:
        return False
    hidden, given = kwargs.get("inputs_embeds"), call.inputs.get("input_ids")
    if args or hidden is None or kwargs.get("input_ids") is not None:
        return False
    return not isinstance(given, Tensor) or given.shape == hidden.shape[:2]


def _length(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Positions that a language model is about to be fed."""
    fed = kwargs.get("inputs_embeds")
    fed = fed if fed is not None else kwargs["input_ids"] if "input_ids" in kwargs else args[0]
    return int(fed.shape[1])


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
