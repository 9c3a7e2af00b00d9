"""The tiny LLaVA for scenes: its tokenizer, its processor and its configuration, all genuine transformers classes.

2.4 million parameters: a CLIP vision tower (96 px, patch 8: 144 visual tokens and [CLS]) and a Llama of 8 layers. One
word is one token, so that the short answers are 1 to 3 tokens long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import plural
from .world import COLOURS, COLUMNS, IMAGE, NUMBERS, PATCH, ROWS, SHAPES

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "USER:", "ASSISTANT:")
_PLURALS = tuple(map(plural, SHAPES))
_OTHER = (
    *("is", "there", "a", "in", "the", "image", "?", ".", ",", "where", "what", "at", "colour", "shape", "how"),
    *("many", "objects", "are", "digit", "describe", "yes", "no", "nothing", "object", "and", "of", "this", "to"),
)
WORDS = SPECIAL + COLOURS + SHAPES + _PLURALS + NUMBERS + ROWS + COLUMNS + _OTHER

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer() -> Any:
    """The word-level tokenizer as a fast tokenizer; lower-cases, pads on the left, unknown words become <unk>."""
    return tokenizer_of(WORDS, SPECIAL, ["<image>", "USER:", "ASSISTANT:"])


def tokenizer_of(words: Sequence[str], special: Sequence[str], additional: Sequence[str]) -> Any:
    """A word-level tokenizer as `build_tokenizer` describes it.

    Args:
        words: all that it knows; a word's place is its number.
        special: those that are read as they are written, wherever they stand.
        additional: those of them that are not the usual four.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(additional),
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    tokenizer: Any = None, image_token: str = "<image>", chat_template: str = CHAT_TEMPLATE
) -> LlavaProcessor:
    """The processor: 96 x 96 pictures, CLIP's normalisation, one placeholder in the text becomes 144 of them.

    Args:
        tokenizer: of the text; None is that of scenes-llava.
        image_token: the placeholder.
        chat_template: how a conversation is written.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"height": IMAGE, "width": IMAGE},
        do_center_crop=False,
        crop_size={"height": IMAGE, "width": IMAGE},
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer() if tokenizer is None else tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=image_token,
        chat_template=chat_template,
    )


def build_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """The model with random weights drawn from `seed`, float32, in eval mode."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    ids = {w: i for i, w in enumerate(WORDS)}
    ends: dict[str, Any] = {"bos_token_id": ids["<bos>"], "eos_token_id": ids["<eos>"], "pad_token_id": ids["<pad>"]}
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        **ends,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        image_seq_length=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=False,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).float().eval()
        # Word embeddings this large are what lets the language model learn look-ups within minutes.
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.3)
    model.generation_config.update(do_sample=False, max_new_tokens=40, **ends)
    return model


def save(model: LlavaForConditionalGeneration, folder: str | Path) -> Path:
    """Write model, tokenizer and processor as a Hugging Face folder (safetensors and JSON only); returns the folder."""
    folder = Path(folder)
    model.save_pretrained(folder, safe_serialization=True)
    build_processor().save_pretrained(folder)
    return folder
