"""The tiny models of tests.families are genuine, non-degenerate, and batch as transformers itself promises."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.vision_utils import get_vision_window_index

from tests.families import ALL, STATEFUL, build, image, inputs
from tests.limits import BLOCKS, WIDTH, close_pass, rounding

PROMPTS = ["Is there a cat?", "Compare <image> with <image> please, and say which one is red", "hello there"]
PLAIN = ["hello there, what is this?", "a"]
Pair = tuple[Any, Any]  # model, processor


def pictures() -> list[list]:
    """One, two and no images for the three prompts; no two of them of one shape."""
    return [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]


@pytest.fixture(scope="module", params=[*ALL, *STATEFUL])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each family's model and processor in turn."""
    return build(request.param)


@torch.no_grad()
def greedy(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Five greedy tokens (B, 5) and the logits (B, 5, V) they were taken from."""
    out = model.generate(
        **batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return out.sequences[:, -5:], torch.stack(out.logits, dim=1)


def test_ids_agree(pair: Pair) -> None:
    """Tokenizer, processor, model and generation settings name the same token ids, and the vocabulary fits."""
    model, processor = pair
    tokenizer = processor.tokenizer
    assert len(tokenizer) == model.config.text_config.vocab_size == model.get_input_embeddings().num_embeddings == 320
    assert model.config.image_token_id == tokenizer.image_token_id
    # Prompts of these hold another mark in its place, from which their processors make it.
    if model.config.model_type not in ("gemma3", "janus", "ovis2"):
        assert processor.image_token_id == tokenizer.image_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    text = "Which one, née «Ω», is it?"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_left_padded_rows_equal_single_runs(pair: Pair) -> None:
    """Greedy generation of a ragged batch of 1, 2 and 0 images gives each row what it gives that sample alone."""
    model, processor = pair
    groups = pictures()
    batch = inputs(processor, PROMPTS, groups)
    assert not batch["attention_mask"][:, 0].all()
    assert batch["attention_mask"][:, -1].all()
    tokens, logits = greedy(model, batch)
    for row, (prompt, group) in enumerate(zip(PROMPTS, groups, strict=True)):
        alone, alone_logits = greedy(model, inputs(processor, [prompt], [group]))
        close_pass(logits[row], alone_logits[0])
        assert torch.equal(tokens[row], alone[0])


@torch.no_grad()
def test_right_padded_rows_equal_single_runs_in_one_forward(pair: Pair) -> None:
    """One forward pass of a right-padded batch agrees with single runs at every real token.

    Generation does not: transformers takes the next token from the last column, which is padding in the short rows.
    """
    model, processor = pair
    groups = pictures()
    batch = inputs(processor, PROMPTS, groups, padding_side="right")
    assert batch["attention_mask"][:, 0].all()
    assert not batch["attention_mask"][:, -1].all()
    logits = model(**batch).logits
    for row, (prompt, group) in enumerate(zip(PROMPTS, groups, strict=True)):
        alone = model(**inputs(processor, [prompt], [group])).logits[0]
        close_pass(logits[row][batch["attention_mask"][row].bool()], alone)
    longest = batch["attention_mask"].sum(1).argmax()
    tokens, _ = greedy(model, batch)
    alone_tokens, _ = greedy(model, inputs(processor, [PROMPTS[longest]], [groups[longest]]))
    assert torch.equal(tokens[longest], alone_tokens[0])


def test_text_only_batch(pair: Pair) -> None:
    """A batch without any image has no pixels and generates like its samples alone."""
    model, processor = pair
    batch = inputs(processor, PLAIN)
    assert "pixel_values" not in batch
    tokens, logits = greedy(model, batch)
    for row, prompt in enumerate(PLAIN):
        _, alone = greedy(model, inputs(processor, [prompt]))
        close_pass(logits[row], alone[0])
    assert tokens.shape == (2, 5)


@torch.no_grad()
def test_logits_and_attention_depend_on_the_image(pair: Pair) -> None:
    """Another image changes the next token's logits, and attention is neither uniform nor blind to the image."""
    model, processor = pair
    batch = inputs(processor, PROMPTS[:1], [[image(100, 60, seed=0)]])
    other = inputs(processor, PROMPTS[:1], [[image(100, 60, seed=9)]])
    assert torch.equal(batch["input_ids"], other["input_ids"])
    logits = model(**batch).logits[0, -1]
    assert (logits - model(**other).logits[0, -1]).abs().max() > 1000 * rounding(logits, WIDTH, BLOCKS)
    eager, _ = build(model.config.model_type, attn_implementation="eager")
    out = eager(**batch, output_attentions=True)
    close_pass(out.logits[0, -1], logits)
    visual = batch["input_ids"][0] == model.config.image_token_id
    for layer in out.attentions:
        row = layer[0, :, -1]
        entropy = -(row * row.clamp_min(1e-12).log()).sum(-1).mean()
        assert entropy < 0.9 * torch.tensor(float(row.shape[-1])).log()
        assert 0.02 < row[:, visual].sum(-1).mean() < 0.99
        assert row[:, visual].sum(0).std() > 0.005


def test_seed_decides_the_weights_and_nothing_else(pair: Pair) -> None:
    """One seed gives one set of weights, another seed others, and the global random state does not move."""
    family = pair[0].config.model_type
    before = torch.get_rng_state()
    again, other = build(family, seed=0)[0], build(family, seed=1)[0]
    assert torch.equal(before, torch.get_rng_state())
    first = pair[0].state_dict()
    assert all(torch.equal(first[name], weight) for name, weight in again.state_dict().items())
    head = next(name for name in first if name.endswith("lm_head.weight"))
    assert not torch.equal(first[head], other.state_dict()[head])
    assert {weight.dtype for weight in first.values() if weight.is_floating_point()} == {torch.float32}
    assert not pair[0].training


@torch.no_grad()
def test_qwen25_window_order_is_a_real_permutation() -> None:
    """The window order moves tokens of a test image, and the tower undoes it: its features are in raster order."""
    everywhere = {"fullatt_block_indexes": [0, 1, 2, 3]}
    model, processor = build("qwen2_5_vl", vision_config=everywhere)
    batch = inputs(processor, ["x"], [[image(84, 112, seed=1)]])
    pixels, grid = batch["pixel_values"], batch["image_grid_thw"]
    vision = model.config.vision_config
    order, _ = get_vision_window_index(
        grid, vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )
    assert not torch.equal(order, torch.arange(len(order)))
    assert torch.equal(order.sort().values, torch.arange(len(order)))
    # With full attention in every block, one window over the whole image must give the same features in the same order.
    unmoved, _ = build("qwen2_5_vl", vision_config={**everywhere, "window_size": 280})
    close_pass(
        model.model.visual(pixels, grid_thw=grid).pooler_output,
        unmoved.model.visual(pixels, grid_thw=grid).pooler_output,
    )


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_anyres_crops_unpadding_and_newlines(family: str) -> None:
    """A wide image gets crops; its tokens are base + unpadded rows, each row closed by the same newline vector."""
    model, processor = build(family)
    batch = inputs(processor, ["x"], [[image(100, 60, seed=0)]])
    assert batch["pixel_values"].shape[1] == 5
    with torch.no_grad():
        out = model.model.get_image_features(batch["pixel_values"], batch["image_sizes"], return_dict=True)
    features = out.pooler_output[0]
    # 8 x 8 cells of the 112 x 112 canvas, 4 of the 8 rows being padding: 16 base + 4 rows x (8 + newline).
    assert features.shape == (16 + 4 * 9, 64)
    rows = features[16:].view(4, 9, 64)
    newline = model.model.image_newline.expand(4, -1)
    assert torch.equal(rows[:, -1], newline)
    assert not torch.equal(rows[:, -2], newline)


def test_overrides_reach_model_and_processor() -> None:
    """Nested overrides are merged, and the processor counts tokens as the changed model does."""
    model, processor = build("llava", vision_config={"image_size": 70}, text_config={"num_hidden_layers": 2})
    batch = inputs(processor, ["x"], [[image(64, 64, seed=0)]])
    assert (batch["input_ids"] == processor.image_token_id).sum() == 25
    assert len(model.model.language_model.layers) == 2
    assert model(**batch).logits.isfinite().all()


@torch.no_grad()
def test_saved_pair_loads_again(pair: Pair, tmp_path: Path) -> None:
    """A model and its processor written to a folder come back the same: same tokens, same logits."""
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    batch = inputs(processor, PROMPTS, pictures())
    reread = inputs(type(processor).from_pretrained(tmp_path), PROMPTS, pictures())
    assert set(batch) == set(reread)
    assert all(torch.equal(batch[key], reread[key]) for key in batch)
    assert torch.equal(model(**batch).logits, again(**reread).logits)


def test_errors_name_the_value() -> None:
    """Mistakes are refused with the offending value and the nearest right name."""
    with pytest.raises(ValueError, match=r"unknown family 'qwen25_vl'\. Did you mean 'qwen2_5_vl'"):
        build("qwen25_vl")
    with pytest.raises(ValueError, match="1 lists for 2 prompts"):
        inputs("llava", ["a", "b"], [[image(56, 56, seed=0)]])
    with pytest.raises(ValueError, match="2 <image> marks for 1 images"):
        inputs("llava", ["<image> and <image>"], [[image(56, 56, seed=0)]])
