"""Processors put together from genuine parts, for families whose own ask for torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BatchFeature
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

SHOWN = ("pixel_values", "image_sizes", "image_grid_thw", "spatial_shapes", "pixel_attention_mask", "target_sizes",
    "image_token_pooling", "image_grids",)  # fmt: skip


class ByHand:
    """A tokenizer and an image processor; subclasses write what stands for a picture in the text."""

    pixels: type[Any]

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id

    def written(self, made: Any, number: int) -> str:
        """What picture `number` of those `made` is in the text."""
        raise NotImplementedError

    def made(self, images: Any) -> Any:
        """The tensors of pictures."""
        return self.image_processor(images, return_tensors="pt")

    def __call__(self, images: Any, text: list[str], **options: Any) -> BatchFeature:
        """A batch of tensors; options go to the tokenizer."""
        made = self.made([one for group in images for one in group]) if images else {}
        parts, number = [], 0
        for row in text:
            before, *behind = row.split(self.image_token)
            for part in behind:
                before, number = before + self.written(made, number) + part, number + 1
            parts.append(before)
        ids = self.tokenizer(parts, **options)
        return BatchFeature({**ids, **{name: made[name] for name in SHOWN if name in made}})

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


class Unbroken(Rows):
    """LightOnOCR's pictures: the same tokens without breaks."""

    def written(self, made: Any, number: int) -> str:
        cell = self.image_processor.patch_size["height"]
        high, wide = (int(size) // cell for size in made["image_sizes"][number])
        return self.image_token * (high * wide)


class Tiled(ByHand):
    """Command A Vision's pictures: tiles of 2 x 2 tokens that end in a break, one behind the other."""

    pixels = GotOcr2ImageProcessorPil

    def written(self, made: Any, number: int) -> str:
        tok, tiles = self.tokenizer, int(made["num_patches"][number])
        return tok.boi_token + (self.image_token * 4 + tok.img_line_break_token) * tiles + tok.eoi_token


class Separated(Tiled):
    """Llama 4's pictures: tiles with marks between columns and behind rows, and the whole behind a mark of its own."""

    def written(self, made: Any, number: int) -> str:
        tok, tiles, tile = self.tokenizer, int(made["num_patches"][number]), self.image_token * 4
        cut = ""
        if tiles > 1:  # side by side, or one below the other
            wide = self.sizes[number][0] > self.sizes[number][1]
            mark = tok.column_token if wide else tok.row_token
            cut = mark.join([tile] * (tiles - 1)) + tok.row_token
        return tok.boi_token + cut + tok.whole_token + tile + tok.eoi_token

    def made(self, images: Any) -> Any:
        self.sizes = [one.size for one in images]
        return super().made(images)


class Prefixed(ByHand):
    """PaliGemma's prompts: pictures, the token for the beginning, text and a line break, all of one kind.

    Its own processor does this too, but adds a thousand tokens to the vocabulary, and cuts text without pictures.
    """

    pixels = SiglipImageProcessorPil

    def __call__(self, images: Any, text: list[str], **options: Any) -> BatchFeature:
        """A batch of tensors; options go to the tokenizer."""
        parts = [self.behind_pictures(row) for row in text]
        made = super().__call__(images, parts, **{**options, "add_special_tokens": False})
        return BatchFeature({**made, "token_type_ids": torch.zeros_like(made["input_ids"])})

    def behind_pictures(self, row: str) -> str:
        """A prompt with the token for the beginning behind its last picture."""
        end = row.rfind(self.image_token) + len(self.image_token) if self.image_token in row else 0
        return f"{row[:end]}{self.tokenizer.bos_token}{row[end:]}\n"

    def written(self, made: Any, number: int) -> str:
        return self.image_token * self.image_processor.image_seq_length


class Patches(ByHand):
    """Kimi's pictures: patches (patches, 3, side, side) row by row, of which 2 x 2 make a token."""

    pixels = Qwen2VLImageProcessorPil

    def written(self, made: Any, number: int) -> str:
        return self.image_token * (int(made["image_grid_thw"][number].prod()) // 4)

    def made(self, images: Any) -> Any:
        made, parts = super().made(images), []
        side = self.image_processor.patch_size
        grids = made["image_grid_thw"].tolist()
        for rows, (_, high, wide) in zip(made["pixel_values"].split([h * w for _, h, w in grids]), grids, strict=True):
            # Qwen's patches stand four by four, as its merger joins them.
            cells = rows.view(high // 2, wide // 2, 2, 2, 3, side, side).transpose(1, 2)
            parts.append(cells.reshape(high * wide, 3, side, side))
        made["pixel_values"] = torch.cat(parts)
        return made


class Pages(ByHand):
    """PaddleOCR-VL's pages: patches row by row, of which 2 x 2 make a token.

    Its own processor does the same, and cannot be read from a folder without what transformers 5.23 calls deprecated.
    """

    pixels = PaddleOCRVLImageProcessorPil

    def __call__(self, images: Any, text: list[str], **options: Any) -> BatchFeature:
        """A batch of tensors with the kind of each position; options go to the tokenizer."""
        made = super().__call__(images, text, **options)
        return BatchFeature({**made, "mm_token_type_ids": (made["input_ids"] == self.image_token_id).long()})

    def written(self, made: Any, number: int) -> str:
        return self.image_token * (int(made["image_grid_thw"][number].prod()) // 4)


class Sliced(ByHand):
    """MiniCPM-V's pictures: the whole of each, and slices of larger ones; 4 x 4 patches make a token.

    Its own processor wants a part for videos.
    """

    pixels = MiniCPMV4_6ImageProcessorPil

    def written(self, made: Any, number: int) -> str:
        tok, first = self.tokenizer, sum(made["num_patches_per_image"][:number])
        sizes = made["target_sizes"][first : first + made["num_patches_per_image"][number]]
        whole, *slices = (self.image_token * (int(size.prod()) // 16) for size in sizes)
        parts = "\n".join(tok.slice_begin_token + part + tok.slice_end_token for part in slices)
        return tok.begin_token + whole + tok.end_token + parts


class Pooled(ByHand):
    """Molmo 2's pictures: the whole of each as 3 x 3 tokens, and one or two crops of it side by side.

    Up to 2 x 2 patches are pooled to a token, those of a crop's last row and column by themselves. Its own processor
    asks for torchvision, and lets crops overlap. Crops leave out an edge: the crop of a square picture would be its
    whole once more, and of two equal tokens rounding chooses, otherwise in a batch than alone.
    """

    pixels = SiglipImageProcessorPil
    cell, count = 14, 5

    def __call__(self, images: Any, text: list[str], **options: Any) -> BatchFeature:
        """A batch of tensors with the kind of each position; options go to the tokenizer."""
        made, tok = super().__call__(images, text, **options), self.tokenizer
        framing = [tok.image_token_id, tok.column_token_id, tok.begin_token_id, tok.low_begin_token_id]
        framing += [tok.end_token_id, tok.frame_begin_token_id, tok.frame_end_token_id]
        made["mm_token_type_ids"] = torch.isin(made["input_ids"], torch.tensor(framing)).long()
        return made

    def written(self, made: Any, number: int) -> str:
        tok = self.tokenizer
        low_rows, low_columns, rows, columns = made["image_grids"][number].tolist()
        low = (self.image_token * low_columns + tok.column_token) * low_rows
        high = (self.image_token * columns + tok.column_token) * rows
        return f"{tok.low_begin_token}{low}{tok.end_token}{tok.begin_token}{high}{tok.end_token}"

    def made(self, images: Any) -> Any:
        squares, pooling, grids, size = [], [], [], self.cell * self.count
        for one in images:
            first = len(squares) * self.count**2
            squares.append(one.resize((size, size)))
            wide = 2 if one.width > one.height else 1
            canvas, edge = one.resize((size * wide + self.cell, size + self.cell)), self.cell // 2
            squares += [canvas.crop((left, edge, left + size, edge + size)) for left in range(edge, size * wide, size)]
            numbers = torch.arange(self.count**2 * (wide + 1)).view(-1, self.count, self.count) + first
            parts = [self.named(numbers[0]), self.named(torch.cat([*numbers[1:]], 1))]
            pooling += [part.flatten(0, 1) for part in parts]
            grids.append([side for part in parts for side in part.shape[:2]])
        made = self.image_processor(squares, return_tensors="pt")
        patches = made["pixel_values"].unfold(2, self.cell, self.cell).unfold(3, self.cell, self.cell)
        return {
            "pixel_values": patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2),
            "image_token_pooling": torch.cat(pooling),
            "image_grids": torch.tensor(grids),
        }

    def named(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers (h, w) of patches -> (rows, columns, 4) of those that are pooled, -1 where there is none."""
        padded = torch.nn.functional.pad(numbers, (0, numbers.shape[1] % 2, 0, numbers.shape[0] % 2), value=-1)
        return padded.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2)


class Padded(ByHand):
    """Gemma 4's pictures: as many tokens as they are large, and patches padded to those of the largest and a few more.

    Its own processor wants parts for videos and sound, and makes every picture as large as its 70 tokens allow.
    """

    pixels = Gemma4ImageProcessorPil

    def __call__(self, images: Any, text: list[str], **options: Any) -> BatchFeature:
        """A batch of tensors; options go to the tokenizer."""
        patches, factor = self.image_processor, self.image_processor.pooling_kernel_size
        cell = patches.patch_size * factor
        sized = [
            one.resize([cell * max(1, round(side / cell)) for side in one.size])
            for group in images or []
            for one in group
        ]
        made = patches(sized, do_resize=False, return_tensors="pt") if sized else {}
        counts = [int(count) for count in made.get("num_soft_tokens_per_image", [])]
        batch = BatchFeature({**self.tokenizer(self.with_pictures(text, counts), **options)})
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token_id).long()
        if sized:
            longest = factor**2 * (max(counts) + 1)
            batch |= {name: made[name][:, :longest] for name in ("pixel_values", "image_position_ids")}
        return batch

    def with_pictures(self, text: list[str], counts: list[int]) -> list[str]:
        """Prompts whose marks for pictures are as many tokens as each has, framed."""
        tok, left, rows = self.tokenizer, iter(counts), []
        for row in text:
            before, *behind = row.split(self.image_token)
            for part in behind:
                before += f"{tok.boi_token}{self.image_token * next(left)}{tok.eoi_token}{part}"
            rows.append(before)
        return rows


class Naflex(ByHand):
    """LFM2-VL's pictures: rows of patches, padded to as many as the largest has and a few more; 2 x 2 make a token.

    Pictures wider than `tile` tokens are cut into tiles side by side, and the whole of it follows, as its own does.
    """

    pixels = Siglip2ImageProcessorPil
    tile = 4

    def written(self, made: Any, number: int) -> str:
        tok, counts = self.tokenizer, made["tokens"][number]
        if len(counts) == 1:
            return tok.start_token + self.image_token * counts[0] + tok.end_token
        *tiles, whole = (self.image_token * count for count in counts)
        names = (f"<|img_row_1_col_{number + 1}|>" for number in range(len(tiles)))
        parts = "".join(name + tile for name, tile in zip(names, tiles, strict=True))
        return tok.start_token + parts + tok.thumbnail_token + whole + tok.end_token

    def made(self, images: Any) -> Any:
        patches, cell = self.image_processor, 2 * self.image_processor.patch_size
        sizes = [[max(1, round(side / cell)) for side in one.size] for one in images]
        shown, counts = [], []
        for one, (wide, high) in zip(images, sizes, strict=True):
            sized = one.resize((wide * cell, high * cell))
            cuts = range(0, wide, self.tile) if wide > self.tile else ()
            boxes = [(left, 0, min(left + self.tile, wide), high) for left in cuts]
            parts = [sized.crop([side * cell for side in box]) for box in boxes]
            whole = sized if not parts else one.resize((self.tile * cell, max(1, high // 2) * cell))
            shown += [*parts, whole]
            counts.append([part.width * part.height // cell**2 for part in [*parts, whole]])
        longest = 4 * max(max(row) for row in counts) + 3
        made = patches(shown, do_resize=False, max_num_patches=longest, return_tensors="pt")
        return {**made, "tokens": counts}
