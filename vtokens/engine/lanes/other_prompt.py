"""A negative prompt that the caller gave apart (`Prompt`), about the same pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.core.prompts import POSITION_KINDS
from vtokens.engine.lanes.fed import Fed, Start
from vtokens.engine.state.aside import any_of, aside_places
from vtokens.engine.state.both_ways import BothWays, stretches
from vtokens.engine.state.per_layer import of_ids
from vtokens.engine.state.tiles import joined


def with_prompt(start: Start, given: Mapping[str, Any]) -> Fed:
    """Another prompt about the same pictures, and the tokens of the answer that came with the real one.

    Args:
        start: what the pass was fed.
        given: `input_ids` (B', N') and what else the processor made of it; each row serves for as many of the batch.

    Raises:
        ValueError: rows or pictures do not match.
    """
    adapter, embeds, asked, runs = start.lane.adapter, start.embeds, start.lane.asked, start.pictures.runs
    ids = given["input_ids"].to(embeds.device)
    if len(embeds) % len(ids):
        raise ValueError(f"the negative prompt has {len(ids)} rows, the batch {len(embeds)}: one for each is needed")
    repeats, mask = len(embeds) // len(ids), given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask.to(embeds.device)
    if not mask[:, -1].all():
        raise ValueError("the negative prompt is padded on the right, where the answer follows: pad on the left")
    positions = adapter.prompt_positions(
        {**given, "input_ids": ids, "attention_mask": mask}, [run.inputs for run in runs]
    )
    ids, mask = ids.repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)
    positions = positions.repeat_interleave(repeats, positions.dim() - 2)
    width = ids.shape[1]
    hidden = _with_indicators(start, ids, adapter.multimodal.get_input_embeddings()(ids).to(embeds))
    kinds = {name: given[name].repeat_interleave(repeats, 0) for name in POSITION_KINDS if given.get(name) is not None}
    fed = {"input_ids": ids, **kinds}
    here, there = adapter.placeholders(fed), adapter.placeholders(start.request.inputs)
    runs, there = joined(adapter, runs, here, fed), there | aside_places(adapter, start.request.inputs)
    # A prompt without what is left alone is another prompt about the same pictures all the same.
    others = {modality: places for modality, places in aside_places(adapter, fed).items() if places.any()}
    per_layer = (
        None if start.per_layer is None else of_ids(adapter, ids, torch.stack([*(here | others).values()]).any(0))
    )
    if asked > 1:  # the answer, or candidates of speculative decoding, come after both prompts
        last = positions.amax(-1, keepdim=True)
        last = last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last
        positions = torch.cat([positions, last + torch.arange(1, asked, device=ids.device)], -1)
        hidden = torch.cat([hidden, embeds[:, 1 - asked :]], 1)
        if per_layer is not None and start.per_layer is not None:
            per_layer = torch.cat([per_layer, start.per_layer[:, 1 - asked :]], 1)
        here, others = (
            {modality: torch.nn.functional.pad(places, (0, asked - 1)) for modality, places in masks.items()}
            for masks in (here, others)
        )
        mask = torch.cat([mask, start.pictures.layout.valid[:, 1 - asked :].to(mask)], 1)
    for modality, places in (here | others).items():
        if not torch.equal(places.sum(1), there[modality].to(places.device).sum(1)):
            raise ValueError(
                f"the negative prompt's rows hold {places.sum(1).tolist()} {modality} placeholder positions, those of "
                f"the prompt {there[modality].sum(1).tolist()}: both must be about the same pictures, in one order"
            )
        hidden = hidden.masked_scatter(places[..., None], embeds[there[modality].to(embeds.device)])
    injection = start.pictures.injection
    if injection is not None:
        injection = injection.moved(here, there)
    layout = Layout.build(here, {run.modality: run.pictures for run in runs}, mask.bool(), any_of(others))
    valid = mask.bool() if layout.padded else None
    behind = torch.arange(embeds.shape[1], device=ids.device) - start.pictures.ends.to(ids.device)
    column = torch.where(behind >= 0, (behind + width - 1).clamp(max=hidden.shape[1] - 1), -1)
    return Fed(
        hidden,
        valid,
        positions,
        column,
        layout,
        runs,
        True,
        injection,
        _both_ways(start, given, repeats, hidden.shape[1]),
        per_layer,
        torch.nn.functional.pad(ids, (0, hidden.shape[1] - width)),
    )


def _with_indicators(start: Start, ids: Tensor, hidden: Tensor) -> Tensor:
    """Embeddings (B, N', D) of the ids of another prompt, with indicators embedded as they were in the real one.

    Raises:
        ValueError: the real prompt has not all of them, so that nobody knows how they are embedded.
    """
    adapter = start.lane.adapter
    if adapter.anatomy.indicators is None:
        return hidden
    said = start.request.inputs.get("input_ids")
    for token in getattr(adapter.config, adapter.anatomy.indicators):
        places = ids == token
        if not places.any():
            continue
        found = start.embeds[:0] if said is None else start.embeds[(said == token).to(start.embeds.device)]
        if not len(found):
            raise ValueError(
                f"the negative prompt holds the token {token}, which is embedded otherwise beside pictures, and the "
                "prompt does not: both must frame their pictures alike"
            )
        hidden = torch.where(places[..., None], found[0], hidden)
    return hidden


def _both_ways(start: Start, given: Mapping[str, Any], repeats: int, length: int) -> BothWays | None:
    """What sees itself both ways in another prompt, whose rows are repeated and followed by an answer.

    Raises:
        ValueError: the kinds of its positions are missing, though the prompt had them.
    """
    visibility = start.lane.adapter.anatomy.visibility
    if visibility is None or start.lane.both_ways is None:
        return None
    if given.get(visibility.kinds) is None:
        raise ValueError(
            f"the negative prompt has no {visibility.kinds}, by which the prompt's pictures see themselves both ways: "
            "give it as the processor makes it"
        )
    kinds = given[visibility.kinds].to(start.embeds.device).repeat_interleave(repeats, 0)
    return stretches(start.lane.adapter, {visibility.kinds: kinds}, 0, length, made=False)
