"""Processors put together from genuine parts, for families whose own ask for torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BatchFeature
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil


class ByHand:
    """A tokenizer and an image processor; subclasses write what stands for a picture in the text."""

    pixels: type[Any]

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id

    def written(self, made: Any, number: int) -> str:
        """What picture `number` of those `made` is in the text."""
        raise NotImplementedError

    def __call__(self, images: Any, text: list[str], **options: Any) -> BatchFeature:
        """A batch of tensors; options go to the tokenizer."""
        made = self.image_processor([one for group in images for one in group], return_tensors="pt") if images else {}
        parts, number = [], 0
        for row in text:
            before, *behind = row.split(self.image_token)
            for part in behind:
                before, number = before + self.written(made, number) + part, number + 1
            parts.append(before)
        ids = self.tokenizer(parts, **options)
        return BatchFeature({**ids, **{name: made[name] for name in ("pixel_values", "image_sizes") if name in made}})

    def save_pretrained(self, folder: Path) -> None:
        """Write both parts."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Any:
        """Read both parts."""
        return cls(cls.pixels.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


class Rows(ByHand):
    """Pixtral's pictures: rows of tokens that end in a break, the last one in an end."""

    pixels = PixtralImageProcessorPil

    def written(self, made: Any, number: int) -> str:
        cell = self.image_processor.patch_size["height"]
        high, wide = (int(size) // cell for size in made["image_sizes"][number])
        tok = self.tokenizer
        return tok.image_break_token.join([self.image_token * wide] * high) + tok.image_end_token


class Tiled(ByHand):
    """Command A Vision's pictures: tiles of 2 x 2 tokens that end in a break, one behind the other."""

    pixels = GotOcr2ImageProcessorPil

    def written(self, made: Any, number: int) -> str:
        tok, tiles = self.tokenizer, int(made["num_patches"][number])
        return tok.boi_token + (self.image_token * 4 + tok.img_line_break_token) * tiles + tok.eoi_token
