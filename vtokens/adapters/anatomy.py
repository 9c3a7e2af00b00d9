"""What a model family is made of, declared once: parts by name, towers, layers, inputs, visibility, stages.

What a family does not declare is refused when strategies are attached, with the reason: a layer of another kind, a
keyword argument of the decoder, a tower that is built otherwise, a stage that it has no place for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vtokens.adapters.layers import Kind
from vtokens.strategies.stages import STAGES

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""Modality -> the multimodal module's argument with its pixels."""


@dataclass(frozen=True)
class TowerSpec:
    """A vision tower: where its parts are, as attribute paths.

    Attributes:
        at: paths from the multimodal module to the tower; the first one that leads somewhere counts.
        blocks: path from the tower to the list of its blocks, or paths to several lists that follow each other; None
            if nothing inside it can be looked at, as its attention is its own, or convolutions are in its place.
        attention: path from a block to its attention, which calls the attention function of its `config`.
        saliency: where its scores come from, in two words for tables.
        class_token: path from the tower to what only one with a class token at position 0 has; None if none has one.
        layer: config field that says which hidden state becomes the features, counted as transformers counts them, so
            that -2 of a tower with 24 blocks is the output of block 22; None if it is the last block's.
        full: path from the tower to the numbers of the blocks that attend to a whole picture, where others attend in
            windows: features are scored in the last one of them. None if all blocks attend alike.
        merging: paths from a block to the norm and the MLP of y + mlp(norm(y)), between which and the attention tokens
            can be merged; None if blocks are built otherwise, so that only finished features can be.
        tiles: argument of the tower's call, (..., tiles), that says which tiles of each of its sequences are real,
            where every tile begins with a class token of its own, all of which score; None elsewhere.
        fewer: what it can be shown of a picture in place of all of it (`Needs.pixels`): the picture resized ("resize"),
            or some of its tokens at the places they had ("repeats"). Nothing where it, or what follows, takes pictures
            of one size alone, or joins patches of whole squares.
        embeddings: path from the tower to what turns pixels (B, C, H, W) into rows (B, N, C), where pictures are
            changed at the tower's own call, whose argument `interpolate_pos_encoding` fits positions to their size;
            None where they are changed in the arguments of the feature call (`OpenTower.shown`).
        projector: path from the multimodal module to what turns rows of the tower, its one argument, into features:
            (B, N, C) into (B, N, D), row by row, or (rows, C) into (tokens, D), each from rows that follow each other.
            None if there is no such place: then no tokens are merged in the tower, no picture is changed at its call,
            and nobody measures how features move with its rows.
        class_last: its class token stands behind the patches, not before them.
    """

    at: tuple[str, ...]
    blocks: str | tuple[str, ...] | None = None
    attention: str = ""
    saliency: str = "mean attention"
    class_token: str | None = None
    layer: str | None = None
    full: str | None = None
    merging: tuple[str, str] | None = None
    tiles: str | None = None
    fewer: frozenset[str] = frozenset()
    embeddings: str | None = None
    projector: str | None = None
    class_last: bool = False


@dataclass(frozen=True)
class Deepstack:
    """Features of earlier tower blocks that a decoder adds to its states at visual positions (arXiv:2406.04334).

    Entry i of a list is added behind decoder layer i. Where strategies act, the engine adds them in the decoder's
    place: cut to the tokens that are left, and to a second sequence too if that has the pictures.

    Attributes:
        name: the decoder's keyword argument with the list; each entry is (visual positions of the batch, D).
        at: its keyword argument with those positions, bool (B, N).
        features: where the output of a feature call has them: for each entry one (tokens, D) a picture.
    """

    name: str
    at: str
    features: str


@dataclass(frozen=True)
class Visibility:
    """Which positions see what comes after them, where the multimodal module makes the masks of the decoder.

    A position sees those before it and those of its own block. Blocks are stretches of some kinds; they count in the
    pass that feeds them. Of all that, a position sees what its layer's window reaches.

    Attributes:
        kinds: argument of the multimodal module with the kind of each position, (B, N) from the start of the sequence.
        kind: the kinds whose stretches are blocks.
        setting: the decoder's `use_bidirectional_attention` with which there are any; None if there always are.
        windows: only layers with a window see them, others what comes before alone.
        prefix: the one stretch of that kind, padding left out, is a whole prompt (prefix LM). It counts in the pass
            that begins a sequence, or in one that is itself given pixels, and no window cuts it. Other passes, and
            prompts without kinds, have masks that follow from padding and implementation; the latter are refused.
        text: the kind of text that is written behind a prompt.
        joined: all stretches of those kinds in a sequence are one block, whatever stands between them. Nobody but the
            model computes attention then, nor reads it for other rows than behind the last picture.
    """

    kinds: str
    kind: tuple[int, ...]
    setting: str | None = None
    windows: bool = False
    prefix: bool = False
    text: int = 0
    joined: bool = False


@dataclass(frozen=True)
class PerLayer:
    """Inputs that each decoder layer gets beside its states: an embedding of the token at each position (Gemma 3n, 4).

    A layer gets them as its second positional argument, (B, W, P) of the columns that it sees.

    Attributes:
        name: the decoder's keyword argument with what it makes of token ids, (B, N, layers, P); None where it has none.
        of_ids: its method that makes them of ids (B, N), visual ones replaced by padding.
        joined: its method that makes of embeddings (B, N, D), and of these, what layers get: layer i [:, :, i].
    """

    name: str
    of_ids: str
    joined: str


@dataclass(frozen=True)
class Cross:
    """Visual tokens that have no place in the sequence: the decoder's layers of kind "cross" attend to them.

    Such a family has no feature calls: its multimodal module calls the tower, and hands projected features to the
    decoder. `Adapter.placeholders` says of the tower's arguments which keys hold tokens of pictures.

    Attributes:
        states: the decoder's keyword argument with the features, of which (B, K, D) is a view: K keys a row.
        mask: its keyword argument that is added to the scores of the keys, (B, 1, N, K).
        others: its keyword arguments that concern positions of the sequence alone.
        layers: config field of the decoder with the numbers of the layers of kind "cross".
    """

    states: str
    mask: str
    others: frozenset[str]
    layers: str


@dataclass(frozen=True)
class Aside:
    """A modality that strategies leave alone.

    Its tokens are never dropped. Where strategies look at text, or act in rows of text, they are none; a prompt without
    its pictures keeps them. Transformers repeats its pieces one by one for beams (A, A, B, B), whose rows need them in
    turn: a pass with both is refused.

    Attributes:
        token: config field with the token id that its features are scattered into.
        begin: config field with the token id that begins each piece.
    """

    token: str
    begin: str


@dataclass(frozen=True)
class Anatomy:
    """A model family.

    Attributes:
        towers: modality ("image", "video") -> the tower of its feature call.
        placeholders: modality -> the config field with the token id that its features are scattered into.
        apart: whether what is fed as videos are frames, or clips that the tower pools over theirs, and nothing says
            which of them make a video: each is one of one frame, in which strategies for videos find nothing to drop.
        aside: modalities ("audio") that strategies leave alone.
        indicators: config field with the ids of text tokens that the multimodal module embeds otherwise where pictures
            come in; None if it embeds all text alike.
        added: whether features are added to the embeddings of the placeholders, rather than put in their place.
        features: the entry of a feature call's output with the features of its pictures.
        projects: path from the multimodal module to what projects them outside of that call; None if the call does.
        decoder: path from the multimodal module to the decoder, which has `layers`, `rotary_emb` and `config`.
        norm: the decoder's attribute with the norm behind its last layer.
        kinds: the kinds of layers that the family was shown to be right with.
        axes: rows of a rotary position: 1, or 3 for time, height and width.
        complex_angles: layers are given rotary angles as one tensor of complex numbers, (B, N, D_head / 2), rather than
            as cosines and sines.
        side_inputs: keyword arguments of the decoder, beside those of all decoders, that are right as they are for any
            part of a sequence: second sequences get them too.
        deepstack: features that the decoder adds behind its first layers; None if it adds none.
        visibility: what sees what comes after it; None if every position sees only those before it.
        per_layer: what each decoder layer gets beside its states; None if it gets none.
        cross: how the decoder attends to visual tokens outside the sequence; None if they stand in it.
        latent: whether attention may cache what all heads share in place of their keys and values (arXiv:2405.04434):
            no heads' keys can be dropped from that, and no second sequence stands beside it.
        stages: the stages that strategies may act in.
        calls: modality -> the multimodal module's feature call, where that is not `get_{modality}_features`. Several
            modalities may have the same one, which the pixels of images are given to first.
    """

    towers: Mapping[str, TowerSpec]
    placeholders: Mapping[str, str] = field(default_factory=lambda: {"image": "image_token_id"})
    apart: bool = False
    aside: Mapping[str, Aside] = field(default_factory=dict)
    indicators: str | None = None
    added: bool = False
    features: str = "pooler_output"
    projects: str | None = None
    decoder: str = "language_model"
    norm: str = "norm"
    kinds: frozenset[Kind] = frozenset(("full", "sliding"))
    axes: Literal[1, 3] = 1
    complex_angles: bool = False
    side_inputs: frozenset[str] = frozenset()
    deepstack: Deepstack | None = None
    visibility: Visibility | None = None
    per_layer: PerLayer | None = None
    cross: Cross | None = None
    latent: bool = False
    stages: frozenset[str] = frozenset(STAGES)
    calls: Mapping[str, str] = field(default_factory=dict)

    def call(self, modality: str) -> str:
        """The feature call of a modality."""
        return self.calls.get(modality, f"get_{modality}_features")

    @property
    def sees_frames(self) -> bool:
        """Whether the family is shown videos of several frames, which strategies for videos compare."""
        return "video" in self.towers and not self.apart

    def written_kind(self, name: str) -> int:
        """The kind, among the inputs that are called `name`, of text that is written behind a prompt."""
        return self.visibility.text if self.visibility is not None and self.visibility.kinds == name else 0

    @property
    def arguments(self) -> frozenset[str]:
        """The keyword arguments of the decoder that the family declares."""
        stack, layers, cross = self.deepstack, self.per_layer, self.cross
        return self.side_inputs.union(
            () if stack is None else (stack.name, stack.at),
            () if layers is None else (layers.name,),
            () if cross is None else (cross.states, cross.mask, *cross.others),
        )
