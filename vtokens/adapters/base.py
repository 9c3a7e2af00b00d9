"""A live model of a family: its parts, as the family declares them, and the layout of its features."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters.anatomy import PIXELS, Anatomy
from vtokens.adapters.layers import LayerSpec, layer_specs
from vtokens.adapters.tokens import holding
from vtokens.adapters.tower import Tower, follow
from vtokens.core.costs import Encoding
from vtokens.core.facts import Facts
from vtokens.core.moved import elsewhere
from vtokens.core.picture import Picture
from vtokens.core.weights import sample


class Adapter(ABC):
    """One model family. Subclasses declare its `anatomy` and fill in the methods; none of them knows any strategy.

    Attributes:
        anatomy: what the family is made of.
        examples: hub ids of well-known checkpoints.
        mixes_copies: whether transformers repeats the pictures of a sample one by one for beams (A, A, B, B), whose
            rows need them in turn (A, B, A, B): a pass with both is refused.
        model: the model as the user holds it.
        multimodal: the module whose forward takes pixels and token ids and calls the language model.
        config: its config.
    """

    model_type: ClassVar[str]
    anatomy: ClassVar[Anatomy]
    examples: ClassVar[tuple[str, ...]] = ()
    mixes_copies: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        calls = [self.anatomy.call(modality) for modality in self.anatomy.towers if self.anatomy.cross is None]
        # Asked of the class: wrappers hand on the attributes of what they wrap, and are not it.
        parts = (
            module
            for module in model.modules()
            if all(hasattr(type(module), call) for call in calls) and follow(module, self.anatomy.decoder) is not None
        )
        self.multimodal: Any = next((m for m in parts if not hasattr(m, "lm_head")), None)
        if self.multimodal is None:
            raise ValueError(
                f"{type(model).__name__} has no language model inside: pass the ...ForConditionalGeneration"
            )
        self.config: Any = self.multimodal.config

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapter:
        """The adapter of a copied model; of a part that is copied alone, one that no call asks for.

        Hooks go with a part, as peft copies an output layer that it saves: they are not to bring the whole model along.
        """
        new = memo[id(self)] = copy.copy(self)
        if id(self.model) in memo or id(self.multimodal) in memo:
            new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    @classmethod
    def of(cls, model: PreTrainedModel) -> Adapter:
        """The adapter of a model; a family whose checkpoints have towers of several kinds chooses one here."""
        return cls(model)

    @property
    def language_model(self) -> Any:
        """The decoder: embeddings in, hidden states out."""
        return follow(self.multimodal, self.anatomy.decoder)

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder layers, in order; those that attend (`specs`) have `self_attn`."""
        return self.language_model.layers

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """What each decoder layer is; read anew at each call, since a config may be changed."""
        config, cross = self.language_model.config, self.anatomy.cross
        return layer_specs(config, len(self.layers), () if cross is None else getattr(config, cross.layers))

    @property
    def tower(self) -> Tower:
        """The vision tower of images, which a family with several builds the others like (`decoder.check_decoder`)."""
        return next(iter(self.towers.values()))

    @property
    def towers(self) -> dict[str, Tower]:
        """Modality -> its vision tower; one and the same where a family has one for all."""
        made = {spec: Tower(spec, self.multimodal) for spec in self.anatomy.towers.values()}
        return {modality: made[spec] for modality, spec in self.anatomy.towers.items()}

    def check_merging(self, inputs: Mapping[str, Any]) -> None:  # noqa: B027 (nothing to refuse, unless overridden)
        """Raise `ValueError` if tokens cannot be merged in a feature call with these arguments."""

    @property
    def placeholder_ids(self) -> dict[str, int]:
        """modality -> the token id the model scatters its features into, images first."""
        return {modality: getattr(self.config, name) for modality, name in self.anatomy.placeholders.items()}

    @abstractmethod
    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        """The images or videos of a call, in the order of their features.

        Args:
            modality: "image" or "video".
            inputs: the arguments of the feature call (`Anatomy.call`).
        """

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
        """Where tiles of one image stand, in a family whose `pictures` are tiles.

        Args:
            placeholders: bool (B, N), the positions of their features.
            inputs: what the multimodal module is given.

        Returns:
            bool (B, N): tiles in one stretch of these positions are one picture, each of them a view of it. None if
            each of `pictures` is a picture by itself.
        """
        return None

    def packed(self, modality: str, inputs: Mapping[str, Any]) -> list[int] | None:
        """The lengths of the pictures, in patches, that the tower packs into one row, each of which attends to itself.

        Asked where the attention function is not told (`cu_seq_lens_q`). None if a row is one picture, or a tile of it.
        """
        return None

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
        config, tower = self.language_model.config, self.tower
        depth = len(tower.blocks)
        return Facts(
            self.model_type,
            len(self.layers),
            depth,
            tower.has_cls,
            f"{config.model_type}-{len(self.layers)}x{config.hidden_size}x{_inner(config)}",
            tower.name,
            tower.feature_block + 1 if tower.merges else None,
            partial(sample, tower.module),
            config.hidden_size,
            tuple(index for index, spec in enumerate(self.specs) if spec.kind == "linear"),
            _tied(self.model, self.language_model),
            str(getattr(self.model.config, "_name_or_path", "") or ""),
        )

    def change_pixels(
        self, modality: str, inputs: Mapping[str, Any], change: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """The arguments of a feature call, or of the whole module, with other pixels of one modality.

        Args:
            modality: as in `pictures`.
            inputs: as there, or those of the multimodal module, where pixels of both modalities may stand.
            change: from pixels (..., C, H, W), or (patches, values) of one picture, to others of that shape. A video
                is one picture: C counts the colours of all its frames.
        """
        # A feature call that both modalities share has one name for the pixels of either.
        name = PIXELS[modality] if PIXELS[modality] in inputs else PIXELS["image"]
        more = {key: value for key, value in inputs.items() if key not in ("kwargs", "return_dict", name)}
        return {**more, **inputs.get("kwargs", {}), name: self._changed(modality, inputs, name, change)}

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels = inputs[name]
        if modality != "video":
            return change(pixels)
        return change(pixels.flatten(-4, -3)).view_as(pixels)  # (..., frames, C, H, W)

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        """int64 (B, N) or (C, B, N): rotary positions of a prompt that no cache precedes.

        Args:
            given: `input_ids` and `attention_mask`, (B, N) each, and what else the processor made of the prompt.
            features: the arguments of the feature calls for its pictures.
        """
        return (given["attention_mask"].long().cumsum(1) - 1).clamp(min=0)

    def rotary(self, hidden: Tensor, positions: Tensor, rope: str | None = None) -> Any:
        """(cos, sin), each (B, W, D_head); where a family has them so, complex (B, W, D_head / 2).

        Args:
            hidden: states, for device and dtype.
            positions: int64 (B, W) of text, or (C, B, W) as the model has them.
            rope: the layer type whose angles they are (`LayerSpec.rope`); None if all layers turn alike.
        """
        if self.anatomy.axes == 3:  # text has the same position in time, height and width
            positions = positions[None].expand(3, -1, -1) if positions.dim() == 2 else positions
        elif positions.dim() == 3:
            positions = positions[0]
        embed = self.language_model.rotary_emb
        return embed(hidden, positions) if rope is None else embed(hidden, positions, rope)

    def placeholders(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """modality -> bool (B, N), the positions that the model scatters its features into.

        Read from `input_ids`; from `inputs_embeds` (the embedding of the placeholder token) where there are none,
        as the models themselves do.
        """
        return {name: holding(token, inputs, self.multimodal) for name, token in self.placeholder_ids.items()}


def _inner(config: Any) -> int:
    """Channels inside the MLP of a decoder layer; of an expert's, where there is no other."""
    found: int = getattr(config, "intermediate_size", None) or config.moe_intermediate_size
    return found


def _tied(model: Any, decoder: Any) -> bool:
    """Whether the output layer shares its weights with the embeddings of the decoder."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is decoder.get_input_embeddings().weight


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        """`register_adapter`, where adapters of before import it from."""
        return elsewhere(__name__, name)
