"""Processors where torchvision is missing: what is saved is loaded, pictures go through, videos are refused by name."""

import copy
import json
import pickle

import pytest
import torch
from transformers import LlavaNextVideoProcessor, VideoLlavaProcessor
from transformers.utils import is_torchvision_available

import vtokens
from tests.families import FAMILIES, build, image, inputs
from vtokens.loading.processors import PicturesOnly, pictures_only

VIDEO_TOO = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NO_TORCHVISION = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here, and all is as it was")
VIDEO_PART = {"video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 14, "merge_size": 2}


def saved(family, folder):
    """The model and processor of a family in a folder, as `save_pretrained` leaves them; the processor."""
    model, processor = build(family)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor


@NO_TORCHVISION
@pytest.mark.filterwarnings("ignore:pictures only")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_loaded_and_looks_at_pictures(family, tmp_path):
    saved(family, tmp_path)
    model, processor = vtokens.load(tmp_path, strategy="uniform", keep=0.5)
    prompts, pictures = ["Look: <image> what is this?", "hi"], [[image(100, 60, seed=3)], []]
    batch, direct = inputs(processor, prompts, pictures), inputs(family, prompts, pictures)
    assert set(batch) == set(direct)
    for name in batch:
        assert torch.equal(batch[name], direct[name]), name
    model.generate(**batch, max_new_tokens=2)
    assert vtokens.attachment(model).report().samples[0].visual_tokens[0] > 0
    assert isinstance(processor, PicturesOnly) == (family in VIDEO_TOO)


@NO_TORCHVISION
def test_it_is_said_once_what_videos_need(tmp_path):
    vtokens.loading.processors._warn_once.cache_clear()
    saved("qwen2_vl", tmp_path)
    with pytest.warns(UserWarning, match=r"^pictures only: Qwen2VLProcessor .* pip install 'torchvision==0\.\d+\.\*'"):
        vtokens.load(tmp_path)
    vtokens.load(tmp_path)  # a second warning would be an error here


def whole(folder):
    """As transformers saves a processor that has all parts: the video part is in the processor's file too."""
    file = folder / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "video_processor": VIDEO_PART}))


def older(folder):
    """As most of the hub has it: a file for the image processor, one for the video processor, none for both."""
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                **json.loads((folder / "processor_config.json").read_text())["image_processor"],
                "image_processor_type": "Qwen2VLImageProcessorFast",
                "processor_class": "Qwen2VLProcessor",
            }
        )
    )
    (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEO_PART))
    (folder / "processor_config.json").unlink()


@NO_TORCHVISION
@pytest.mark.filterwarnings("ignore:pictures only")
@pytest.mark.parametrize("layout", [whole, older])
def test_layouts_of_the_hub(layout, tmp_path):
    direct = saved("qwen2_vl", tmp_path)
    layout(tmp_path)
    _, processor = vtokens.load(tmp_path)
    groups = [[image(100, 60, seed=3)]]
    batch, expected = (inputs(p, ["what is <image> this?"], groups) for p in (processor, direct))
    for name in expected:
        assert torch.equal(batch[name], expected[name]), name


@pytest.mark.parametrize("family", VIDEO_TOO)
def test_a_video_is_refused_and_no_frame_of_it_is_looked_at(family):
    _, processor = build(family)
    frames = [image(56, 56, seed=i) for i in range(4)]
    with pytest.raises(ImportError, match=r"prepares videos with torchvision.*pip install 'torchvision==0\.\d+\.\*'"):
        processor(text=processor.video_token, videos=[frames], return_tensors="pt")
    with pytest.raises(ImportError, match="torchvision"):
        processor(None, processor.video_token, [frames])
    template = "{% for m in messages %}{% for c in m['content'] %}<video>{% endfor %}{% endfor %}"
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}]}]
    with pytest.raises(ImportError, match="torchvision"):
        processor.apply_chat_template(chat, chat_template=template, tokenize=True, return_dict=True)


@pytest.mark.parametrize("family", VIDEO_TOO)
def test_copies_are_of_the_same_class(family):
    _, processor = build(family)
    for copied in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert type(copied) is type(processor)
        assert copied.to_dict() == processor.to_dict()


@NO_TORCHVISION
@pytest.mark.filterwarnings("ignore:pictures only")
@pytest.mark.parametrize("layout", [whole, older])
def test_what_is_saved_again_still_has_its_video_part_and_the_name_of_the_genuine_class(layout, tmp_path):
    saved("qwen2_vl", tmp_path)
    layout(tmp_path)
    _, processor = vtokens.load(tmp_path)
    again = tmp_path / "again"
    processor.save_pretrained(again)
    settings = json.loads((again / "processor_config.json").read_text())
    assert settings["processor_class"] == "Qwen2VLProcessor"
    assert {name: settings["video_processor"][name] for name in VIDEO_PART} == VIDEO_PART
    assert "laid_aside" not in settings


@pytest.mark.parametrize("genuine", [LlavaNextVideoProcessor, VideoLlavaProcessor])
def test_parts_keep_their_places_whatever_their_order(genuine, tmp_path):
    """These two name their parts in other orders, and hand them on by position."""
    _, llava = build("llava_next")
    kind = pictures_only(genuine)
    made = kind(image_processor=llava.image_processor, tokenizer=llava.tokenizer, patch_size=14)
    made.save_pretrained(tmp_path)
    for processor in (made, kind.from_pretrained(tmp_path)):
        assert type(processor.tokenizer) is type(llava.tokenizer)
        assert processor.image_processor.size == llava.image_processor.size
        assert processor.patch_size == 14
        assert not hasattr(processor, "video_processor")
