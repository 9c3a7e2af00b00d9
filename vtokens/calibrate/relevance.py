"""Where in a picture a word is: patches of the vision tower, by self-self attention, held against a text (GEM)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from vtokens.adapters import Adapter, adapter_for
from vtokens.adapters.output import features_of
from vtokens.calibrate.self_attention import KINDS, SelfSelfPath
from vtokens.core.errors import nearest, shorten
from vtokens.core.images import as_image
from vtokens.core.picture import Picture
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.engine.attach import without
from vtokens.strategies.stages import STAGES
from vtokens.strategies.text_tower import text_tower

TEMPLATE = "a photo of a {}."
"""What CLIP's text tower reads of a text, as in the release."""
_BLOCKS = 6
_COLDEST = 1e-9
"""The most alike is all there is below, and what cosines are multiplied by leaves float32."""


@dataclass(frozen=True)
class RelevanceMap:
    """How much each patch of a picture is like a text.

    Attributes:
        text: as it was given.
        picture: its views and grids.
        scores: float32 (n,), the cosine at each position of the picture (index `picture.view/t/y/x` with it); 0 at
            positions that hold no patch (newline and class tokens).
        stand_in: whether they were held against the decoder's embeddings of the words, not CLIP's of the text.
    """

    text: str
    picture: Picture
    scores: np.ndarray
    stand_in: bool

    def grid(self, view: int = -1) -> np.ndarray:
        """float32 (h, w): the scores of one view, where its patches lie; the last one is the most detailed."""
        view %= len(self.picture.grids)
        found = np.zeros(self.picture.grids[view], dtype=np.float32)
        here = self.picture.view == view
        found[self.picture.t[here], self.picture.y[here], self.picture.x[here]] = self.scores[here]
        return found[0]

    def peak(self, view: int = -1) -> tuple[int, int]:
        """Row and column of the patch of a view that is most like the text, the first of equals."""
        grid = self.grid(view)
        row, column = np.unravel_index(grid.argmax(), grid.shape)
        return int(row), int(column)


@torch.no_grad()
def relevance(
    model: PreTrainedModel, processor: Any, images: Any, texts: str | Sequence[str], *, text_model: str | None = None,
    depth: int | None = None, iterations: int = 1, temperature: float | None = None, template: str | None = None,
) -> list[list[RelevanceMap]]:  # fmt: skip
    """Find where in pictures texts are, without training (GEM, Bousselham et al., arXiv:2312.00878).

    Beside the last `depth` blocks of the tower a second path runs, by `self_self` attention and without MLPs. With
    `text_model` it ends behind the last block; CLIP's norm and projection bring its patches into the space of CLIP's
    texts. Without one, as no checkpoint of a vision-language model brings it along, a stand-in: the path ends where the
    model takes its features, the model's projector follows, and scores are the mean cosine with the decoder's
    embeddings of the text's tokens. Strategies attached to the model do not act.

    Args:
        model: of a family whose tower is CLIP's or SigLIP's.
        processor: the model's.
        images: a picture, or a sequence of them, each in any way that `vtokens.core.images.as_image` takes.
        texts: a word or a phrase, or several.
        text_model: a folder or hub id of the CLIP whose vision tower the model has, with its tokenizer, as
            "openai/clip-vit-large-patch14-336"; None for the stand-in.
        depth: blocks that the path runs beside; 0 are the tower's own patches. None are 6, as in the release, or half
            of the blocks where these are fewer than 12 (ours).
        iterations: as in `self_self`; 1 in the release.
        temperature: cosines are divided by it; None adapts it to each picture, as in the release.
        template: what CLIP reads, with {} for the text; None is "a photo of a {}.".

    Returns:
        For each picture a map a text.

    Raises:
        TypeError, ValueError: a setting, a tower of another kind, a text whose words the model does not know, a CLIP
            that is not the model's; says what is allowed.
        OSError: a picture that cannot be read.
    """
    adapter = adapter_for(model)
    texts = [texts] if isinstance(texts, str) else list(texts)
    pictures = [as_image(one) for one in (images if isinstance(images, list | tuple) else [images])]
    last = _last(adapter, text_model is None)
    depth = min(_BLOCKS, max(1, (last + 1) // 2)) if depth is None else depth
    _check(texts, last + 1, depth, iterations, temperature, template, text_model)
    read: Any = None
    if text_model is None:
        words = _words(adapter, processor, texts)
    else:
        read = text_tower("relevance", text_model, text_model, adapter.facts)
        device = next(adapter.tower.module.parameters()).device
        words = read.read([(template or TEMPLATE).replace("{}", text) for text in texts], device)
    prompt, found = question_prompt(processor, "What is this?"), list[list[RelevanceMap]]()
    for picture in pictures:
        given = dict(encode_prompts(processor, [prompt], [[picture]]).to(adapter.multimodal.device))
        call = getattr(adapter.multimodal, adapter.anatomy.call("image"))
        given = {name: given[name] for name in inspect.signature(call).parameters if name in given}
        path = SelfSelfPath(iterations, temperature, replaces=read is None)
        with without(model, STAGES), path.beside(adapter.tower, last, depth):
            output = call(**given)
        if read is None:
            features = output if isinstance(output, Tensor | list | tuple) else features_of(adapter, output)
            rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
            scores = (normalize(rows.float(), dim=-1) @ words.to(rows.device).T).T
        else:
            rows = torch.cat(path.found)[:, int(adapter.tower.has_cls) :].flatten(0, 1)
            cosines = (read.seen(rows) @ words.to(rows.device).T).T
            scores = torch.stack([adapter.to_tokens("image", one, given) for one in cosines])
        tiles = adapter.pictures("image", given)
        whole = tiles[0] if len(tiles) == 1 else Picture.joined(tiles)
        numbers = np.where(whole.view >= 0, scores.float().cpu().numpy(), np.float32(0))
        found.append(
            [RelevanceMap(*one, read is None) for one in zip(texts, [whole] * len(texts), numbers, strict=True)]
        )
    return found


def _last(adapter: Adapter, stand_in: bool) -> int:
    """The block that the path ends behind."""
    tower = adapter.tower
    kind = tower.module.config.model_type
    if kind not in KINDS:
        raise ValueError(
            f"self-self attention runs beside towers of {' and '.join(map(repr, KINDS))}, whose blocks attend to whole "
            f"pictures with separate projections of queries, keys and values; the tower of this {adapter.model_type!r} "
            f"model is a {kind!r}: use it on a model with CLIP's or SigLIP's, as 'llava', 'llava_next' or 'gemma3'"
        )
    if not stand_in:
        return len(tower.blocks) - 1
    layers = getattr(adapter.config, "vision_feature_layer", None)
    if isinstance(layers, list | tuple) and len(layers) > 1:
        raise ValueError(
            f"vision_feature_layer={layers} of this {adapter.model_type!r} model joins features of several tower "
            "blocks, and the path ends behind one: give text_model, the CLIP whose text tower reads the words"
        )
    return tower.feature_block


def _check(
    texts: list[str], blocks: int, depth: int, iterations: int, temperature: float | None, template: str | None,
    text_model: str | None,
) -> None:  # fmt: skip
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"texts={shorten(texts)} is not allowed: a word or a phrase is needed, or several")
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= blocks:
        raise ValueError(f"depth={depth!r} is out of range: 0 to {blocks} blocks are allowed, as the path ends there")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations={iterations!r} is out of range: a whole number from 0 on is allowed")
    if temperature is not None and not _COLDEST <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature!r} is out of range: a number from {_COLDEST} on, or None")
    if template is not None and text_model is None:
        raise ValueError(f"template={shorten(template)} is what text_model is to read: give that too, or neither")
    if template is not None and "{}" not in template:
        raise ValueError(f"template={shorten(template)} has no place for the text: such as {TEMPLATE!r} is needed")


def _words(adapter: Adapter, processor: Any, texts: Sequence[str]) -> Tensor:
    """float32 (texts, D): of each the mean of the unit embeddings of its tokens, so that a product is a mean cosine."""
    tokenizer, embeddings = getattr(processor, "tokenizer", processor), adapter.language_model.get_input_embeddings()
    means = []
    for text in texts:
        # Behind another word, as texts stand in prompts: many tokenizers write a space into what begins a word.
        lead, both = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in ("a", f"a {text.strip()}"))
        ids = both[len(lead) :] if both[: len(lead)] == lead and len(both) > len(lead) else both
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            alien = [one for one in text.split() if tokenizer.unk_token_id in tokenizer(one)["input_ids"]]
            near = nearest((alien or [text])[0], tokenizer.get_vocab())
            raise ValueError(f"this model's tokenizer knows no {shorten((alien or [text])[0])}.{near}")
        means.append(normalize(embeddings(torch.tensor(ids, device=embeddings.weight.device)).float(), dim=-1).mean(0))
    return torch.stack(means)
