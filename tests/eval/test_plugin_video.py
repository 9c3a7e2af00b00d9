"""Videos through genuine video processors. transformers builds them with torchvision only, which a CPU-only torch from
the package index does not go with: where it cannot be imported, this is skipped."""

import numpy as np
import pytest

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError) as error:
    pytest.skip(f"torchvision cannot be imported: {error}", allow_module_level=True)
pytest.importorskip("av", reason="PyAV tells what is in a video")

from transformers import (
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
)

from tests.eval import avi
from tests.eval.lmms import ask, request
from tests.families import build, image
from vtokens.eval import Journal
from vtokens.eval.lmms.model import VTokens

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")

TOKENS = {"max_new_tokens": 5, "min_new_tokens": 5}


def built(family):
    """The tiny model of a family, and its processor with the video part."""
    model, images = build(family)
    if family == "qwen2_5_vl":
        pixels = images.image_processor.size
        patches = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "cap_pixels_per_frame": False}
        return model, Qwen2_5_VLProcessor(
            images.image_processor, images.tokenizer, Qwen2VLVideoProcessor(size=dict(pixels), **patches)
        )
    side = model.config.vision_config.image_size
    return model, LlavaOnevisionProcessor(
        images.image_processor,
        images.tokenizer,
        LlavaOnevisionVideoProcessor(size={"height": side, "width": side}),
        num_image_tokens=images.num_image_tokens,
        vision_feature_select_strategy=images.vision_feature_select_strategy,
    )


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_videos_and_pictures_in_one_batch(family, tmp_path):
    rng = np.random.default_rng(0)
    clips = [avi.write(tmp_path / f"{i}.avi", list(rng.integers(0, 256, (9, 84, 84, 3), np.uint8))) for i in range(2)]
    asked = [
        request(clips[:1], "What happens?", 0, **TOKENS),
        request([image(84, 84, seed=1)], "Is there a red square in the image?", 1, **TOKENS),
        request(clips[1:], "Is there a red square?", 2, **TOKENS),
    ]
    model, processor = built(family)
    for strategy in ("none", "fastv(keep=0.5, layer=1)"):
        found, rows = {}, {}
        for size in (1, 3):
            with Journal(tmp_path, f"{strategy}{size}") as journal:
                options = {"strategy": strategy, "batch_size": size, "max_frames_num": 4, "journal": journal}
                found[size] = ask(VTokens.of(model, processor, progress=False, **options), asked)
                rows[size] = list(journal)
        assert found[3] == found[1]
        assert len({*found[1]}) > 1
        visual = [row.visual_tokens for row in rows[3]]
        assert visual == [row.visual_tokens for row in rows[1]]
        frames = 4 if family == "llava_onevision" else 2  # Qwen merges two frames into one
        assert visual[0] == visual[2] == frames * rows[1][0].grid[0] * rows[1][0].grid[1]
        if strategy != "none":
            assert rows[3][0].kept_tokens == (visual[0] + 3 * (visual[0] / 2)) / 4
            assert 0 < len(rows[3][0].kept) < len(rows[3][0].kept) * frames
