"""GLM-4.5V: the tower and the layout of GLM-4.1V, and a decoder of its own."""

from __future__ import annotations

from vtokens.adapters.glm4v import Glm4v
from vtokens.adapters.registry import register_adapter


@register_adapter("glm4v_moe")
class Glm4vMoe(Glm4v):
    """GLM-4.5V. Laid out as GLM-4.1V is."""

    examples = ("zai-org/GLM-4.5V", "zai-org/GLM-4.6V")
