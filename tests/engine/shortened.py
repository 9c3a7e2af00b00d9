"""The oracle of layers that keep a state: a plain decoder run by hand, whose sequence gets shorter between layers.

Nothing of the engine takes part, and nothing is padded: one sample at a time, layer by layer, at original positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tests.engine.masked import decoder_of
from vtokens.core.compat import as_cache


class Shortened:
    """One sample of a plain model (SDPA), and what it has cached so far.

    Attributes:
        following: the rotary position of the next token.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._decoder = model, decoder_of(model)
        self._cache, self.following = DynamicCache(config=self._decoder.config), 0
        parameters = self._decoder.config.rope_parameters
        self._axes = (3,) if "mrope_section" in parameters else ()
        self._norm = self._decoder.norm if hasattr(self._decoder, "norm") else self._decoder.embedding_norm

    def prompt(self, batch: dict[str, Any], kept: Sequence[Sequence[int]]) -> Tensor:
        """(W, V), logits of what the last layer keeps of a first prompt; layer i sees the positions `kept[i]`."""
        met: dict[str, Any] = {}

        def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            met.update(kwargs)

        hook = self._decoder.register_forward_pre_hook(note, with_kwargs=True)
        self._model(**batch, use_cache=False)
        hook.remove()
        embeds, positions = met["inputs_embeds"], met["position_ids"]
        # Without pictures the decoder numbers by itself.
        text = torch.arange(embeds.shape[1]).expand(*self._axes, 1, -1)
        return self.feed(embeds, text if positions is None else positions[-3:], kept)

    def feed(self, hidden: Tensor, positions: Tensor, kept: Sequence[Sequence[int]] | None = None) -> Tensor:
        """(W, V), logits of (1, N, D) at rotary positions (3, 1, N), or (1, N) of text alone."""
        self.following = int(positions.max()) + 1
        angles = self._decoder.rotary_emb(hidden, positions)
        at = torch.arange(hidden.shape[1])
        for index, layer in enumerate(self._decoder.layers):
            if kept is not None:
                stay = torch.as_tensor(kept[index])
                hidden, at = hidden[:, torch.isin(at, stay)], stay
            mask, width = None, hidden.shape[1]
            if hasattr(layer, "self_attn"):
                past = self._cache.layers[index].get_seq_length()
                mask = torch.ones(1, 1, width, past + width, dtype=torch.bool).tril(past)
            hidden = layer(
                hidden,
                position_embeddings=tuple(part[:, at] for part in angles),
                attention_mask=mask,
                **as_cache(layer, self._cache),
            )
        found: Tensor = self._model.lm_head(self._norm(hidden))[0]
        return found

    def say(self, ids: Tensor) -> Tensor:
        """(T, V), logits of tokens (T,) that follow, fed one by one."""
        embed, found = self._model.get_input_embeddings(), []
        for token in ids:
            positions = torch.full((*self._axes, 1, 1), self.following)
            found.append(self.feed(embed(token[None, None]), positions)[0])
        return torch.stack(found)
