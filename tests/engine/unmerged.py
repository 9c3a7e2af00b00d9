"""The oracle of virtual unmerging: an untouched model at full length, whose merged tokens are equal copies throughout.

Nothing of the engine takes part in the decoder. Its input holds each merged feature at all of its positions; behind the
attention of every layer hooks replace the outputs of copies by their mean, so that they go on as copies. Keys are
cached for every position, rotated as ever. What was dropped besides is masked (`masked.masking`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import vtokens
from tests.engine.dense import layout
from tests.engine.masked import decoder_layers, dropped_keys, masking
from vtokens.adapters import adapter_for
from vtokens.core.compat import given_cache
from vtokens.strategies.merge.dymu import Dymu
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals


class MergeOnly(Dymu):
    """DyMU's tower without what it does before the decoder; never registered."""

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return None

    @property
    def unmerged(self) -> bool:
        return False


def before_and_with(target: Any, spec: str, batch: dict[str, Any]) -> tuple[vtokens.Report, vtokens.Report, Any]:
    """A plain call up to where DyMU selects, and a whole one: their reports, and the features made on the way."""
    strategies = vtokens.strategies.parse(spec)
    place = next(i for i, s in enumerate(strategies) if isinstance(s, Dymu))
    dymu = strategies[place]
    assert isinstance(dymu, Dymu)
    earlier = [*strategies[:place], MergeOnly(dymu.thresholds)]
    with torch.no_grad(), vtokens.attach(target, earlier) as handle:
        features = call_features(target, batch)
        target(**batch)
        before = handle.report()
    with torch.no_grad(), vtokens.attach(target, spec) as handle:
        target(**batch)
        return before, handle.report(), features


def call_features(target: Any, batch: dict[str, Any]) -> Any:
    """What the feature call makes of a batch of images, or of videos."""
    video = "pixel_values_videos" in batch
    names = ("pixel_values", "image_sizes", "image_grid_thw", "batch_num_images")
    names = ("pixel_values_videos", "video_grid_thw") if video else names
    given = {name: batch[name] for name in names if batch.get(name) is not None}
    call = target.model.get_video_features if video else target.model.get_image_features
    return call(**given, return_dict=True)


def copies(
    target: Any, batch: dict[str, Any], features: Any, before: vtokens.Report, patches: Tensor | None = None
) -> Tensor:
    """int64 (B, N): a number for each fed position, the same where positions hold one merged token; -1 outside.

    Read off the features: those of one picture that are equal. Positions that are gone before DyMU selects are outside.

    Args:
        target, batch, features, before: what was asked, and what came.
        patches: (P, D), the features before they were pooled; None where they are not. A feature that is none of them
            is a blend of several, and stands for itself, however many others are the same blend.
    """
    ids, valid = batch["input_ids"], batch["attention_mask"]
    placeholder = torch.stack([ids == t for t in adapter_for(target).placeholder_ids.values()]).any(0)
    visual, _ = layout(before, placeholder, valid)
    numbers = torch.full_like(ids, -1)
    values = torch.cat(list(features.pooler_output))
    owner = torch.cat([torch.full((len(part),), i) for i, part in enumerate(features.pooler_output)])
    rows, near = placeholder.nonzero(), 1e-5 * values.abs().max()
    for at in range(len(values)):
        row, place = rows[at].tolist()
        same = (values - values[at]).abs().amax(1) < near
        if patches is not None and (patches - values[at]).abs().amax(1).min() >= near:
            same = torch.arange(len(values)) == at
        first = int((same & (owner == owner[at]) & visual[placeholder]).float().argmax())
        seen = place in before.samples[row].positions[0]
        numbers[row, place] = first if visual[row, place] and seen else -1
    return numbers


def gone(report: vtokens.Report, numbers: Tensor, valid: Tensor) -> list[Tensor]:
    """For each decoder layer bool (B, N): fed positions of which not even a copy is left."""
    out = []
    for dropped in dropped_keys(report, valid):
        alive = ~dropped & (numbers >= 0)
        for row in range(len(numbers)):
            kept = set(numbers[row][alive[row]].tolist())
            back = torch.tensor([number in kept for number in numbers[row].tolist()])
            dropped[row] &= ~back
        out.append(dropped)
    return out


@contextmanager
def unmerged(
    model: Any, numbers: Tensor, dropped: Sequence[Tensor], features: Sequence[tuple[dict[str, Any], Any]]
) -> Iterator[Any]:
    """Let `model` run as the oracle.

    Args:
        model: an untouched one.
        numbers: int64 (B, N) of the positions it caches, as `copies` gives them.
        dropped: for each layer bool (B, N), keys that are masked.
        features: (batch, features) of each feature call to come.
    """
    with ExitStack() as stack:
        for name in ("image", "video"):
            if hasattr(model.model, f"get_{name}_features"):
                stack.enter_context(_features(model, f"get_{name}_features", features))
        for index, layer in enumerate(decoder_layers(model)):
            apart = numbers.masked_fill(dropped[index], -1)
            hook = layer.self_attn.register_forward_hook(partial(_mean, apart, index), with_kwargs=True)
            stack.callback(hook.remove)
        stack.enter_context(masking(model, dropped))
        yield model


@contextmanager
def _features(model: Any, name: str, given: Sequence[tuple[dict[str, Any], Any]]) -> Iterator[None]:
    genuine = getattr(model.model, name)
    key = "pixel_values_videos" if "video" in name else "pixel_values"

    def answer(*args: Any, **kwargs: Any) -> Any:
        output = genuine(*args, **kwargs)
        pixels = args[0] if args else kwargs[key]
        for batch, features in given:
            if key == "pixel_values" and batch.get("pixel_values_videos") is pixels:
                return output  # a video's call, which works with that of pictures
            if key in batch and torch.equal(batch[key], pixels):
                if "deepstack_features" in output:
                    output.deepstack_features = [_alike(entry, features) for entry in output.deepstack_features]
                output.pooler_output = features.pooler_output
                return output
        raise AssertionError("a feature call that was not announced")

    answer.__signature__ = inspect.signature(genuine)  # type: ignore[attr-defined]
    model.model.__dict__[name] = answer
    try:
        yield
    finally:
        del model.model.__dict__[name]


def _alike(entry: Sequence[Tensor], features: Any) -> list[Tensor]:
    """Deeper features, a picture each, that follow the finished ones.

    These are those of the tokens that stand for others, where `features` says which do (`stands`), else the average
    over the positions whose finished features are equal.
    """
    if hasattr(features, "stands"):
        return [deeper[stands] for deeper, stands in zip(entry, features.stands, strict=True)]
    found = []
    for deeper, finished in zip(entry, features.pooler_output, strict=True):
        same = (finished[:, None] - finished).abs().amax(-1) < 1e-5 * finished.abs().max()
        found.append(torch.stack([deeper[row].mean(0) for row in same]))
    return found


def _mean(numbers: Tensor, index: int, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    hidden, cache = output[0].clone(), given_cache(kwargs)
    past = 0 if cache is None else cache.get_seq_length(index) - hidden.shape[1]
    part = numbers[:, past : past + hidden.shape[1]]
    for row in range(part.shape[0]):
        for number in part[row][part[row] >= 0].unique().tolist():
            members = (part[row] == number).nonzero().flatten()
            hidden[row, members] = hidden[row, members].mean(0)
    return (hidden, *output[1:])
