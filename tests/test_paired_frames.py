"""Videos without torchvision: frames of the right size are prepared as torchvision would, others refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoVideoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

import vtokens
from vtokens.loading.paired import PairedFrames, paired_frames
from vtokens.scenes.qwen.model import build_model, processor_settings, save

SETTINGS = processor_settings()
VIDEO = SETTINGS["video_processor"]


def pictures(**other):
    named = {k: v for k, v in SETTINGS["image_processor"].items() if k != "image_processor_type"}
    return Qwen2VLImageProcessorPil(**{**named, **other})


@pytest.fixture(scope="module")
def part():
    return PairedFrames(pictures(), VIDEO, "needs more")


def frames(count, height=96, width=96):
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_patches_are_cut_as_the_model_reads_them(part):
    """The first patch of the second step, and one in the middle, against the pixels they are of."""
    video = frames(6)
    made = part(video)
    assert made["video_grid_thw"].tolist() == [[3, 16, 16]]
    patches = made["pixel_values_videos"].view(3, 8, 8, 2, 2, 3, 2, 6, 6)
    mean, std = (np.array(v) for v in (part.pictures.image_mean, part.pictures.image_std))
    values = (video / 255 - mean) / std
    for step, row, column, down, right in ((1, 0, 0, 0, 0), (2, 3, 5, 1, 0)):
        top, left = row * 12 + down * 6, column * 12 + right * 6
        wanted = values[2 * step : 2 * step + 2, top : top + 6, left : left + 6].transpose(3, 0, 1, 2)
        found = patches[step, row, column, down, right].numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_odd_number_of_frames_ends_with_the_last_one_twice(part):
    video = frames(5)
    made, wanted = part(video), part(np.concatenate([video, video[-1:]]))
    assert torch.equal(made["pixel_values_videos"], wanted["pixel_values_videos"])


def test_several_videos_follow_each_other(part):
    both = part([frames(4), frames(2)])
    assert both["video_grid_thw"].tolist() == [[2, 16, 16], [1, 16, 16]]
    alone = [part(video)["pixel_values_videos"] for video in (frames(4), frames(2))]
    assert torch.equal(both["pixel_values_videos"], torch.cat(alone))
    assert [m.total_num_frames for m in both["video_metadata"]] == [4, 2]


def test_a_video_of_one_frame_twice_is_its_picture(part):
    frame = frames(1)[0]
    picture = part.pictures([Image.fromarray(frame)], return_tensors="pt")["pixel_values"]
    assert torch.equal(part(np.stack([frame, frame]))["pixel_values_videos"], picture)


def test_frames_that_have_to_be_resized_are_refused(part):
    with pytest.raises(ImportError, match="frames of 128 x 96 pixels have to become 108 x 72: that needs more"):
        part(frames(2, 96, 128))
    with pytest.raises(ImportError, match=r"shape \(2, 96, 96, 3\) and type float32 needs more"):
        part(frames(2).astype(np.float32))
    with pytest.raises(ValueError, match="do_sample_frames=True is not possible without torchvision"):
        part(frames(2), do_sample_frames=True)


def test_only_processors_that_prepare_frames_as_pictures_are_given_one():
    assert paired_frames(pictures(), VIDEO, "") is not None
    assert paired_frames(pictures(), None, "") is None
    assert paired_frames(pictures(), {**VIDEO, "video_processor_type": "Qwen3VLVideoProcessor"}, "") is None
    assert paired_frames(pictures(), {**VIDEO, "image_mean": [0.5, 0.5, 0.5]}, "") is None
    assert paired_frames(pictures(patch_size=8), VIDEO, "") is None
    assert paired_frames(pictures(), {**VIDEO, "size": {"height": 96, "width": 96}}, "") is None


def test_older_names_of_the_size_go_before(part):
    older = paired_frames(pictures(), {**VIDEO, "min_pixels": 144, "max_pixels": 20_000}, "needs more")
    assert (older.least, older.most, older.fixed_size, part.fixed_size) == (144, 20_000, False, True)
    assert older(frames(2, 96, 120))["video_grid_thw"].tolist() == [[1, 16, 20]]


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here, and prepares videos")
def test_a_model_that_sees_one_size_is_loaded_without_a_warning(tmp_path):
    save(build_model(0), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, processor = vtokens.load(tmp_path)
    processor.save_pretrained(tmp_path / "again")
    assert "video_processor_type" in (tmp_path / "again" / "processor_config.json").read_text()
    with pytest.raises(ImportError, match=r"frames of 100 x 96 .* prepares videos with torchvision, .* pip install"):
        processor(text=processor.video_token, videos=[frames(2, 96, 100)], do_sample_frames=False)


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision is not here")
def test_the_genuine_part_gives_the_same(part, tmp_path):
    save(build_model(0), tmp_path)
    genuine = AutoVideoProcessor.from_pretrained(tmp_path)
    wanted = genuine([frames(5), frames(2)], do_sample_frames=False, return_tensors="pt")
    found = part([frames(5), frames(2)])
    torch.testing.assert_close(found["pixel_values_videos"], wanted["pixel_values_videos"], atol=1e-5, rtol=0)
    assert torch.equal(found["video_grid_thw"], wanted["video_grid_thw"])
