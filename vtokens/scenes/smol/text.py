"""Tokenizer, chat template and processor of scenes-smol, from the vocabulary in the GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtokens.scenes import model

if TYPE_CHECKING:
    from transformers import LlavaProcessor

    from .language import Language

#: A special token that SmolLM2 never uses stands for the picture, so that the embedding keeps its size.
PICTURE = "<empty_output>"
_CONTROL = 3  # of tokenizer.ggml.token_type: special tokens
_LONGEST = 2048

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'image' %}" + PICTURE + "{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(language: Language) -> Any:
    """SmolLM2's tokenizer as a fast tokenizer: byte-level BPE, every digit a token of its own; pads on the left."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words, kinds = language.field("tokenizer.ggml.tokens"), language.field("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in language.field("tokenizer.ggml.merges")]
    core = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL]
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    first, last, unknown = (words[language.field(f"tokenizer.ggml.{n}_token_id")] for n in ("bos", "eos", "unknown"))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=first,
        eos_token=last,
        pad_token=last,
        unk_token=unknown,
        additional_special_tokens=[word for word in special if word not in (first, last, unknown)],
        padding_side="left",
        model_max_length=_LONGEST,
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: Any) -> LlavaProcessor:
    """The processor of scenes, with SmolLM2's tokenizer, placeholder and chat template."""
    return model.build_processor(tokenizer, PICTURE, CHAT_TEMPLATE)
