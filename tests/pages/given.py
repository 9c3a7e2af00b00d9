"""What the blocks of a page take for granted: names that its text tells of, and small files that it names."""

from __future__ import annotations

import json
from pathlib import Path

from tests.video import files
from vtokens import scenes
from vtokens.scenes import clips

ELSEWHERE = {
    "docs/add-a-model.md": "tests/test_adapter_example.py",
    "docs/add-a-strategy.md": "tests/strategies/test_docs.py",
    "docs/deploy.md": "tests/integrations/test_ray_serve.py",
    "docs/kernels.md": "tests/kernels/test_page.py",
    "docs/serve.md": "tests/serve/test_docs.py",
}
"""Pages whose Python is run by a test of its own, against what it needs: a server, a cluster, an installed package."""

_MODEL = """
import vtokens
from vtokens import scenes
model, processor = vtokens.load("scenes-llava")
example = scenes.examples("test", n=1, kinds=["where"])[0]
picture = image = example.image
prompt = scenes.prompt(processor, example.question)
inputs = processor(images=image, text=prompt, return_tensors="pt")
"""
_CLIP = """
from vtokens import video
model, processor = vtokens.load("scenes-qwen")
clip = video.read("clip.mp4", frames=8)
text = processor.apply_chat_template(
    [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way does the red ring move?"}]}],
    add_generation_prompt=True,
)
inputs = processor(
    text=text, videos=[clip.frames], video_metadata=[clip.metadata], do_sample_frames=False, return_tensors="pt"
)
"""
_LABELLED = """
from vtokens.filter.calibrators.labels import label_scenes
drawn = {str(n): one for n, one in enumerate(scenes.examples("test", n=80))}
labelled, half = [(name, one.image, "Describe the image.") for name, one in drawn.items()], 40
vtokens.attach(hf.model, "random(keep=0.05)")  # so that something is wrong
is_wrong = lambda mention: label_scenes(drawn[name], [mention])[0]
"""
_TASK = """
shown = [inputs]
others = [one for one in scenes.examples("test", n=3, kinds=["where"])]
asked = [
    (
        processor(images=one.image, text=scenes.prompt(processor, one.question), return_tensors="pt"),
        processor.tokenizer(one.answer, add_special_tokens=False)["input_ids"][0],
    )
    for one in others
]
"""
_TASKS = """
from lmms_eval.tasks import TaskManager
from vtokens.eval.tasks import tasks_path
manager = TaskManager(include_path=str(tasks_path(n=4)))
"""
GIVEN = {
    "docs/evaluation.md": [("VTokens.of", _MODEL + _TASKS)],
    "docs/filter.md": [("hf = ", _MODEL), ("in labelled", _LABELLED)],
    "docs/heads.md": [("press(", _MODEL + _TASK)],
    "docs/recipes.md": [
        ("import crop", _MODEL),
        ("Zoom(", 'pictures = [picture, scenes.examples("test", n=2)[1].image]\n'),
        ("search_frames", _CLIP),
        ("quota(", _CLIP),
        ("opera(", _MODEL),
    ],
    "docs/video.md": [("video.read", "import vtokens\n" + _CLIP)],
}
"""Page -> what a block holds, and code that runs before the first one that holds it."""


def fill(folder: Path) -> None:
    """Put the files into `folder` that the pages' commands and blocks name."""
    drawn = [one.image for one in scenes.examples("test", n=6)]
    for name, picture in zip(("photo.jpg", "photo.png", "scene.png", "before.png", "after.png"), drawn, strict=False):
        picture.save(folder / name)
    (folder / "photos").mkdir()
    for number, picture in enumerate(drawn[:4]):
        picture.save(folder / "photos" / f"{number}.jpg")
        (folder / "photos" / f"{number}.txt").write_text("A red circle.")  # a caption, for `ara`
    rows = [{"id": n, "image": f"{n}.jpg", "caption": "A red circle."} for n in range(4)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frames = list(clips.examples("test", n=1, frames=16)[0].video.frames)
    files.write(folder / "clip.mp4", frames * 6, rate=1)  # a frame a second, for a minute and a half
    files.write(folder / "film.mp4", frames * 2, rate=1)
