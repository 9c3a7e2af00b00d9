"""GLM-4.6V: the tower and the layout of GLM-4.1V, and a decoder of its own."""

from __future__ import annotations

from vtokens.adapters.glm4v import Glm4v
from vtokens.adapters.registry import register_adapter


@register_adapter("glm46v")
class Glm46V(Glm4v):
    """GLM-4.6V. Laid out as GLM-4.1V is. The checkpoints of that name are of other types: `glm4v` and `glm4v_moe`."""

    examples = ()
