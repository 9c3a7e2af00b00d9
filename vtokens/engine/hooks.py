"""The hooks that carry strategies into a live model: they gather rows, nothing is patched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vtokens.adapters import Adapter
from vtokens.engine import call as calls
from vtokens.engine.attention import Watch
from vtokens.engine.cache import Prefix, ReducedLayer, check_cache, stored_length
from vtokens.engine.call import Call, Record
from vtokens.engine.masks import join, layer_mask
from vtokens.engine.reduction import expand, gather, reduce
from vtokens.engine.tower import MODALITIES, Seen, TowerWatch, seen_in
from vtokens.layout import Layout
from vtokens.strategies.base import Attention, Saliency, Selection, Strategy, Visuals


class Engine:
    """Runs strategies on one model. `install()` adds hooks, `remove()` takes every one of them away."""

    def __init__(self, adapter: Adapter, strategies: Sequence[Strategy]) -> None:
        self.adapter = adapter
        facts = adapter.facts
        for strategy in strategies:
            strategy.check(facts)
        # keep=1.0 asks for nothing to be dropped: such a strategy is not even consulted.
        self.strategies = [s for s in strategies if not s.keeps_all]
        self.at_prompt = [s for s in self.strategies if "prompt" in s.stages()]
        self.at_layer: dict[int, list[Strategy]] = {}
        self.blocks: set[int] = set()
        self.rows: dict[int, set[Attention]] = {}
        for strategy in self.strategies:
            for index in strategy.acts_before(facts):
                self.at_layer.setdefault(index, []).append(strategy)
            for signal in strategy.signals(facts):
                if isinstance(signal, Saliency):
                    self.blocks |= {b % facts.tower_depth for b in signal.blocks or (adapter.feature_block,)}
                else:
                    self.rows.setdefault(signal.layer, set()).add(signal)
        self.last_record: Record | None = None
        self._removable: list[Any] = []

    def install(self) -> None:
        """Attach to the model; on an error nothing stays behind."""
        adapter = self.adapter
        try:
            if adapter.model is not adapter.multimodal:
                self._pre(adapter.model, self._on_model)
            self._pre(adapter.multimodal, self._on_start)
            hook = adapter.multimodal.register_forward_hook(self._on_end, always_call=True)
            self._removable.append(hook)
            self._pre(adapter.language_model, self._on_language_model)
            hook = adapter.language_model.register_forward_hook(self._on_output, with_kwargs=True)
            self._removable.append(hook)
            for index, layer in enumerate(adapter.layers):
                self._pre(layer, partial(self._on_layer, index))
            if self.strategies:
                self._removable.append(TowerWatch(adapter, sorted(self.blocks), self._on_features))
            for index in sorted(self.rows):
                self._removable.append(
                    Watch(
                        adapter.layers[index].self_attn,
                        partial(self._on_attention, index),
                    )
                )
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take everything away again, in reverse order."""
        while self._removable:
            self._removable.pop().remove()
        calls.finish(id(self))

    def _pre(self, module: nn.Module, hook: Any) -> None:
        self._removable.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _on_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # generate() asks for the logits of one position, or of the candidates' positions under speculative decoding.
        asked = kwargs.get("logits_to_keep")
        calls.start(
            id(self),
            Call(
                self.adapter,
                {},
                asked=asked if isinstance(asked, int) and asked > 0 else 1,
            ),
        )

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = dict(kwargs, input_ids=args[0]) if args else kwargs
        opened = calls.current(id(self))
        call = Call(self.adapter, inputs, asked=opened.asked if opened is not None else 1)
        # generate() runs the tower before the pass and hands its outputs on; a plain call runs it inside.
        outputs = inputs.get("mm_encoder_outputs") or {}
        call.seen = [
            seen_in(modality, outputs[modality]) for modality in MODALITIES if outputs.get(modality) is not None
        ]
        calls.start(id(self), call)

    def _on_features(self, seen: Seen) -> None:
        call = calls.current(id(self))
        if call is not None and call.inputs:
            call.seen.append(seen)

    def _read_layout(self, call: Call, kwargs: dict[str, Any]) -> None:
        """Find the visual tokens of a pass that brings pictures; refuse what cannot be pruned."""
        inputs, language_model = call.inputs, self.adapter.language_model
        if not call.seen:
            if inputs.get("inputs_embeds") is not None and call.past == 0:
                raise ValueError(
                    "inputs_embeds without pixel_values do not tell where their visual tokens are: pass input_ids and "
                    "pixel_values, or inputs_embeds with placeholder embeddings and pixel_values, or detach() first"
                )
            return
        if kwargs.get("output_attentions") or getattr(language_model.config, "output_attentions", False):
            raise ValueError(
                "output_attentions=True cannot be met while tokens are dropped: layers see different lengths. "
                "Use handle.report() for what was kept, or detach() the strategy first"
            )
        if language_model.training and getattr(language_model, "gradient_checkpointing", False):
            raise ValueError(
                "gradient checkpointing runs layers a second time, without the tokens' layout: "
                "call model.gradient_checkpointing_disable(), or detach() the strategy for training"
            )
        mask = kwargs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise ValueError(
                "only a 2-D attention_mask (batch, length) can be cut to the tokens kept: pass the padding mask, "
                "not a prepared one, or detach() the strategy"
            )
        check_cache(kwargs.get("past_key_values"))
        placeholders = self.adapter.placeholders(inputs)
        some = next(iter(placeholders.values()))
        valid = torch.ones_like(some) if mask is None else mask[:, -some.shape[1] :].to(some.device).bool()
        pictures = {seen.modality: seen.pictures for seen in call.seen}
        call.layout = call.fed_layout = Layout.build(placeholders, pictures, valid)

    def _on_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = calls.current(id(self))
        if (
            call is None or call.direct or not call.inputs
        ):  # the language model on its own: it may still meet a reduced cache
            call = Call(self.adapter, {}, direct=True)
            calls.start(id(self), call)
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        call.past = 0 if cache is None else cache.get_seq_length()
        call.fed_mask = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        if self.strategies and not call.direct:
            self._read_layout(call, kwargs)
        layout = call.layout
        if layout is None:
            return None
        hidden = kwargs["inputs_embeds"]
        call.length = hidden.shape[1]
        if call.past == 0 and not layout.padded:
            call.fed_mask = None  # a mask of ones: knowing so keeps the attention's fast path
        call.record = Record(layout, call.length, len(self.adapter.layers), hidden.element_size())
        for strategy in self.at_prompt:
            hidden = self._select(call, strategy, strategy.at_prompt, hidden)
        call.entry, call.rows = call.view, None
        if call.view is None:
            return None
        before = None if call.fed_mask is None else call.fed_mask[:, : call.past]
        after = call.view.mask(None if call.fed_mask is None else call.fed_mask[:, call.past :])
        allowed = join(before, after, call.past, hidden.shape[1])
        if allowed is None:  # said out loud, since gaps in position_ids without a mask look like packed sequences
            allowed = torch.ones(
                len(hidden),
                call.past + hidden.shape[1],
                dtype=torch.bool,
                device=hidden.device,
            )
        position_ids = kwargs.get("position_ids")
        if position_ids is None:
            position_ids = torch.arange(call.past, call.past + call.length, device=hidden.device)[None]
        position_ids = gather(position_ids, call.view.index, position_ids.dim() - 1)
        return args, dict(
            kwargs,
            inputs_embeds=hidden,
            attention_mask=allowed,
            position_ids=position_ids,
        )

    def _on_layer(
        self,
        index: int,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        call = calls.current(id(self))
        if call is None:
            return None
        cache = kwargs.get("past_key_values")
        held = cache.layers[index] if cache is not None and index < len(cache.layers) else None
        if call.layout is None and not isinstance(held, ReducedLayer):
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if call.layout is not None:
            for strategy in self.at_layer.get(index, ()):
                hidden = self._select(call, strategy, partial(strategy.at_layer, index=index), hidden)
        if call.view is None and not isinstance(held, ReducedLayer):
            return None
        changed = dict(kwargs)
        if args:
            args = (hidden, *args[1:])
        else:
            changed["hidden_states"] = hidden
        if call.view is not None:
            call.by_layer[index] = call.view
            # Only packed-sequence detection reads them here, and gaps in them look like packing.
            changed["position_ids"] = None
        if call.rows is not None:
            changed["position_embeddings"] = self._position_embeddings(call, kwargs["position_embeddings"])
        if call.view is not call.entry or call.past or isinstance(held, ReducedLayer):
            changed["attention_mask"] = self._mask(call, index, cache, hidden)
        return args, changed

    def _position_embeddings(self, call: Call, embeddings: Any) -> Any:
        assert call.view is not None and call.rows is not None
        key = ("positions", call.view.group)
        if key not in call.scratch:
            call.scratch[key] = tuple(gather(part, call.rows, part.dim() - 2) for part in embeddings)
        return call.scratch[key]

    def _mask(self, call: Call, index: int, cache: Any, hidden: Tensor) -> Any:
        held = cache.layers[index] if cache is not None and index < len(cache.layers) else None
        reduced = held if isinstance(held, ReducedLayer) else None
        past = stored_length(cache, index)
        key = (
            "mask",
            past,
            reduced.prefix.group if reduced else 0,
            call.view.group if call.view else 0,
        )
        if key not in call.scratch:
            fed, chunk = (
                call.fed_mask,
                None if call.fed_mask is None else call.fed_mask[:, call.past :],
            )
            if reduced is not None:
                before = reduced.padding(fed, call.past)
            else:
                before = None if fed is None else fed[:, : call.past]
            after = chunk if call.view is None else call.view.mask(chunk)
            allowed = join(before, after, past, hidden.shape[1])
            allowed = None if allowed is None else allowed.to(hidden.device)
            call.scratch[key] = layer_mask(self.adapter.language_model.config, hidden, past, allowed)
        return call.scratch[key]

    def _on_output(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        call = calls.current(id(self))
        if call is None:
            return None
        if call.direct:
            calls.finish(id(self))
        if call.record is None:
            return None
        call.record.views = call.by_layer
        self.last_record = call.record
        if call.view is None:
            return None
        cache = output.past_key_values if "past_key_values" in output else kwargs.get("past_key_values")
        if cache is not None:
            self._account(call, cache)
        output.last_hidden_state = expand(output.last_hidden_state, call.view, call.length)
        return output

    def _account(self, call: Call, cache: Any) -> None:
        """Tell the cache layers that stored less than was fed."""
        assert call.fed_layout is not None
        for index, view in call.by_layer.items():
            layer = cache.layers[index]
            stored = layer.stored if isinstance(layer, ReducedLayer) else layer.get_seq_length()
            new = view.index.shape[1]
            fed = call.fed_mask
            if isinstance(layer, ReducedLayer):
                before = layer.padding(fed, call.past)
            else:
                before = None if fed is None else fed[:, : call.past]
            valid = join(
                before,
                view.mask(None if fed is None else fed[:, call.past :]),
                stored - new,
                new,
            )
            prefix = Prefix(stored, call.past + call.length, valid, call.fed_layout.tail, view.group)
            cache.layers[index] = ReducedLayer.adopt(layer, prefix)

    def _select(self, call: Call, strategy: Strategy, stage: Any, hidden: Tensor) -> Tensor:
        """Let one strategy act; returns the hidden states that go on."""
        assert call.layout is not None and call.record is not None
        layout = call.layout = call.layout.to(hidden.device)
        with call.record.selecting(hidden.device):
            visuals = Visuals(hidden, layout, strategy.grouping, call)
            selection: Selection | None = stage(visuals) if sum(layout.counts) else None
            if selection is None:
                return hidden
            stay = layout.groups(strategy.grouping).scatter(selection.keep, layout.visual)
            if selection.counts is not None and strategy.grouping == "image":
                counts = selection.counts
            else:
                counts = layout.count(stay)
            reduced = reduce(layout, stay, counts, call.view)
            if reduced is None:
                return hidden
            call.view, rows = reduced
            call.layout = call.view.layout
            call.rows = rows if call.rows is None else call.rows.to(rows.device).gather(1, rows)
            return gather(hidden, rows, 1)

    def _on_attention(
        self,
        index: int,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        scaling: float,
        kwargs: Any,
    ) -> None:
        call = calls.current(id(self))
        if call is not None and call.layout is not None and call.record is not None and sum(call.layout.counts):
            with call.record.selecting(query.device):
                for signal in self.rows[index]:
                    call.observe_decoder(index, signal.rows, query, key, scaling)

    def _on_end(self, module: nn.Module, args: Any, output: Any) -> None:
        calls.finish(id(self))
