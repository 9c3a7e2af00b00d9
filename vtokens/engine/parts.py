"""What stands on a live model while strategies run on it: hooks, taps, and the watch on the tower."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, Protocol, cast

from torch import nn

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import mlp_of
from vtokens.adapters.output import makes_logits
from vtokens.engine import cross
from vtokens.engine.attention.tap import Tap
from vtokens.engine.context import Follower
from vtokens.engine.hooks import Hooks
from vtokens.engine.plan import Plan
from vtokens.engine.stages.encode import Encode, after_projector
from vtokens.engine.stages.pixels import AtTower
from vtokens.engine.stages.rows import ROW_WISE, row_wise
from vtokens.engine.stages.sensitivity import on_projector
from vtokens.engine.stages.tower import TowerTap, TowerWatch, on_block


class Part(Protocol):
    """Something that can be taken off again."""

    def remove(self) -> None:
        """Leave no trace."""


Parts = dict[Hashable, Callable[[], Part]]


def parts(hooks: Hooks, plan: Plan) -> Parts:
    """What a plan needs on the model, by name, and how to put it there.

    Equal names stand for the same part: it is put on once, for all who need it, and serves each caller by its own plan.
    """
    adapter, found, outside = hooks.adapter, Parts(), hooks.adapter.anatomy.cross is not None
    decoder, layers = adapter.language_model, () if outside else adapter.layers
    within = adapter.model is adapter.multimodal  # which may make logits all the same, behind its decoder
    if makes_logits(adapter):
        found["model"] = partial(_before, adapter.model, hooks.on_model)
        if plan.contrast is not None or plan.at_logits:
            # Before the hook that ends the call, where both stand on one module.
            after = partial(adapter.model.register_forward_hook, prepend=within)
            found["logits"] = partial(after, hooks.on_logits, always_call=True)
        if plan.contrast is not None:
            found["head"] = partial(Head, hooks, adapter.model.get_output_embeddings())
    found["start"] = partial(_before, adapter.multimodal, hooks.on_start)
    found["end"] = partial(adapter.multimodal.register_forward_hook, hooks.on_end, always_call=True)
    begin: Any = partial(cross.on_language_model, hooks) if outside else hooks.on_language_model
    end: Any = partial(cross.on_output, hooks) if outside else hooks.on_output
    found["language model"] = partial(_before, decoder, begin)
    found["output"] = partial(decoder.register_forward_hook, end, with_kwargs=True)
    if within:
        found["behind the decoder"] = partial(decoder.register_forward_hook, hooks.on_end)
    for index, layer in enumerate(layers):
        found["layer", index] = partial(_before, layer, partial(hooks.on_layer, index))
        plans = [plan, *plan.apart]
        if any(one.text_lane or ("layer", index) in one.at_states or index in one.at_rows for one in plans):
            # Before the hooks by which transformers records hidden states.
            after = partial(layer.register_forward_hook, prepend=True)
            found["after layer", index] = partial(after, partial(hooks.after_layer, index))
        if any(("mlp", index) in one.at_states for one in plans):
            found["after mlp", index] = partial(mlp_of(layer).register_forward_hook, partial(hooks.after_mlp, index))
        if any(index in one.observed_neurons for one in plans):
            neurons = layer.mlp.down_proj.register_forward_pre_hook
            found["neurons", index] = partial(neurons, partial(hooks.before_neurons, index))
        if any(index in one.at_rows for one in plans):
            for name in ROW_WISE:
                if row_wise(layer, name) is not None:
                    found["rows", index, name] = partial(RowWise, hooks, index, layer, name)
        for signal in (signal for one in plans for signal in one.changes.get(index, ())):
            part: Any = layer.self_attn if signal.part == "attention" else mlp_of(layer)
            look = partial(hooks.after_part, signal)
            found["change", signal] = partial(part.register_forward_hook, look, with_kwargs=True)
    found["tower"] = partial(cross.CrossTower, hooks) if outside else partial(TowerWatch, adapter, hooks)
    for number, tower in enumerate(dict.fromkeys(adapter.towers.values())):
        for block in plan.tapped_blocks(adapter):
            found["tower tap", number, block] = partial(TowerTap, adapter, tower, block)
        for block in plan.state_blocks:
            look = partial(on_block, adapter, tower, block)
            found["tower states", number, block] = partial(tower.blocks[block].register_forward_hook, look)
        for block in plan.at_encode if tower.merges else ():
            found["encode", number, block] = partial(Encode, adapter, tower, block)
        if plan.at_pixels is not None and tower.embeddings is not None:
            found["pixels", number] = partial(AtTower, adapter, tower)
    changed = plan.at_encode or plan.at_pixels is not None
    projectors = {tower.projector: None for tower in adapter.towers.values() if changed and tower.expands}
    for number, projector in enumerate(projectors):
        found["projector", number] = partial(projector.register_forward_hook, partial(after_projector, adapter))
    pushed = {tower.projector: None for tower in adapter.towers.values() if plan.sensitivities}
    for number, projector in enumerate(pushed):
        found["pushed projector", number] = partial(projector.register_forward_hook, partial(on_projector, adapter))
    attending = [index for (index, _), spec in zip(enumerate(layers), adapter.specs, strict=False) if spec.attends]
    drops = plan.at_prompt or plan.at_layer
    scaled = [index for index, spec in enumerate(adapter.specs) if spec.tempered is not None and drops]
    return found | taps(hooks, sorted({*plan.tapped_layers(attending), *scaled}))


def taps(hooks: Hooks, indices: Iterable[int]) -> Parts:
    """The taps on the attention of some decoder layers, by the same names."""
    layers: Any = hooks.adapter.layers
    home = hooks.adapter.multimodal
    return {
        ("tap", index): partial(Tap, layers[index].self_attn, partial(hooks.on_attention, index), home)
        for index in indices
    }


def where(adapter: Adapter, key: Hashable) -> tuple[Any, ...]:
    """The modules on which a part stands, as they are now, if it goes to those that take their place; else none."""
    kind, *at = (key,) if isinstance(key, str) else cast(tuple[Any, ...], key)
    towers = list(dict.fromkeys(adapter.towers.values()))
    if kind == "tower" and adapter.anatomy.cross is not None:
        return (adapter.tower.module,)
    if kind in ("projector", "pushed projector"):
        some = [tower.projector for tower in towers if tower.expands or kind == "pushed projector"]
        return (list(dict.fromkeys(some))[at[0]],)
    if kind == "pixels":
        return towers[at[0]].module, towers[at[0]].embeddings
    if kind in ("encode", "tower tap", "tower states"):
        number, block = at
        tower = towers[number]
        return tuple(tower.merge_point(block)) if kind == "encode" else (tower.blocks[block], tower.attentions[block])
    if kind == "change":
        layer, part = adapter.layers[at[0].layer], at[0].part
        return (layer.self_attn if part == "attention" else mlp_of(layer),)
    if kind == "after mlp":
        return (mlp_of(adapter.layers[at[0]]),)
    if kind == "neurons":
        return (adapter.layers[at[0]].mlp.down_proj,)
    return (row_wise(adapter.layers[at[0]], at[1]),) if kind == "rows" else ()


def _before(module: nn.Module, hook: Any) -> Part:
    return module.register_forward_pre_hook(hook, with_kwargs=True)


class RowWise:
    """Hooks on a part of a decoder layer that works row by row: it is handed the rows that the layer computes."""

    def __init__(self, hooks: Hooks, index: int, layer: Any, name: str) -> None:
        module = row_wise(layer, name)
        if module is None:
            raise RuntimeError(f"decoder layer {index} has no {name} any more")
        # First to see what leaves it, so that other hooks see all rows.
        self._handles = (
            module.register_forward_pre_hook(partial(hooks.before_rows, index, name)),
            module.register_forward_hook(partial(hooks.after_rows, index, name), prepend=True),
        )

    def remove(self) -> None:
        """Leave no trace."""
        for handle in self._handles:
            handle.remove()


class Head(Follower):
    """Hooks on the output layer, whichever that is: around whatever others there are, so that they see both halves."""

    def __init__(self, hooks: Hooks, module: Any) -> None:
        self._hooks = hooks
        self._put(module)

    def follow(self, module: Any) -> None:
        """Go to the layer that took the place of the first, and around hooks that came later."""
        if not self._is_on(module):
            super().follow(module)

    def _is_on(self, module: Any) -> bool:
        before, after = self._handles
        first, last = next(iter(module._forward_pre_hooks), None), next(reversed(module._forward_hooks), None)
        return module is self._module and first == before.id and last == after.id

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _put(self, module: Any) -> None:
        self._module = module
        self._handles = (
            module.register_forward_pre_hook(self._hooks.before_head, prepend=True),
            module.register_forward_hook(self._hooks.after_head),
        )
