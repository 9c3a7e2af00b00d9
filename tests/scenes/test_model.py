"""The model is a genuine LLaVA that saves, loads and takes every form of prompt that transformers offers it."""

import pytest
import torch
from transformers import AutoProcessor, CLIPVisionModel, LlavaForConditionalGeneration, LlavaProcessor

from vtokens.scenes import ALL_KINDS, SPLITS, examples, prompt
from vtokens.scenes.model import WORDS, build_model, build_processor, build_tokenizer, save


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A randomly initialised model, saved and loaded again the ordinary way: (folder, model, processor)."""
    folder = save(build_model(1), tmp_path_factory.mktemp("scenes"))
    return folder, LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def test_saved_is_loaded_bit_by_bit(saved):
    folder, model, processor = saved
    assert isinstance(processor, LlavaProcessor)
    assert isinstance(model.model.vision_tower, CLIPVisionModel)
    for name, value in build_model(1).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    assert model.dtype == torch.float32


def test_seed_decides_the_weights():
    assert not torch.equal(build_model(1).lm_head.weight, build_model(2).lm_head.weight)


def test_special_tokens(saved):
    _, model, processor = saved
    tokenizer = processor.tokenizer
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == ("<pad>", "<eos>", "left")
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer()
    assert len(set(WORDS)) == len(WORDS) == len(tokenizer)
    for split in SPLITS:
        for e in examples(split, 56, kinds=ALL_KINDS):
            ids = tokenizer(e.question + " " + e.answer).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(tokenizer(e.answer).input_ids).replace(" ,", ",") == e.answer


def test_prompt_goes_through_the_chat_template():
    processor = build_processor()
    assert prompt(processor, "What shape is red?") == "<bos>USER: <image>\nWhat shape is red? ASSISTANT:"
    assert prompt(processor, "What shape is red?", 2).count("<image>") == 2
    assert "<image>" not in prompt(processor, "What shape is red?", 0)
    with pytest.raises(ValueError, match="images must be an int of at least 0, got -1"):
        prompt(processor, "What shape is red?", -1)


def test_chat_template_carries_a_conversation():
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What shape is red?"}]},
        {"role": "assistant", "content": "circle"},
        {"role": "user", "content": "How many circles are there?"},
    ]
    text = build_processor().apply_chat_template(turns, add_generation_prompt=True)
    first = "<bos>USER: <image>\nWhat shape is red? ASSISTANT: circle<eos>"
    assert text == first + "USER: How many circles are there? ASSISTANT:"


def test_batch_is_padded_on_the_left_and_ends_with_the_answer_cue(saved):
    _, _, processor = saved
    sample = examples("test", 4)
    inputs = processor(
        images=[e.image for e in sample],
        text=[prompt(processor, e.question) for e in sample],
        padding=True,
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum(1).tolist() == [144] * 4
    assert set(inputs["input_ids"][:, -1].tolist()) == {processor.tokenizer.convert_tokens_to_ids("ASSISTANT:")}
    assert inputs["pixel_values"].shape == (4, 3, 96, 96)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_any_number_of_pictures_runs(saved, images):
    _, model, processor = saved
    pictures = [e.image for e in examples("test", images)] if images else None
    inputs = processor(images=pictures, text=prompt(processor, "Describe the image.", images), return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=3)
    assert inputs["input_ids"].shape[1] < tokens.shape[1] <= inputs["input_ids"].shape[1] + 3
