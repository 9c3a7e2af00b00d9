"""The reading half of a CLIP model, and the projections of both halves: for strategies that compare with CLIP's words.

A vision-language model holds the tower that sees alone. What reads, and what brings both into one space, is loaded
beside it when a strategy is attached (`text_model=`), and is held against that tower.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vtokens.core.errors import shorten
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.terminal import one_line
from vtokens.core.weights import sample
from vtokens.strategies.views.visuals import Visuals

_CLOSE = 0.02
"""How far weights of one tower may be apart, in shares of the largest: more than bfloat16 rounds."""
_loaded: WeakValueDictionary[tuple[str, str], TextTower] = WeakValueDictionary()
_lock = threading.Lock()


class TextTower(nn.Module):
    """What reads of a CLIP model, with the projections of both towers, in float32.

    Args:
        clip: a `CLIPModel`.
        tokenizer: CLIP's.
        words: that of the vision-language model, whose prompts are read.
    """

    def __init__(self, clip: Any, tokenizer: Any, words: Any) -> None:
        super().__init__()
        self.text, self.text_projection = clip.text_model, clip.text_projection
        self.norm, self.projection = clip.vision_model.post_layernorm, clip.visual_projection
        self.shape, self.sample = shape_of(clip.config.vision_config), sample(clip.vision_model)
        self.longest = clip.config.text_config.max_position_embeddings
        self.tokenizer, self.words = tokenizer, words

    def prompts(self, visuals: Visuals) -> list[str]:
        """The prompt of each sample from its first picture on, without special tokens; all of it if none follows.

        Reads token ids off the device, as nothing else tells words.
        """
        kept = zip(visuals.ids().tolist(), visuals.text().tolist(), strict=True)
        rows = [[one for one, said in zip(ids, text, strict=True) if said] for ids, text in kept]
        return [self.words.decode(row, skip_special_tokens=True).strip() for row in rows]

    @torch.no_grad()
    def read(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """float32 (B, P): for each text the mean of the unit vectors of its cuts, of as many tokens as CLIP reads.

        Cuts are of what the tokenizer makes of the whole text, its first and last token once, and the last is filled
        up with zeros, as in CDPruner's release.
        """
        self.to(device)
        once = list(dict.fromkeys(texts))
        rows, owners = list[list[int]](), list[int]()
        for number, text in enumerate(once):
            ids = self.tokenizer(text, truncation=False)["input_ids"]
            cuts = [ids[start : start + self.longest] for start in range(0, max(1, len(ids)), self.longest)]
            rows += cuts
            owners += [number] * len(cuts)
        lengths = on_device([len(row) for row in rows], device)
        ids = on_device([row + [0] * (self.longest - len(row)) for row in rows], device)
        real = torch.arange(self.longest, device=device) < lengths[:, None]
        with torch.autocast(device.type, enabled=False):
            pooled = self.text(input_ids=ids, attention_mask=real.long()).pooler_output
            unit = normalize(self.text_projection(pooled), dim=-1)
        owner = on_device(owners, device)
        total = unit.new_zeros(len(once), unit.shape[1]).index_add(0, owner, unit)
        cuts_of = [owners.count(number) for number in range(len(once))]
        mean = total / on_device(cuts_of, device)[:, None]
        return mean[on_device([once.index(text) for text in texts], device)]

    @torch.no_grad()
    def seen(self, states: Tensor) -> Tensor:
        """float32 (..., P), unit vectors: patches (..., C) as the vision tower leaves them, in the space of words."""
        self.to(states.device)
        with torch.autocast(states.device.type, enabled=False):
            return normalize(self.projection(self.norm(states.float())), dim=-1)


def shape_of(vision: Any) -> str:
    """What tells a CLIP's vision tower from others by its config, as `Facts.tower` does."""
    return f"clip_vision_model-{vision.num_hidden_layers}x{vision.hidden_size}-{vision.patch_size}-{vision.image_size}"


def text_tower(name: str, source: str, tokenizer: str | None, facts: Facts) -> TextTower:
    """The reading half of the CLIP model whose vision tower a model has, loaded once for all that hold it.

    Args:
        name: the strategy's, for messages.
        source: a folder or hub id of a CLIP model with its tokenizer.
        tokenizer: that of the tokenizer of the vision-language model; None is where that was loaded from.
        facts: of the vision-language model.

    Raises:
        ValueError: nothing is there, or no whole CLIP, or its tower is not that of the model; says which is.
    """
    what = f"{name}(text_model={shorten(source)})"
    kind = facts.tower.partition("-")[0]
    if kind != "clip_vision_model":
        raise ValueError(
            f"{what} projects patches of CLIP's vision tower into the space of its words, and the tower of this "
            f"{facts.family!r} model is a {kind!r}, of which no projection of patches is known: leave text_model out "
            "(relevance is then a stand-in), or use it on a model with CLIP's tower, as 'llava' and 'llava_next'"
        )
    words = facts.source if tokenizer is None else tokenizer
    if not words:
        raise ValueError(
            f"{what} reads the words of prompts, and it is not known where this model was loaded from, whose "
            "tokenizer tells them: name it, as tokenizer='llava-hf/llava-1.5-7b-hf' or a folder"
        )
    with _lock:
        found = _loaded.get((source, words)) or _load(what, source, words)
        _loaded[source, words] = found
    if found.shape != facts.tower:
        raise ValueError(
            f"{what} has the vision tower {found.shape!r}, and that of this model is {facts.tower!r} (blocks x width, "
            "patch, picture): the CLIP that the model was made of is needed, as 'openai/clip-vit-large-patch14-336' "
            "for LLaVA-1.5 and LLaVA-NeXT"
        )
    if found.sample and facts.tower_sample:
        ours, theirs = (torch.tensor(part) for part in (found.sample, facts.tower_sample))
        if (ours - theirs).abs().max() > _CLOSE * ours.abs().max():
            warnings.warn(
                f"{what}: weights of its vision tower are not those of this model's, which was trained further or made "
                "of another CLIP of this shape: relevance is what its projection makes of patches all the same",
                stacklevel=2,
            )
    return found


def _load(what: str, source: str, words: str) -> TextTower:
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    with _loading(f"{what}: there is no model (a folder with config.json, or a hub id that can be reached): "):
        config = AutoConfig.from_pretrained(source)
    if config.model_type != "clip":
        raise ValueError(
            f"{what} is a {config.model_type!r}, no whole CLIP with both towers and their projections: such as "
            "'openai/clip-vit-large-patch14-336' is needed"
        )
    with _loading(f"{what} cannot be loaded, weights and tokenizer: "):
        loaded: Any = CLIPModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        clip, about = loaded
        reads = AutoTokenizer.from_pretrained(source)
    if missing := sorted(about["missing_keys"]):
        raise ValueError(f"{what} lacks {len(missing)} of a CLIP's weights, such as {missing[0]!r}: get all its files")
    missing_words = (
        f"{what} reads the words of prompts, and {words!r} has no tokenizer that tells them: name the model's, as "
        "tokenizer='llava-hf/llava-1.5-7b-hf' or a folder ("
    )
    with _loading(missing_words, ")"):
        told = AutoTokenizer.from_pretrained(words)
    return TextTower(clip.eval().requires_grad_(False), reads, told)


@contextmanager
def _loading(says: str, end: str = "") -> Iterator[None]:
    """What transformers cannot load inside is a `ValueError` that says so, and then why, in one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(says + one_line(str(error), 300) + end) from error
