"""What the library knows about a model family: where its parts are and how its layout is read."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vtokens.adapters.anatomy import Deepstack, LayerSpec, layer_specs
from vtokens.core.costs import Encoding
from vtokens.core.facts import Facts
from vtokens.core.picture import Picture
from vtokens.core.weights import named, whole, whole_shape


class MergePoint(NamedTuple):
    """A tower block that computes y = x + attention and y + mlp(norm(y)): tokens can be merged at y.

    `norm` is called with y alone, `mlp` with what that returns.
    """

    block: nn.Module
    norm: nn.Module
    mlp: nn.Module


class Adapter(ABC):
    """One model family. Subclasses fill in the properties below; none of them knows any strategy.

    Attributes:
        model: the model as the user holds it.
        multimodal: the module whose forward takes pixels and token ids and calls the language model.
        examples: hub ids of well-known checkpoints.
        saliency: where the tower's scores come from, in two words for tables.
        side_inputs: keyword arguments of the decoder, beside those of all decoders, that are right as they are for any
            part of a sequence: second sequences get them too. Any other that holds tensors is refused.
        deepstack: features that the decoder adds behind its first layers; None if it adds none.
    """

    model_type: ClassVar[str]
    examples: ClassVar[tuple[str, ...]] = ()
    saliency: ClassVar[str] = "mean attention"
    side_inputs: ClassVar[frozenset[str]] = frozenset()
    deepstack: ClassVar[Deepstack | None] = None

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # Asked of the class: wrappers hand on the attributes of what they wrap, and are not it.
        parts = (m for m in model.modules() if hasattr(m, "language_model") and hasattr(type(m), "get_image_features"))
        self.multimodal: Any = next((m for m in parts if not hasattr(m, "lm_head")), None)
        if self.multimodal is None:
            raise ValueError(
                f"{type(model).__name__} has no language model inside: pass the ...ForConditionalGeneration"
            )
        self.config: Any = self.multimodal.config

    @property
    def language_model(self) -> Any:
        """The decoder: embeddings in, hidden states out."""
        return self.multimodal.language_model

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder layers, in order; each has `self_attn`."""
        return self.language_model.layers

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """What each decoder layer is; read anew at each call, since a config may be changed."""
        return layer_specs(self.language_model.config, len(self.layers))

    @property
    @abstractmethod
    def tower(self) -> Any:
        """The vision tower; its config names its type."""

    @property
    @abstractmethod
    def tower_attentions(self) -> Sequence[Any]:
        """The attention modules of the vision tower's blocks, in order."""

    @property
    @abstractmethod
    def has_cls(self) -> bool:
        """Whether the tower puts a class token at position 0."""

    @property
    @abstractmethod
    def feature_block(self) -> int:
        """The tower block (0-based) whose output becomes the features."""

    @property
    def merge_points(self) -> Sequence[MergePoint]:
        """Where tokens can be merged inside the tower, a point a block; none if only the finished features can be."""
        return ()

    @property
    def projector(self) -> nn.Module:
        """What turns the rows of the feature block (B, N, C) into features (B, N, D), row by row."""
        raise NotImplementedError

    def check_merging(self, inputs: Mapping[str, Any]) -> None:  # noqa: B027 (nothing to refuse, unless overridden)
        """Raise `ValueError` if tokens cannot be merged in a feature call with these arguments."""

    @property
    def placeholder_ids(self) -> dict[str, int]:
        """modality -> the token id the model scatters its features into, images first."""
        ids = {
            "image": getattr(self.config, "image_token_id", None),
            "video": getattr(self.config, "video_token_id", None),
        }
        return {modality: token for modality, token in ids.items() if token is not None}

    @abstractmethod
    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        """The images or videos of a call, in the order of their features.

        Args:
            modality: "image" or "video".
            inputs: the arguments of `multimodal.get_image_features` or `get_video_features`.
        """

    @abstractmethod
    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Bring tower scores into the order of the features.

        Args:
            modality: "image" or "video".
            scores: float32 (patches of all pictures,), without class tokens, in the order the tower worked.
            inputs: as in `pictures`.

        Returns:
            float32 (sum of the pictures' lengths,); 0 where a position holds no feature.
        """

    @abstractmethod
    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        """The shapes that tower and projector work on for the pictures of a call; arguments as in `pictures`."""

    @property
    def facts(self) -> Facts:
        """What strategies may know."""
        config, tower = self.language_model.config, self.tower.config
        depth = len(self.tower_attentions)
        # A tower that resizes nothing has no image size of its own.
        size = getattr(tower, "image_size", None)
        return Facts(
            self.model_type,
            len(self.layers),
            depth,
            self.has_cls,
            f"{config.model_type}-{len(self.layers)}x{config.hidden_size}x{config.intermediate_size}",
            f"{tower.model_type}-{depth}x{tower.hidden_size}-{tower.patch_size}" + (f"-{size}" if size else ""),
            self.feature_block + 1 if self.merge_points else None,
            partial(_sample, self.tower),
            config.hidden_size,
        )

    def change_pixels(
        self, modality: str, inputs: Mapping[str, Any], change: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """The arguments of a feature call with other pixels.

        Args:
            modality, inputs: as in `pictures`.
            change: from pixels (..., C, H, W), or (patches, values) of one picture, to others of that shape.
        """
        name = "pixel_values_videos" if modality == "video" else "pixel_values"
        more = {key: value for key, value in inputs.items() if key not in ("kwargs", "return_dict", name)}
        return {**more, **inputs.get("kwargs", {}), name: self._changed(modality, inputs, name, change)}

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return change(inputs[name])

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        """int64 (B, N) or (C, B, N): rotary positions of a prompt that no cache precedes.

        Args:
            given: `input_ids` and `attention_mask`, (B, N) each, and what else the processor made of the prompt.
            features: the arguments of the feature calls for its pictures.
        """
        return (given["attention_mask"].long().cumsum(1) - 1).clamp(min=0)

    def packing_positions(self, positions: Tensor) -> Tensor | None:
        """(B, N): of the decoder's `position_ids`, those that tell it that rows are packed; None if none of them do."""
        return positions if positions.dim() == 2 else None

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (B, W, D_head), at int64 positions: (B, W) of text, or (C, B, W) as the model has them."""
        return self.language_model.rotary_emb(hidden, positions if positions.dim() == 2 else positions[0])

    def placeholders(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """modality -> bool (B, N), the positions that the model scatters its features into.

        Read from `input_ids`; from `inputs_embeds` (the embedding of the placeholder token) where there are none,
        as the models themselves do.
        """
        ids: Any = inputs.get("input_ids")
        embeds: Any = inputs.get("inputs_embeds")
        if ids is not None:
            return {modality: ids == token for modality, token in self.placeholder_ids.items()}
        table = self.multimodal.get_input_embeddings()
        out = {}
        for modality, token in self.placeholder_ids.items():
            vector = table(torch.full((), token, dtype=torch.long, device=embeds.device))
            out[modality] = (embeds == vector).all(-1)
        return out


def _sample(tower: nn.Module) -> tuple[float, ...]:
    """Sixteen numbers from the tower's first matrix, which tell towers of one shape apart; none if it is unreadable."""
    first = next(((name, p) for name, p in named(tower) if len(whole_shape(p)) > 1), None)
    weight = None if first is None else whole(tower, *first)
    if weight is None:
        return ()
    return tuple(weight.flatten()[:: max(1, weight.numel() // 16)][:16].float().tolist())


def __getattr__(name: str) -> Any:
    """`register_adapter`, where adapters of before import it from."""
    if name == "register_adapter":
        return getattr(importlib.import_module("vtokens.adapters.registry"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
