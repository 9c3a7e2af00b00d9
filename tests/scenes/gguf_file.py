"""A small genuine GGUF file of a Llama, with a byte-level vocabulary in which the scenes' words are one token each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vtokens.scenes.world import COLOURS, NUMBERS, SHAPES

WIDTH, INNER, LAYERS, QUERIES, KEYS, HEAD = 64, 96, 3, 4, 2, 16
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>"]
WORDS = [
    *COLOURS,
    *SHAPES,
    *NUMBERS,
    "row",
    "column",
    "digit",
    "yes",
    "no",
    "nothing",
    "a",
    "assistant",
    "user",
    "image",
]


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-pair encoding learnt on the words, behind a space each."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([f" {word}" for word in WORDS for _ in range(9)], trainer)
    tokens = sorted(core.get_vocab(), key=core.get_vocab().__getitem__)
    learnt = models_of(core)
    return tokens, learnt


def models_of(core: Tokenizer) -> list[str]:
    """The merges of a trained tokenizer, each as GGUF writes it: two tokens with a space between."""
    return [" ".join(pair) for pair in json.loads(core.to_str())["model"]["merges"]]


def write(path: Path, seed: int = 0) -> Path:
    """Write the file: matrices in Q4_1, the embedding in Q8_0, norms in float32."""
    import gguf

    draw = np.random.default_rng(seed)
    tokens, merges = vocabulary()
    file = gguf.GGUFWriter(path, "llama")
    file.add_block_count(LAYERS)
    file.add_context_length(512)
    file.add_embedding_length(WIDTH)
    file.add_feed_forward_length(INNER)
    file.add_head_count(QUERIES)
    file.add_head_count_kv(KEYS)
    file.add_rope_freq_base(1e4)
    file.add_rope_dimension_count(HEAD)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("smollm")
    file.add_token_list(tokens)
    file.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    file.add_token_merges(merges)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_pad_token_id(2)
    file.add_unk_token_id(0)

    def matrix(name: str, rows: int, columns: int, kind: Any) -> None:
        values = draw.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
        file.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    four, eight = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
    matrix("token_embd.weight", len(tokens), WIDTH, eight)
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", QUERIES * HEAD, WIDTH), ("attn_k", KEYS * HEAD, WIDTH), ("attn_v", KEYS * HEAD, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER),
        ):  # fmt: skip
            matrix(f"blk.{layer}.{name}.weight", rows, columns, four)
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{name}.weight", draw.uniform(0.5, 1.5, WIDTH).astype(np.float32))
    file.add_tensor("output_norm.weight", draw.uniform(0.5, 1.5, WIDTH).astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
