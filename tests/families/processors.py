"""Genuine processors of the families, built in-process: no download, no torchvision."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3Processor,
    Idefics3Processor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MllamaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from vtokens.loading.processors import pictures_only

from . import adapted
from .by_hand import Naflex, Padded, Prefixed, Sliced

VOCABULARY = 320
CORPUS = [
    "Is there a red square in the image? Please answer yes or no.",
    "Describe the picture in detail: what is on the left, and what is to the right of it?",
    "How many blue circles are there? There are two of them, one above the other.",
]
LLAMA_TOKENS = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "image": "<image>"}
ONEVISION_TOKENS = {"eos": "<|im_end|>", "pad": "<|endoftext|>", "image": "<image>", "video": "<video>"}
QWEN_TOKENS = {
    "eos": "<|im_end|>",
    "pad": "<|endoftext|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
}
IDEFICS_TOKENS = {
    "bos": "<s>",
    "eos": "</s>",
    "pad": "<pad>",
    "image": "<image>",
    "global_image": "<global-img>",
    "fake_image": "<fake_token_around_image>",
    "end_of_utterance": "<end_of_utterance>",
    **{f"row_{row}_col_{column}": f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)},
}
GEMMA_TOKENS = {
    "bos": "<bos>",
    "eos": "<eos>",
    "pad": "<pad>",
    "image": "<image_soft_token>",
    "boi": "<start_of_image>",
    "eoi": "<end_of_image>",
}
MLLAMA_TOKENS = {
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
    "pad": "<|finetune_right_pad_id|>",
    "image": "<|image|>",
}
GEMMA4_TOKENS = {
    "bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>",
    "boi": "<|image>", "eoi": "<image|>", "boa": "<|audio>",
}  # fmt: skip
PALIGEMMA_TOKENS = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "image": "<image>"}
LFM2_TOKENS = {
    "bos": "<|startoftext|>", "eos": "<|im_end|>", "pad": "<|pad|>", "image": "<image>", "start": "<|image_start|>",
    "end": "<|image_end|>", "thumbnail": "<|img_thumbnail|>",
    **{f"column_{column}": f"<|img_row_1_col_{column}|>" for column in (1, 2, 3)},
}  # fmt: skip
MINICPM_TOKENS = {
    "eos": "<|im_end|>", "pad": "<|endoftext|>", "image": "<|image_pad|>", "video": "<|video_pad|>",
    "begin": "<image>", "end": "</image>", "slice_begin": "<slice>", "slice_end": "</slice>",
}  # fmt: skip
TOKENS = {
    "llava": LLAMA_TOKENS,
    "llava_next": LLAMA_TOKENS,
    "llava_onevision": ONEVISION_TOKENS,
    "qwen2_vl": QWEN_TOKENS,
    "qwen2_5_vl": QWEN_TOKENS,
    "qwen3_vl": QWEN_TOKENS,
    "idefics3": IDEFICS_TOKENS,
    "smolvlm": IDEFICS_TOKENS,
    "gemma3": GEMMA_TOKENS,
    "qwen3_vl_moe": QWEN_TOKENS,
    "qwen3_5": QWEN_TOKENS,
    "qwen3_5_moe": QWEN_TOKENS,
    "lfm2_vl": LFM2_TOKENS,
    "minicpmv4_6": MINICPM_TOKENS,
    "mllama": MLLAMA_TOKENS,
    "paligemma": PALIGEMMA_TOKENS,
    "gemma4": GEMMA4_TOKENS,
}

QWEN_PROCESSORS = {
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
    "qwen3_vl_moe": Qwen3VLProcessor,
    "qwen3_5": Qwen3VLProcessor,
    "qwen3_5_moe": Qwen3VLProcessor,
}


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 320 entries with the special tokens of `family`; the Llama kinds prepend <s>.

    Ids are those of the special tokens first, then 256 bytes, then merges; the same on every call.
    """
    special = {**TOKENS, **adapted.TOKENS}[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(dict.fromkeys(special.values())),
    )
    core.train_from_iterator(CORPUS, trainer)
    if "bos" in special:
        first = special["bos"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, core.token_to_id(first))]
        )
    common = {f"{name}_token": special[name] for name in ("bos", "eos", "pad") if name in special}
    extra = {f"{name}_token": text for name, text in special.items() if f"{name}_token" not in common}
    return PreTrainedTokenizerFast(tokenizer_object=core, extra_special_tokens=extra, **common)


def processor(family: str, config: Any, tok: PreTrainedTokenizerFast) -> Any:
    """The genuine processor of `family` with its PIL image processor, in agreement with the model's `config`."""
    if family in adapted.PROCESSORS:
        return adapted.PROCESSORS[family](config, tok)
    vision = config.vision_config
    if family.startswith("qwen"):
        merged = (vision.patch_size * vision.spatial_merge_size) ** 2
        patches = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            size={"shortest_edge": 4 * merged, "longest_edge": 48 * merged},
        )
        return pictures_only(QWEN_PROCESSORS[family])(patches, tok)
    if family in ("idefics3", "smolvlm"):
        # SmolVLM's own processor wants num2words and torchvision; what it makes of pictures is the same.
        tiles = Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * vision.image_size}, max_image_size={"longest_edge": vision.image_size}
        )
        tokens = (vision.image_size // vision.patch_size // config.scale_factor) ** 2
        return Idefics3Processor(tiles, tok, image_seq_len=tokens)
    if family == "gemma4":
        settings = {"patch_size": vision.patch_size, "pooling_kernel_size": vision.pooling_kernel_size}
        return Padded(Gemma4ImageProcessorPil(max_soft_tokens=70, **settings), tok)
    if family == "minicpmv4_6":
        slices = MiniCPMV4_6ImageProcessorPil(patch_size=vision.patch_size, scale_resolution=84, max_slice_nums=3)
        return Sliced(slices, tok)
    if family == "lfm2_vl":
        return Naflex(Siglip2ImageProcessorPil(patch_size=vision.patch_size), tok)
    square = {"height": vision.image_size, "width": vision.image_size}
    if family == "mllama":
        return MllamaProcessor(MllamaImageProcessorPil(size=square, max_image_tiles=vision.max_num_tiles), tok)
    if family == "paligemma":
        patches = SiglipImageProcessorPil(size=square)
        patches.image_seq_length = (vision.image_size // vision.patch_size) ** 2
        return Prefixed(patches, tok)
    if family == "gemma3":
        return Gemma3Processor(Gemma3ImageProcessorPil(size=square), tok, image_seq_length=config.mm_tokens_per_image)
    if family == "llava_onevision":
        return pictures_only(LlavaOnevisionProcessor)(
            LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=config.image_grid_pinpoints),
            tok,
            num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            vision_aspect_ratio=config.vision_aspect_ratio,
        )
    resizing: dict[str, Any] = {"size": {"shortest_edge": vision.image_size}, "crop_size": square}
    settings: dict[str, Any] = {
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,
    }
    if family == "llava_next":
        crops = LlavaNextImageProcessorPil(image_grid_pinpoints=config.image_grid_pinpoints, **resizing)
        return LlavaNextProcessor(crops, tok, **settings)
    return LlavaProcessor(CLIPImageProcessorPil(**resizing), tok, **settings)
