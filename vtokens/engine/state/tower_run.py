"""One run of the vision tower: what it saw, how it attended and what was merged travels with the features."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vtokens.adapters import Adapter
from vtokens.adapters.anatomy import PIXELS
from vtokens.adapters.open_tower import OpenTower
from vtokens.core.layout import Layout
from vtokens.core.on_device import on_device
from vtokens.core.picture import Picture
from vtokens.engine.state.mark import Mark, unpack
from vtokens.engine.state.merging import Merging
from vtokens.strategies.signals import Saliency, Scored, Sensitivity

MODALITIES = tuple(PIXELS)
_MARK = "_vtokens_tower_run"
_PLAIN = (bool, int, float, str, type(None))
_MIXED = 1e-2
"""Squared distance of group numbers, two different ones being at least 1 apart, above which a feature is a blend."""


@dataclass(frozen=True)
class TowerRun:
    """One run of the vision tower, once it is over.

    Attributes:
        modality: "image" or "video".
        inputs: the arguments of the feature call.
        scores: tower block, and how its attention was read -> float32 score chunks, in the order the tower worked.
        merging: what was merged; None if nothing was.
        keys: tower block -> chunks (patches, H, d) of its keys, in that order.
        noted: what strategies that merge noted of each patch, by name, in that order.
        joins: how many tiles each picture has; nothing if each is a picture by itself.
        seen: the arguments that the tower worked on, where it was shown less; None if those of the call.
        states: tower block -> chunks (patches, C) of what leaves it, in that order.
        sensitivities: signal -> float32 score chunks of the projector's rows, in the order it worked.
    """

    adapter: Adapter
    modality: str
    inputs: Mapping[str, Any]
    scores: Mapping[Scored, Sequence[Tensor]]
    merging: Merging | None
    keys: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)
    joins: tuple[int, ...] = ()
    seen: Mapping[str, Any] | None = None
    noted: Mapping[str, Tensor] = field(default_factory=dict)
    sensitivities: Mapping[Sensitivity, Sequence[Tensor]] = field(default_factory=dict)
    states: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)

    @functools.cached_property
    def tiles(self) -> list[Picture]:
        """What it was given one by one, in the order of the features."""
        return self.adapter.pictures(self.modality, self.inputs)

    @functools.cached_property
    def pictures(self) -> list[Picture]:
        """What it was given, tiles of one image together, in the order of the features."""
        tiles = iter(self.tiles)
        return [Picture.joined([*itertools.islice(tiles, count)]) for count in self.joins] or self.tiles

    def of(self, modality: str) -> TowerRun:
        """The same run as one of `modality`: where images and videos share a feature call, its caller knows."""
        return self if self.modality == modality else replace(self, modality=modality)

    def content(self) -> dict[str, Any]:
        """The run as plain values and tensors on the CPU; of pixels the shape alone."""
        return {
            "family": self.adapter.model_type,
            "modality": self.modality,
            "inputs": _light(self.inputs),
            "seen": None if self.seen is None else _light(self.seen),
            "scores": _on_cpu(self.scores),
            "keys": _on_cpu(self.keys),
            "states": _on_cpu(self.states),
            "sensitivities": _on_cpu({astuple(one): parts for one, parts in self.sensitivities.items()}),
            "merging": None if self.merging is None else self.merging.content(),
            "noted": {name: part.cpu() for name, part in self.noted.items()},
        }

    def saliency(self, signal: Saliency) -> Tensor:
        """float32 (sum of picture lengths,): summed scores of the tower blocks that a signal names."""
        scored = signal.scored(len(self.adapter.tower.blocks), self.adapter.tower.feature_block)
        if not self.scores.keys() >= set(scored):
            raise self._unwatched("attention")
        found = [torch.cat(list(self.scores[one])) for one in scored]
        if len({len(part) for part in found}) > 1:  # the tower itself joins patches between its blocks
            return torch.stack([self._to_tokens(part) for part in found]).sum(0)
        return self._to_tokens(torch.stack(found).sum(0))

    def tower_keys(self, block: int | None) -> Tensor:
        """float32 (sum of picture lengths, H, d): keys of a tower block, None for the feature block."""
        return self._of_block(self.keys, block, "keys")

    def tower_states(self, block: int | None) -> Tensor:
        """float32 (sum of picture lengths, C): what leaves a tower block, None for the feature block."""
        return self._of_block(self.states, block, "states")

    def _of_block(self, found: Mapping[int, Sequence[Tensor]], block: int | None, what: str) -> Tensor:
        number = self.adapter.tower.feature_block if block is None else block % len(self.adapter.tower.blocks)
        if number not in found:
            raise self._unwatched(what)
        rows = torch.cat(list(found[number]))
        # Each channel goes the way of a score.
        moved = torch.vmap(self._to_tokens, in_dims=1, out_dims=1)(rows.flatten(1).float())
        return moved.unflatten(1, rows.shape[1:])

    def _to_tokens(self, scores: Tensor, projected: bool = False) -> Tensor:
        """Scores of patches, or of what the projector put out, in the order of the features."""
        adapter = self.adapter
        place = adapter.projected_to_tokens if projected and isinstance(adapter, OpenTower) else adapter.to_tokens
        if self.seen is None or self.merging is None:
            return place(self.modality, scores, self.inputs)
        tokens = place(self.modality, scores, self.seen)
        sizes = [len(picture) for picture in self.adapter.pictures(self.modality, self.seen)]
        whole = self.merging.expand(pad_sequence(list(tokens.split(sizes)), batch_first=True)[..., None])[..., 0]
        return torch.cat([part[: len(picture)] for part, picture in zip(whole, self.tiles, strict=True)])

    def encoded(self, name: str) -> Tensor:
        """float32 (sum of picture lengths,): what a strategy noted while it merged patches."""
        if name not in self.noted:
            raise self._unwatched(f"notes called {name!r}")
        return self._to_tokens(self.noted[name])

    def sensitivity(self, signal: Sensitivity) -> Tensor:
        """float32 (sum of picture lengths,): how far features move where the projector's input is pushed."""
        if signal not in self.sensitivities:
            raise self._unwatched(f"{signal}")
        return self._to_tokens(torch.cat(list(self.sensitivities[signal])), projected=True)

    def _unwatched(self, what: str) -> ValueError:
        return ValueError(
            f"these features were computed under another strategy, which did not ask for the tower's {what}: "
            f"call model.{self.adapter.anatomy.call(self.modality)}(...) again, or pass pixel_values"
        )

    @property
    def merged(self) -> bool:
        """Whether tokens may have been merged."""
        return self.merging is not None and self.merging.begun

    def copies(self) -> Tensor:
        """int64 (sum of picture lengths,): equal, above 0, where positions of a picture hold one merged feature.

        Newline and class tokens have 0. Where the model interpolates features (OneVision's videos and large pictures),
        a position belongs to a token if all patches that were blended into it do; otherwise it stands for itself.
        """
        if self.merging is None:
            return torch.arange(1, 1 + sum(map(len, self.pictures)))
        ids = self.merging.ids()
        if not self.adapter.tower.merges:
            return ids[self.merging.real]
        flat = ids.flatten().double()
        # Numbers and their squares go the features' way: a blend of different ones has a variance.
        mean, square = (self.adapter.to_tokens(self.modality, part, self.inputs) for part in (flat, flat * flat))
        own = torch.arange(1, len(mean) + 1, device=mean.device) + ids.numel() + len(ids)
        return torch.where(square - mean * mean > _MIXED, own, mean.round().long())


def feature_index(layout: Layout, runs: Sequence[TowerRun]) -> Tensor:
    """int64 (B, N): which feature stands at each position, among those of all runs of the tower; arbitrary for text."""
    lengths = [len(picture) for run in runs for picture in run.pictures]
    starts = torch.tensor([0, *lengths]).cumsum(0)[list(layout.source)]
    starts = on_device(starts, layout.image.device)
    return starts[layout.image.clamp(min=0)] + layout.cell.clamp(min=0)


def mark(output: Any, run: TowerRun) -> None:
    """Let a tower run travel with the output of a feature call."""
    if not isinstance(output, tuple):
        output[_MARK] = Mark.of(run)  # an entry, since accelerate copies entries, not attributes, between devices


def run_in(modality: str, output: Any, needed: bool, adapter: Adapter) -> TowerRun | None:
    """What the tower saw when it made `output`, in this process or before it was stored.

    Raises:
        ValueError: it was made while nothing was attached, or by another family, though what it saw is `needed`.
    """
    entry = getattr(output, _MARK, None)
    if isinstance(entry, Mark) and isinstance(entry.run, TowerRun):
        return entry.run.of(modality)
    if entry is not None:
        return _stored(entry, adapter).of(modality)
    if needed:
        raise ValueError(
            f"mm_encoder_outputs[{modality!r}] was computed before the strategy was attached, or cut by "
            f"prefill_chunk_size, so its layout is unknown: call model.{adapter.anatomy.call(modality)}(...) again, "
            "pass pixel_values, or leave prefill_chunk_size out"
        )
    return None


def _stored(entry: Tensor, adapter: Adapter) -> TowerRun:
    """What was written beside features that come from a file or another process."""
    content = unpack(entry)
    if content["family"] != adapter.model_type:
        raise ValueError(f"these features are of a {content['family']!r} model, and this one is {adapter.model_type!r}")
    merging = None if content["merging"] is None else Merging.of(content["merging"])
    # Features stored before attention could be read in other ways name the block alone.
    scores: dict[Scored, Sequence[Tensor]] = {}
    scores.update(
        {(key, "cls", "mean") if isinstance(key, int) else key: part for key, part in content["scores"].items()}
    )
    return TowerRun(
        adapter, content["modality"], content["inputs"], scores, merging, content.get("keys", {}),
        states=content.get("states", {}),
        seen=content.get("seen"), noted=content.get("noted", {}),
        sensitivities={Sensitivity(*key): parts for key, parts in content.get("sensitivities", {}).items()},
    )  # fmt: skip


def _on_cpu(chunks: Mapping[Any, Sequence[Tensor]]) -> dict[Any, list[Tensor]]:
    return {key: [part.cpu() for part in parts] for key, parts in chunks.items()}


def _light(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a feature call without their pixels, and without what is neither tensor nor plain."""
    light: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            value = value.detach()
            light[name] = value.to("meta") if name.startswith("pixel_values") else value.cpu()
        elif isinstance(value, Mapping):
            light[name] = _light(value)
        elif isinstance(value, _PLAIN):
            light[name] = value
        elif isinstance(value, list | tuple):
            light[name] = torch.as_tensor(value)
    return light
