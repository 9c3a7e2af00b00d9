"""The negative prompt of a contrast, made from what the prompt was fed: without pictures, with others, or as it is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.adapters.output import features_of
from vtokens.core.layout import Layout
from vtokens.engine.lanes.chosen_tokens import with_tokens
from vtokens.engine.lanes.fed import Fed, Start, numbered
from vtokens.engine.lanes.other_prompt import with_prompt
from vtokens.engine.plan import Contrast
from vtokens.engine.state.injection import Injection
from vtokens.engine.state.tower_run import TowerRun, feature_index, run_in
from vtokens.strategies.views.logits import NoPicture, Pixels, Prompt, Tokens


def negative_of(start: Start, contrast: Contrast) -> Fed:
    """What the negative prompt of a contrast is fed, from a pass with pictures."""
    kind = contrast.negative
    if isinstance(kind, Prompt):
        return with_prompt(start, start.request.negative_prompt or {})
    layout, same = start.pictures.layout.to(start.embeds.device), unchanged(start)
    if isinstance(kind, NoPicture):
        return _text(same, layout)
    if isinstance(kind, Pixels):
        return _with_pixels(start.lane.adapter, same, layout, kind)
    return with_tokens(start, same, layout, kind, contrast.strategy) if isinstance(kind, Tokens) else same


def unchanged(start: Start) -> Fed:
    """What a pass with pictures was fed, as it was."""
    layout, both_ways = start.pictures.layout.to(start.embeds.device), start.lane.both_ways
    return Fed(
        start.embeds, start.lane.fed_now(), start.positions, None, layout, start.pictures.runs,
        injection=start.pictures.injection, both_ways=None if both_ways is None else replace(both_ways, made=False),
        per_layer=start.per_layer,
    )  # fmt: skip


def _text(same: Fed, layout: Layout) -> Fed:
    """The text by itself, numbered anew from where the pass begins."""
    columns, real = layout.outside_columns()
    return replace(numbered(same.of(columns, real), same, layout), layout=None, runs=(), injection=None)


def _with_pixels(adapter: Adapter, same: Fed, layout: Layout, kind: Pixels) -> Fed:
    """The prompt with the features of changed pixels; the tower runs again."""
    runs, features, deeper = list[TowerRun](), [], []
    for run in same.runs:
        if any(isinstance(value, Tensor) and value.is_meta for value in run.inputs.values()):
            raise ValueError("stored features hold no pixels, which this strategy changes: pass pixel_values")
        inputs = adapter.change_pixels(run.modality, run.inputs, kind.change)
        output = getattr(adapter.multimodal, adapter.anatomy.call(run.modality))(**inputs)
        features += [part.reshape(-1, part.shape[-1]) for part in features_of(adapter, output)]
        if adapter.anatomy.deepstack is not None:
            entries = getattr(output, adapter.anatomy.deepstack.features)
            deeper.append([torch.cat(list(entry)) for entry in entries])
        found = run_in(run.modality, output, True, adapter)
        runs += [] if found is None else [replace(found, joins=run.joins)]
    flat = torch.cat(features).to(same.embeds)
    inside = (layout.image >= 0)[..., None]
    index = feature_index(layout, runs)
    injection = None
    if same.injection is not None:
        entries = [torch.cat(parts) for parts in zip(*deeper, strict=True)]
        injection = Injection(entries, torch.where(layout.image >= 0, index, -1))
    shown = flat[index]
    if adapter.anatomy.added:
        token = torch.tensor(next(iter(adapter.placeholder_ids.values())), device=shown.device)
        shown = shown + adapter.multimodal.get_input_embeddings()(token)
    embeds = torch.where(inside, shown, same.embeds)
    return replace(same, embeds=embeds, runs=runs, injection=injection)
