"""vLLM's models with fewer features a picture: those that strategies keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vtokens.core.picture import Picture
from vtokens.integrations.behind_tower.chooser import Chooser, Chosen
from vtokens.integrations.behind_tower.grid_positions import Run, carried, expanded, moved, taken
from vtokens.integrations.vllm.choosers import KEY, Choosers, default_of, read
from vtokens.integrations.vllm.tower import Watch


class Pruned(nn.Module):
    """Part of a model, in front of vLLM's class. Where the server was started without us, it does nothing.

    Attributes:
        width: channels of a feature that enter the decoder first, others going along; 0 if all do.
    """

    width = 0

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        model, config = vllm_config.model_config, vllm_config.model_config.get_multimodal_config()
        default = default_of(config.mm_processor_kwargs)
        self._choosers: Choosers | None = None
        if default is None:
            return
        _check(vllm_config, config)
        self._choosers = self.choosers(model.hf_config, default)

    def choosers(self, config: Any, default: Any) -> Choosers:
        """What the model can be asked for."""
        return Choosers(config, default)

    def tower_blocks(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """The blocks of the vision tower, and the modules that compute their attention."""
        raise NotImplementedError

    def shown(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of transformers' feature call that say how large pictures are."""
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """The features of a batch of items, each cut to what its request asked for."""
        texts = kwargs.pop(KEY, None)
        if self._choosers is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if texts is None:
            return self.whole(super().embed_multimodal(**kwargs))  # type: ignore[misc]
        choosers = [self._choosers.of(read(text)) for text in texts]
        signals = frozenset[Any]().union(*(one.signals for one in choosers))
        if all(one.text == "none" for one in choosers):
            return self.whole(super().embed_multimodal(**kwargs))  # type: ignore[misc]
        adapter, inputs = self._choosers.adapter, self.shown(kwargs)
        watch = Watch(adapter, inputs, signals)
        with watch.on(*self.tower_blocks()):
            features = list(super().embed_multimodal(**kwargs))  # type: ignore[misc]
        pictures = adapter.pictures("image", inputs)
        if [len(one) for one in features] != [len(one) for one in pictures]:
            raise RuntimeError(
                f"vtokens: vLLM made {[len(one) for one in features]} features of {len(pictures)} pictures, where "
                f"{[len(one) for one in pictures]} were expected"
            )
        run = watch.run() if signals else None
        return self.chosen(_chosen(choosers, features, pictures, run, self.width), pictures)

    def whole(self, features: Any) -> Any:
        """The features of items with all their tokens."""
        return features

    def chosen(self, items: Sequence[Chosen], pictures: Sequence[Picture]) -> Any:
        """The features of pictures of which some tokens stay."""
        return tuple(one.features for one in items)


class PrunedGrid(Pruned):
    """The same, where positions are places in a grid: what stays keeps its own, and so does the text behind.

    Features bring what is to be added to their positions when they are embedded, and the pass that follows adds it
    (`grid_positions`).
    """

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._added: tuple[Tensor, Tensor] | None = None
        if self._choosers is not None:
            _check_passes(vllm_config)

    def whole(self, features: Any) -> Any:
        return tuple(carried(one) for one in features or ())

    def chosen(self, items: Sequence[Chosen], pictures: Sequence[Picture]) -> Any:
        found = []
        for one, picture in zip(items, pictures, strict=True):
            cells = torch.from_numpy(np.stack([picture.t, picture.y, picture.x], 1)).to(one.kept.device)[one.kept]
            found.append(carried(one.features, None if len(one.kept) == len(picture) else cells))
        return tuple(found)

    def get_mrope_input_positions(self, input_tokens: Any, mm_features: Any) -> tuple[Tensor, int]:
        """Positions (3, N) when a prompt is scheduled, and what to add to those behind it."""
        if self._choosers is None:
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        ordered = sorted(mm_features, key=lambda one: one.mm_position.offset)
        runs = [_run(one, self.config.vision_config.spatial_merge_size) for one in ordered]
        tokens, starts, where = expanded(list(input_tokens), runs)
        there = [
            dataclasses.replace(one, mm_position=dataclasses.replace(one.mm_position, offset=start))
            for one, start in zip(ordered, starts, strict=True)
        ]
        positions, _ = super().get_mrope_input_positions(tokens, there)  # type: ignore[misc]
        return positions[:, where], int(positions.max()) + 1 - len(input_tokens)

    def embed_input_ids(self, input_ids: Tensor, multimodal_embeddings: Any = None, **options: Any) -> Tensor:
        """States (n, D) of a batch of tokens, with features where they belong."""
        if self._choosers is not None:
            self._added = None
            if multimodal_embeddings:
                multimodal_embeddings, added = taken(multimodal_embeddings)
                self._added = added, options["is_multimodal"]
        return super().embed_input_ids(input_ids, multimodal_embeddings, **options)  # type: ignore[misc]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """One pass of the decoder."""
        if self._added is not None:
            moved(positions, *self._added)
            self._added = None
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)

    def get_encoder_cudagraph_config(self) -> Any:
        """No modality: graphs of the tower would go around what is cut behind it."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return config if self._choosers is None else dataclasses.replace(config, modalities=[])


def _chosen(
    choosers: Sequence[Chooser], features: Sequence[Tensor], pictures: Sequence[Picture], run: Any, width: int
) -> list[Chosen]:
    """What goes on of each picture; those that were asked for alike are chosen from together."""
    starts, total = [], 0
    for picture in pictures:
        starts.append(total)
        total += len(picture)
    found: dict[int, Chosen] = {}
    for chooser in dict.fromkeys(choosers):
        mine = [number for number, one in enumerate(choosers) if one is chooser]
        at = torch.cat([torch.arange(starts[number], starts[number] + len(pictures[number])) for number in mine])
        parts = chooser.choose([features[n] for n in mine], [pictures[n] for n in mine], run, width, at)
        found.update(zip(mine, parts, strict=True))
    return [found[number] for number in range(len(pictures))]


def _run(feature: Any, merge: int) -> Run:
    """The tokens of an item; those of a video are all there."""
    offset, kept = feature.mm_position.offset, feature.mm_position.length
    if feature.modality != "image":
        return Run(offset, kept, kept)
    return Run(offset, kept, int(feature.data["image_grid_thw"].data.prod()) // merge**2)


def _check(vllm_config: Any, config: Any) -> None:
    """Raise `ValueError` for settings of vLLM that go around what we do, or do the same."""
    if config.is_multimodal_pruning_enabled():
        raise ValueError(
            f"vtokens: video_pruning_rate={config.video_pruning_rate} has vLLM itself prune videos, and both carry "
            "positions beside features: leave one of them out"
        )
    if getattr(vllm_config.compilation_config, "compile_mm_encoder", False):
        raise ValueError("vtokens: compile_mm_encoder=True goes around what is read of the vision tower: leave it out")
    if getattr(vllm_config.lora_config, "enable_tower_connector_lora", False):
        raise ValueError(
            "vtokens: enable_tower_connector_lora=True counts tokens of the tower by those that are left: leave it out"
        )


def _check_passes(vllm_config: Any) -> None:
    """Raise `ValueError` for settings with which a pass would not see positions that were told with the features."""
    from vllm.config import CUDAGraphMode

    parallel, graphs = vllm_config.parallel_config, vllm_config.compilation_config.cudagraph_mode
    reasons = {
        "pipeline_parallel_size above 1 has other machines compute positions": parallel.pipeline_parallel_size > 1,
        "enable_dbo splits batches": getattr(parallel, "enable_dbo", False),
        "a speculative model reads features by itself": vllm_config.speculative_config is not None,
        "cudagraph_mode='FULL' replays prompts without the code that adds to positions, and 'FULL_AND_PIECEWISE' does "
        "not": graphs == CUDAGraphMode.FULL,
    }
    for reason, given in reasons.items():
        if given:
            raise ValueError(f"vtokens: positions in a grid are told with the features of a picture, and {reason}")
