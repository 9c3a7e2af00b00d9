"""The language model in a GGUF file as transformers names its tensors: dequantised, rotary halves put back in order.

GGUF stores the rows of query and key matrices so that the two numbers which a rotation mixes lie side by side;
transformers keeps the first halves of a head together, then the second halves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens.core.extras import needs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig

_TOP = {"token_embd": "embed_tokens", "output_norm": "norm"}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Language:
    """An open GGUF file of a Llama with tied embeddings.

    Args:
        path: the file; it is mapped, not read.

    Raises:
        MissingExtra: gguf is not installed.
        ValueError: the file holds no Llama, or one that this reader does not know.
    """

    def __init__(self, path: Path) -> None:
        with needs("smol", "scenes-smol"):
            import gguf
        self.path, self._gguf = path, gguf
        try:
            self._reader: Any = gguf.GGUFReader(path)
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"{path} is no GGUF file that can be read ({error})") from error
        if self.field("general.architecture") != "llama":
            raise ValueError(f"{path} holds a {self.field('general.architecture')!r}, and a 'llama' is needed")

    def field(self, name: str) -> Any:
        """The value of a metadata field; ValueError if there is none."""
        found = self._reader.get_field(name)
        if found is None:
            raise ValueError(f"the GGUF file has no field {name!r}")
        return found.contents()

    def config(self) -> LlamaConfig:
        """The configuration of the `LlamaForCausalLM` in the file."""
        from transformers import LlamaConfig

        field = self.field
        return LlamaConfig(
            vocab_size=field("llama.vocab_size"),
            hidden_size=field("llama.embedding_length"),
            intermediate_size=field("llama.feed_forward_length"),
            num_hidden_layers=field("llama.block_count"),
            num_attention_heads=field("llama.attention.head_count"),
            num_key_value_heads=field("llama.attention.head_count_kv"),
            max_position_embeddings=field("llama.context_length"),
            rms_norm_eps=round(field("llama.attention.layer_norm_rms_epsilon"), 10),
            rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
            tie_word_embeddings=True,
            bos_token_id=field("tokenizer.ggml.bos_token_id"),
            eos_token_id=field("tokenizer.ggml.eos_token_id"),
            pad_token_id=field("tokenizer.ggml.padding_token_id"),
        )

    def weights(self, progress: Callable[[int, int], None] | None = None) -> dict[str, Tensor]:
        """All tensors in float32 under the names of transformers' `LlamaModel`.

        Args:
            progress: called after each tensor with how many are done, and how many there are.

        Raises:
            ValueError: a tensor that a Llama with tied embeddings does not have.
        """
        import torch

        tensors, found = self._reader.tensors, {}
        for done, tensor in enumerate(tensors, 1):
            name, values = _name(tensor.name), self._gguf.dequantize(tensor.data, tensor.tensor_type)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                size = self.field("llama.rope.dimension_count")
                values = values.reshape(-1, size // 2, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
            found[name] = torch.from_numpy(values.copy()).float()
            if progress is not None:
                progress(done, len(tensors))
        return found


def _name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `layers.3.self_attn.q_proj.weight`."""
    head, *rest = name.removesuffix(".weight").split(".")
    if not rest and head in _TOP:
        return f"{_TOP[head]}.weight"
    if head == "blk" and len(rest) == 2 and rest[1] in _PARTS:
        return f"layers.{rest[0]}.{_PARTS[rest[1]]}.weight"
    raise ValueError(f"the GGUF file has a tensor {name!r}, which no Llama with tied embeddings has")
