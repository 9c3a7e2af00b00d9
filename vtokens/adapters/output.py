"""What a model makes of the numbers that its output layer puts out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.base import Adapter
from vtokens.adapters.decoder import inside
from vtokens.adapters.tower import follow

_REPEATED = "pooler_output"


def finished(adapter: Adapter, made: Tensor) -> Tensor:
    """The logits that the model gives where its output layer made these numbers, both (..., V).

    Some cap them, c tanh(x / c) (PaliGemma 2, Gemma 4), or scale them down (Granite).
    """
    kind: Any = type(inside(adapter.model))
    names, config = _read(kind), adapter.language_model.config
    scale = getattr(config, "logits_scaling", None) if "logits_scaling" in names else None
    cap = getattr(config, "final_logit_softcapping", None) if "final_logit_softcapping" in names else None
    if scale is not None:
        made = made / scale
    return made if cap is None else torch.tanh(made / cap) * cap


def makes_logits(adapter: Adapter) -> bool:
    """Whether the model makes logits: a multimodal module by itself does not, unless it is all there is."""
    return adapter.model is not adapter.multimodal or adapter.model.get_output_embeddings() is not None


def features_of(adapter: Adapter, output: Any) -> Sequence[Tensor] | Tensor:
    """The features of a feature call as the decoder gets them: (pictures, tokens, D), or one part a picture."""
    found = getattr(output, adapter.anatomy.features)
    if adapter.anatomy.projects is None:
        return found
    project = follow(adapter.multimodal, adapter.anatomy.projects)
    return project(found) if isinstance(found, Tensor) else [project(part) for part in found]


def name_for_copies(adapter: Adapter, output: Any) -> None:
    """Call features by the one name by which `generate` repeats them for beams, where a family calls them otherwise.

    Without it transformers fails there (5.23), as there are features for one beam of each row.
    """
    if adapter.anatomy.features != _REPEATED:
        setattr(output, _REPEATED, getattr(output, adapter.anatomy.features))


def copies_by_name(adapter: Adapter, output: Any) -> None:
    """Let a model find the features of all beams, where it looks for them by another name than `generate`'s."""
    if adapter.anatomy.features != _REPEATED and getattr(output, _REPEATED, None) is not None:
        setattr(output, adapter.anatomy.features, getattr(output, _REPEATED))


@functools.cache
def _read(kind: Any) -> frozenset[str]:
    """The attributes, and the names given to `getattr`, that the `forward` of a class reads."""
    code = inspect.unwrap(kind.forward).__code__
    return frozenset({*code.co_names, *(one for one in code.co_consts if isinstance(one, str))})
