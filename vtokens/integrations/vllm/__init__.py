"""The vLLM plugin: visual tokens are dropped between vision tower and decoder, by strategies of this package.

vLLM finds `register` by its entry-point group `vllm.general_plugins`, in every process it starts. Nothing else of this
package is imported there unless one of these models is served; without vLLM nothing is imported at all.
"""

from __future__ import annotations

MODELS = {
    "LlavaForConditionalGeneration": "llava:Llava",
    "Qwen2_5_VLForConditionalGeneration": "qwen:Qwen25VL",
    "Qwen3VLForConditionalGeneration": "qwen:Qwen3VL",
}
"""Architectures that vLLM is given classes of ours for, which do as its own do where nothing is asked of them."""


def register() -> None:
    """Tell vLLM of our classes, which it imports when such a model is loaded. Calling it again is no harm."""
    from vllm import ModelRegistry

    for architecture, place in MODELS.items():
        ModelRegistry.register_model(architecture, f"{__name__}.{place}")
