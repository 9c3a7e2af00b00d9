"""Mistral 3: Pixtral's tower, a merger that joins neighbouring patches, rows that end in break tokens."""

from __future__ import annotations

from vtokens.adapters.pixtral import Pixtral
from vtokens.adapters.registry import register_adapter


@register_adapter("mistral3")
class Mistral3(Pixtral):
    """Mistral 3 and Ministral 3. Scores of the patches that the merger joins are averaged."""

    examples = ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistralai/Ministral-3-8B-Instruct-2512")

    @property
    def factor(self) -> int:
        return int(self.config.spatial_merge_size)
