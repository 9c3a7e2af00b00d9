"""Features added behind the first decoder layers follow dropped tokens, videos, merged tokens and second sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, check_tokens
from tests.engine.contrasted import check_answers, contrasted, expect
from tests.engine.masked import dropped_keys, masking
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.engine.plan import Plan
from vtokens.engine.stages.encode import merge_features
from vtokens.engine.stages.tower_call import TowerCall
from vtokens.engine.state.injection import Injection
from vtokens.engine.state.view import View
from vtokens.strategies import Saliency
from vtokens.strategies.merge.dymu import Dymu

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "qwen3_vl"


def mixed(seed: int = 0) -> dict[str, Any]:
    """One sample with a video of three frames before a picture; Qwen3-VL writes the time in front of each frame."""
    config = model(FAMILY, "plain").config
    picture = inputs(FAMILY, ["<image>"], [[image(84, 112, seed=seed)]])
    text, frame = torch.arange(65, 75), torch.full((6,), config.video_token_id)
    still = torch.full((int(picture["image_grid_thw"].prod()) // 4,), config.image_token_id)
    parts = (text[:3], frame, text[3:4], frame, text[4:5], frame, text[5:7], still, text[7:])
    ids = torch.cat(parts)[None]
    kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": kinds,
        "pixel_values": picture["pixel_values"],
        "image_grid_thw": picture["image_grid_thw"],
        "pixel_values_videos": torch.randn(3 * 4 * 6, 3 * 2 * 14 * 14, generator=generator),
        "video_grid_thw": torch.tensor([[3, 4, 6]]),
    }


@pytest.mark.parametrize(
    "spec", ["cls(keep=0.4)", "fastv(keep=0.4, layer=1)", "todre(keep=0.5)+fastv(keep=3, layer=2)"]
)
@pytest.mark.parametrize("names", [("pixel_values_videos", "video_grid_thw"), ()])
def test_a_video_and_a_picture_pruned_equal_masked(spec: str, names: tuple[str, ...]) -> None:
    """A video beside a picture, and alone: one run of the tower for each, and the features of each where it stands."""
    batch = mixed()
    if names:  # the video alone
        still = batch["input_ids"] == model(FAMILY, "plain").config.image_token_id
        batch = {key: value for key, value in batch.items() if "image" not in key and key != "pixel_values"}
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            batch[key] = batch[key][:, ~still[0]]
    target, reference = model(FAMILY, "pruned"), model(FAMILY, "plain", "eager")
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    assert sorted(len(part.picture) for part in report.samples[0].pictures) == [12, 18][bool(names) :]
    assert min(report.samples[0].visual_tokens) < max(report.samples[0].visual_tokens) or "fastv" not in spec
    with masking(reference, dropped_keys(report, batch["attention_mask"])):
        check_tokens(got, reference.generate(**batch, **GREEDY, **DETAILS), GREEDY["max_new_tokens"])


def test_scores_of_a_video_are_taken_once() -> None:
    """`get_video_features` calls `get_image_features`: one run, of the video, with the scores of an image's frames."""
    target, batch = model(FAMILY, "pruned"), mixed()
    with vtokens.attach(target, "cls(keep=2)"):
        output = target.model.get_video_features(
            batch["pixel_values_videos"], batch["video_grid_thw"], return_dict=True
        )
        [run] = [part.run for name, part in output.items() if name == "_vtokens_tower_run"]
        frames = batch["video_grid_thw"].repeat_interleave(3, 0)
        frames[:, 0] = 1
        stills = target.model.get_image_features(batch["pixel_values_videos"], frames, return_dict=True)
        [other] = [part.run for name, part in stills.items() if name == "_vtokens_tower_run"]
    assert (run.modality, other.modality) == ("video", "image")
    assert [len(part) for part in run.pictures] == [18]
    close_pass(run.saliency(Saliency()), other.saliency(Saliency()))


@pytest.mark.parametrize("index", [1, 2])
def test_a_layer_strategy_drops_behind_the_addition(index: int) -> None:
    """States that strategies select from are those that the untouched model's layer gets."""
    batch = dict(inputs(FAMILY, ["what is <image> this?"], [[image(84, 112, seed=0)]]))
    target, seen = build(FAMILY)[0], []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    expected = target(**batch).logits
    hook = target.model.language_model.layers[index].register_forward_pre_hook(note, with_kwargs=True)
    target(**batch)
    hook.remove()
    with vtokens.attach(target, f"fastv(keep=12, layer={index})"):
        hook = target.model.language_model.layers[index].register_forward_pre_hook(note, with_kwargs=True)
        assert torch.equal(target(**batch).logits, expected)
        hook.remove()
    plain, attached = seen
    assert torch.equal(plain, attached)
    assert target.config.vision_config.deepstack_visual_indexes == [0, 1, 2]


def test_another_prompt_has_the_features_of_its_pictures_where_they_stand() -> None:
    """The negative prompt of `lqcd` holds them elsewhere in the text: as the untouched model says it."""
    target, plain = model(FAMILY, "pruned"), model(FAMILY, "plain")
    pictures = [[image(84, 112, seed=0), image(60, 60, seed=2)]]
    batch = dict(inputs(FAMILY, ["Which is red, <image> or <image>?"], pictures))
    other = dict(inputs(FAMILY, ["<image> and so on and on: <image> what do you see"], pictures))
    options = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": 10**6}
    with vtokens.attach(target, "lqcd(alpha=1.0, beta=0.02)") as handle, handle.negative_prompt(**other):
        got = target.generate(**batch, **options, **DETAILS)
    check_answers(got, expect(plain, batch, [other], contrasted(1.0, 0.02), **options))


def test_more_features_than_layers_are_refused() -> None:
    """What is added behind the last layer has no strategy behind it; said before the pass, which then runs plain."""
    target, _ = build(FAMILY, text_config={"num_hidden_layers": 3})
    batch = dict(inputs(FAMILY, ["what is <image> this?"], [[image(84, 112, seed=0)]]))
    expected = target(**batch).logits
    with (
        vtokens.attach(target, "uniform(keep=0.5)"),
        pytest.raises(ValueError, match=r"deepstack_visual_embeds holds 3 entries, and the decoder has 3 layers"),
    ):
        target(**batch)
    with vtokens.attach(target, "none"):
        assert torch.equal(target(**batch).logits, expected)


def test_rows_of_an_injection_by_hand() -> None:
    """Positions 1 to 3 hold features 0 to 2; the second is dropped, the third was blanked."""
    injection = Injection([torch.tensor([[10.0], [20.0], [30.0]])], torch.tensor([[-1, 0, 1, 2, -1]]))
    hidden = torch.arange(5.0)[None, :, None]
    assert injection.add(0, hidden, None) is hidden
    assert injection.add(2, hidden, None) is hidden
    assert injection.add(1, hidden, None).flatten().tolist() == [0, 11, 22, 33, 4]
    index = torch.tensor([[0, 1, 3, 4]])
    view: Any = View(index, None, None)  # type: ignore[arg-type]  # the layout of what is seen has no part in it
    assert injection.add(1, hidden[:, index[0]], view).flatten().tolist() == [0, 11, 33, 4]
    blanked = injection.without(torch.tensor([[False, False, False, True, False]]))
    assert blanked.add(1, hidden, None).flatten().tolist() == [0, 11, 22, 3, 4]
    here, there = torch.tensor([[False, True, True, True]]), torch.tensor([[False, True, True, True, False]])
    assert injection.moved({"image": here}, {"image": there}).feature.tolist() == [[-1, 0, 1, 2]]


def test_features_in_one_tensor_stay_one_tensor() -> None:
    """Merged behind the tower, features that come as a tensor go back as one, with what a tuple of them gets."""
    adapter, strategy = adapter_for(model(FAMILY, "plain")), Dymu((0.5, 0.4))
    features = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    features[:, 5:] = features[:, :1] + 0.01

    def merged(given: Any) -> Any:
        inputs = {"image_grid_thw": torch.tensor([[1, 6, 6]] * 2)}
        return merge_features(TowerCall(adapter, Plan(adapter, [strategy]), "image", inputs), given)

    one, several = merged(features), merged(tuple(features))
    assert isinstance(one, Tensor)
    assert isinstance(several, tuple)
    assert torch.equal(one, torch.stack(several))
    assert not torch.equal(one, features)
