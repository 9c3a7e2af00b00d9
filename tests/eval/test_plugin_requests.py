"""What a request may bring: settings of its own, pictures in several forms, videos, or nothing to look at."""

import numpy as np
import pytest
from PIL import Image

from tests.eval import avi
from tests.eval.lmms import ask, request, simple_request
from tests.families import build
from tests.video.files import needs_av
from vtokens.eval import Journal
from vtokens.eval.lmms.generation import settings
from vtokens.eval.lmms.media import clip, content, picture
from vtokens.eval.lmms.model import VTokens, VTokensSimple
from vtokens.scenes import examples

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")

WHERE = examples("test", 4, seed=21, kinds=["where"])
CAPTION = examples("test", 4, seed=22, kinds=["caption"])


def plugin(shipped, simple=False, **options):
    return (VTokensSimple if simple else VTokens).of(*shipped, progress=False, **options)


def test_each_request_has_its_own_settings(shipped, tmp_path):
    [long] = ask(plugin(shipped), [request([CAPTION[0].image], CAPTION[0].question)])
    words = long.split()  # each is one token
    assert len(words) > 6
    asked = [
        request([CAPTION[0].image], CAPTION[0].question, 0, max_new_tokens=2),
        request([CAPTION[0].image], CAPTION[0].question, 1, max_new_tokens=40, until=[words[3], "never"]),
        request([CAPTION[0].image], CAPTION[0].question, 2, max_new_tokens=40, until=["\n\n"]),
    ]
    with Journal(tmp_path, "cell") as journal:
        short, stopped, whole = ask(plugin(shipped, batch_size=8, journal=journal), asked)
        rows = list(journal)
    assert short.split() == words[:2]
    assert stopped == long[: long.index(words[3])]
    assert whole == long
    assert [row.batch for row in rows] == [1, 1, 1]  # unlike settings share no batch
    assert [row.output_tokens for row in rows] == [2, 4, len(words) + 1]  # the last one ends with its end token


def test_a_stop_string_ends_its_row_only(shipped, tmp_path):
    texts = ask(plugin(shipped, batch_size=4), [request([e.image], e.question, d) for d, e in enumerate(CAPTION)])
    asked = [request([e.image], e.question, doc, until="circle") for doc, e in enumerate(CAPTION)]
    with Journal(tmp_path, "cell") as journal:
        cut = ask(plugin(shipped, batch_size=4, journal=journal), asked)
        rows = list(journal)
    assert cut == [text.split("circle")[0] for text in texts]
    assert {"circle" in text for text in texts} == {True, False}
    for row, text in zip(rows, texts, strict=True):
        words = text.split()
        assert row.output_tokens == (words.index("circle") if "circle" in words else len(words)) + 1


def test_sampling_follows_the_seed_and_not_the_generator_of_the_process(shipped):
    import torch

    asked = [request([e.image], e.question, doc, temperature=5.0, max_new_tokens=12) for doc, e in enumerate(CAPTION)]
    state = torch.random.get_rng_state()
    first = ask(plugin(shipped, seed=1), asked)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert ask(plugin(shipped, seed=1), asked) == first
    assert ask(plugin(shipped, seed=2), asked) != first
    again = ask(plugin(shipped, seed=1), asked * 2)  # the same document asked twice is answered twice
    assert again[:4] == first
    assert again[4:] != first


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": 0, "do_sample": True}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 0.7, "do_sample": False}, False),
        ({"do_sample": True}, True),
        ({}, False),
    ],
)
def test_when_a_request_is_sampled(given, expected):
    assert settings(given, 8).arguments["do_sample"] is expected


def test_settings_for_other_models_are_passed_over():
    read = settings({"image_aspect_ratio": "pad", "until": "stop", "num_beams": 3, "max_gen_toks": 5.0}, 8)
    assert dict(read.arguments) | {"num_beams": 3, "max_new_tokens": 5} == dict(read.arguments)
    assert "image_aspect_ratio" not in read.arguments
    assert read.stop == ("stop",)
    for wrong in ({"max_new_tokens": 0}, {"max_new_tokens": 2.5}, {"num_return_sequences": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            settings(wrong, 8)


def test_beams_cost_what_they_cost(shipped, tmp_path):
    asked = [
        request([e.image], e.question, doc, num_beams=beams)
        for doc, (e, beams) in enumerate([(WHERE[0], 1), (WHERE[0], 3)])
    ]
    with Journal(tmp_path, "cell") as journal:
        one, three = ask(plugin(shipped, strategy="cls(keep=0.5)", journal=journal), asked)
        rows = list(journal)
    assert one == three == WHERE[0].answer
    assert rows[1].flops == 3 * rows[0].flops
    assert rows[1].kept == rows[0].kept


@pytest.mark.parametrize("simple", [False, True])
def test_pictures_in_every_form(shipped, tmp_path, simple):
    ask_for = simple_request if simple else request
    example, path = WHERE[1], tmp_path / "scene.png"
    example.image.save(path)
    see_through = example.image.convert("RGBA")
    kinds = [[example.image], [see_through]]
    kinds += [[str(path)], [{"bytes": path.read_bytes(), "path": None, "type": "image"}]] if simple else []
    asked = [ask_for(visuals, example.question, doc) for doc, visuals in enumerate(kinds)]
    assert {*ask(plugin(shipped, simple, batch_size=4), asked)} == {example.answer}


def test_a_placeholder_in_the_question_is_where_the_picture_goes(shipped):
    question, image = WHERE[2].question, WHERE[2].image
    asked = [
        simple_request([image], f"<image>{question}", 0),
        simple_request([image], f"{question}<image><image>", 1),  # it does not name each picture once: taken away
    ]
    assert ask(plugin(shipped, simple=True), asked) == [WHERE[2].answer] * 2


def test_a_request_without_pictures_is_answered_and_costs_the_same_with_and_without_a_strategy(shipped, tmp_path):
    rows = {}
    for strategy in ("none", "fastv(keep=0.1)"):
        with Journal(tmp_path, strategy) as journal:
            asked = [
                request([WHERE[0].image], WHERE[0].question, 0, max_new_tokens=4),
                request([], "Is there a red circle in the image?", 1),
            ]
            asked.append(simple_request(None, "Is there a red circle in the image?", 1))
            ask(plugin(shipped, strategy=strategy, journal=journal), asked[:2])
            rows[strategy] = list(journal)
        assert ask(plugin(shipped, simple=True, strategy=strategy), asked[2:]) == [rows[strategy][1].text]
    bare = [rows[strategy][1] for strategy in rows]
    assert [(row.visual_tokens, row.kept_tokens, row.kept, row.grid) for row in bare] == [(0, 0.0, None, None)] * 2
    assert bare[0].flops == bare[1].flops == bare[1].flops_full > 0
    assert bare[0].text == bare[1].text
    assert rows["fastv(keep=0.1)"][0].flops < rows["none"][0].flops


def test_rows_with_and_without_pictures_share_a_batch(shipped):
    asked = [request([e.image], e.question, doc) for doc, e in enumerate(WHERE[:2])]
    asked.insert(1, request([], "Is there a red circle in the image?", 7))
    for strategy in ("none", "cls(keep=0.5)"):
        apart = ask(plugin(shipped, strategy=strategy), asked)
        assert ask(plugin(shipped, strategy=strategy, batch_size=3), asked) == apart


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "qwen2_5_vl"])
def test_other_families_answer_in_batches_with_several_pictures(family):
    rng = np.random.default_rng(0)
    made = build(family)
    images = [Image.fromarray(rng.integers(0, 256, (84, 84 + 28 * i, 3), dtype=np.uint8)) for i in range(4)]
    settings = {"max_new_tokens": 6, "min_new_tokens": 6}
    asked = [
        request(images[:1], "How many blue circles are there?", 0, **settings),
        request(images[1:3], "Is there a red square in the image?", 1, **settings),
        request(images[3:], "What is on the left?", 2, **settings),
    ]
    for strategy in ("none", "fastv(keep=0.5, layer=1)"):
        apart = ask(plugin(made, strategy=strategy), asked)
        assert len({*apart}) > 1
        assert ask(plugin(made, strategy=strategy, batch_size=3), asked) == apart


@needs_av
class TestVideos:
    def frames(self, count=20):
        return [np.full((96, 96, 3), 10 * i, np.uint8) for i in range(count)]

    def test_frames_are_taken_evenly(self, tmp_path):
        path = avi.write(tmp_path / "grey.avi", self.frames())
        found = clip(path, 4)
        assert found.metadata["frames_indices"] == [0, 6, 12, 19]
        assert (found.metadata["fps"], found.metadata["duration"]) == (10.0, 2.0)
        assert found.frames.shape == (4, 96, 96, 3)
        assert found.frames.dtype == np.uint8
        assert np.abs(found.frames.mean((1, 2, 3)) - [0, 60, 120, 190]).max() < 2  # JPEG rounds
        part = clip({"path": path, "video_start": 0.5, "video_end": 1.0}, 32)
        assert part.metadata["frames_indices"] == [5, 6, 7, 8, 9, 10]
        assert np.array_equal(clip(np.stack(self.frames()), 4).frames[:, 0, 0, 0], [0, 60, 120, 190])

    def test_a_model_of_pictures_sees_the_frames(self, shipped, tmp_path):
        example = WHERE[3]
        path = avi.write(tmp_path / "still.avi", [np.asarray(example.image)] * 3)
        with Journal(tmp_path, "cell") as journal:
            model = plugin(shipped, strategy="cls(keep=0.5)", max_frames_num=1, journal=journal)
            assert ask(model, [request([path], example.question)]) == [example.answer]
            model = plugin(shipped, strategy="cls(keep=0.5)", max_frames_num=8, journal=journal)
            ask(
                model,
                [request([path], example.question, 1), request([np.stack([np.asarray(example.image)] * 3)], "", 2)],
            )
            one, three, _ = journal
        assert (one.visual_tokens, three.visual_tokens) == (144, 3 * 144)
        assert three.kept_tokens == 3 * 72

    def test_what_is_no_video(self, tmp_path):
        (tmp_path / "note.mp4").write_text("nothing")
        with pytest.raises(ValueError, match=r"cannot read the video '.*note.mp4'"):
            clip(str(tmp_path / "note.mp4"), 4)
        with pytest.raises(FileNotFoundError, match=r"No such file.*gone.mp4'"):
            clip(str(tmp_path / "gone.mp4"), 4)
        with pytest.raises(TypeError, match="a video of type int"):
            clip(3, 4)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "note.png").write_text("nothing")
    with pytest.raises(OSError, match=r"cannot read the image '.*note.png'"):
        picture(str(tmp_path / "note.png"))
    with pytest.raises(FileNotFoundError, match=r"gone.png"):
        picture(str(tmp_path / "gone.png"))
    with pytest.raises(OSError, match="embedded in a document"):
        picture({"bytes": b"nothing"})
    with pytest.raises(TypeError, match="a picture of type int"):
        picture(3)
    with pytest.raises(TypeError, match="a visual of type int is not allowed"):
        content(3)


def test_sound_is_refused(shipped):
    with pytest.raises(ValueError, match="audio in a prompt is not supported"):
        ask(plugin(shipped, simple=True), [simple_request([{"array": np.zeros(3), "sampling_rate": 1}], "What?")])
