"""Gemma 4: padded patches pooled to tokens, blocks in layers with a window, inputs by layer, videos, audio."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, check_rows_alone, check_rows_of_attention, check_tokens, ragged
from tests.engine.masked import dropped_keys, masking
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import probe
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "gemma4"
LAYERS = ["sliding_attention"] * 3 + ["full_attention"]
SPEC = "cls(keep=0.5)+fastv(keep=0.5, layer=2)"
AUDIO = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "subsampling_conv_channels": [128, 4],
    "output_proj_dims": 32, "attention_chunk_size": 4, "attention_context_left": 5, "conv_kernel_size": 3,
}  # fmt: skip


@cache
def variant(role: str, attention: str = "sdpa", **text: Any) -> Any:
    """A model with other settings of its decoder; the same weights for every role."""
    more = {"audio_config": AUDIO} if text.pop("audio", False) else {}
    text |= {"layer_types": LAYERS} if "sliding_window" in text else {}
    return build(FAMILY, attn_implementation=attention, text_config=text, **more)[0]


def frames(count: int, wide: int = 96, high: int = 64) -> dict[str, Tensor]:
    """A video whose frames are framed with their seconds, and a question, padded as a batch of pictures is."""
    _, processor = build(FAMILY)
    tok, patches = processor.tokenizer, processor.image_processor
    made = patches(
        [image(wide, high, seed=7 + number) for number in range(count)], do_resize=False, return_tensors="pt"
    )
    tokens = int(made["num_soft_tokens_per_image"][0])
    shown = " ".join(
        f"00:0{number} {tok.boi_token}{tok.video_token * tokens}{tok.eoi_token}" for number in range(count)
    )
    batch = dict(tok([f"see {shown} what moves?"], return_tensors="pt"))
    batch["mm_token_type_ids"] = 2 * (batch["input_ids"] == tok.video_token_id).long()
    batch["pixel_values_videos"] = made["pixel_values"][:, : 4 * tokens + 8]
    batch["video_position_ids"] = made["image_position_ids"][:, : 4 * tokens + 8]
    return {**batch, "num_frames_per_video": torch.tensor([count])}


@pytest.mark.parametrize("spec", [SPEC, "fastv(keep=0.3, layer=1)", "todre"])
@pytest.mark.parametrize("window", [12, 4096])
def test_rows_of_a_batch_answer_as_alone(spec: str, window: int) -> None:
    if spec == "todre" and window == 12:
        spec = "todre(exit_threshold=None)"  # to look whether to exit, it reads several rows, which is refused
    check_rows_alone(variant("pruned", sliding_window=window), FAMILY, spec)


def test_scores_are_pooled_as_features_are() -> None:
    """By the positions that patches say they have; what pads them has no vote."""
    target, batch = model(FAMILY, "pruned"), ragged(FAMILY)
    eager = build(FAMILY, attn_implementation="eager")[0]
    places, maps = batch["image_position_ids"], []
    last = eager.model.vision_tower.encoder.layers[-1].self_attn
    hook = last.register_forward_hook(lambda *call: maps.append(call[-1][1]))
    eager.model.get_image_features(batch["pixel_values"], places)
    hook.remove()
    found = probe(target, batch, Saliency())[Saliency()]
    assert len(found) == len(places) == 3
    for mine, seen, where in zip(found, maps[0], places, strict=True):
        real = where[:, 0] >= 0
        votes = seen.mean(0)[real][:, real].sum(0)
        wide, high = (where.amax(0) + 1).tolist()
        plane = torch.zeros(high, wide).index_put((where[real, 1], where[real, 0]), votes)
        close_pass(mine, plane.view(high // 2, 2, wide // 2, 2).mean((1, 3)).flatten())


@pytest.mark.parametrize("rows", ["last", "text", "visual"])
@pytest.mark.parametrize("layer", [0, 1])
def test_attention_is_that_of_the_model(rows: Any, layer: int) -> None:
    """Rows inside a picture see the rest of it in layers with a window, and not in others."""
    maps, visual = check_rows_of_attention(FAMILY, layer, rows)
    first = int(visual.nonzero()[0])
    behind = maps[first, first + 1 :][visual[first + 1 :]]
    assert bool((behind > 0).all()) == (layer == 0)


@pytest.mark.parametrize("spec", [SPEC, "evs(keep=0.5)", "uniform(keep=0.5)+fastv(keep=0.4, layer=1)"])
def test_videos_are_pruned_as_masked(spec: str) -> None:
    pruned, reference, batch = model(FAMILY, "pruned"), model(FAMILY, "plain", "eager"), frames(3)
    with vtokens.attach(pruned, spec) as handle:
        got = pruned.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    (picture,) = report.samples[0].pictures
    assert picture.picture.grids == ((3, 2, 3),)
    with masking(reference, dropped_keys(report, batch["attention_mask"])):
        expected = reference.generate(**batch, **GREEDY, **DETAILS)
    check_tokens(got, expected, 5)


def test_frames_of_other_sizes_are_refused() -> None:
    batch = frames(2)
    wide = batch["video_position_ids"][1].clone()
    wide[wide[:, 0] >= 4] = -1  # as if the second frame were narrower
    batch["video_position_ids"][1] = wide
    with pytest.raises(ValueError, match=r"frames of one video have \[\[2, 3\], \[2, 2\]\] rows and columns of tokens"):
        adapter_for(model(FAMILY, "pruned")).pictures("video", batch)


def test_audio_is_left_alone() -> None:
    """Beside a picture that is pruned, as masked."""
    pruned, reference = variant("pruned", "eager", audio=True), variant("plain", "eager", audio=True)
    tok = build(FAMILY)[1].tokenizer
    sound = {"input_features": torch.randn(1, 32, 128, generator=torch.Generator().manual_seed(3))}
    sound["input_features_mask"] = torch.ones(1, 32, dtype=torch.bool)
    heard = len(reference.model.get_audio_features(**sound).pooler_output[0])
    text = f"Look: <image> and hear {tok.boa_token}{tok.audio_token * heard}. Well?"
    batch = {**inputs(FAMILY, [text], [[image(100, 60, seed=3)]]), **sound}
    batch["mm_token_type_ids"] = batch["mm_token_type_ids"] + 3 * (batch["input_ids"] == tok.audio_token_id)
    with vtokens.attach(pruned, SPEC) as handle:
        got, report = pruned(**batch).logits, handle.report()
    with masking(reference, dropped_keys(report, batch["attention_mask"])):
        expected = reference(**batch).logits
    close_pass(got, expected)
    kept = torch.from_numpy(report.samples[0].positions[-1])
    assert torch.isin((batch["input_ids"][0] == tok.audio_token_id).nonzero()[:, 0], kept).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"use_bidirectional_attention": "all"}, "its layers see all that comes after them"),
    ],
)
def test_what_is_not_carried_is_refused_at_attach(text: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"a Gemma4TextModel as decoder is not supported: {says}"):
        vtokens.attach(variant("refused", **text), "uniform(keep=0.5)")


def shared(attention: str = "sdpa", window: int = 4096) -> Any:
    """A model whose layers 4 and 5 attend to the keys of layers 2 and 3."""
    types = ["sliding_attention"] * 3 + ["full_attention", "sliding_attention", "full_attention"]
    settings = {"num_hidden_layers": 6, "layer_types": types, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    return build(FAMILY, attn_implementation=attention, text_config={**settings, "sliding_window": window})[0]


@pytest.mark.parametrize(
    "spec", ["cls(keep=0.5)+fastv(keep=0.5, layer=2)", "fastv(keep=0.3, layer=1)", "cls(keep=0.3)"]
)
@pytest.mark.parametrize(("window", "options"), [(4096, {}), (12, {}), (4096, {"num_beams": 3})])
def test_shared_keys_are_those_of_what_was_kept(spec: str, window: int, options: dict[str, Any]) -> None:
    """Pruned equals masked, in two turns; as many rows enter the layers that share as any other."""
    pruned, reference, batch = shared(window=window), shared("eager", window), ragged(FAMILY)
    follow = inputs(FAMILY, ["And?"])["input_ids"].expand(3, -1)
    with vtokens.attach(pruned, spec) as handle:
        got = pruned.generate(**batch, **GREEDY, **DETAILS, **options)
        report = handle.report()
        copies = len(report.samples) // 3
        valid = batch["attention_mask"].repeat_interleave(copies, 0)
        with masking(reference, dropped_keys(report, valid)):
            expected = reference.generate(**batch, **GREEDY, **DETAILS, **options)
            check_tokens(got, expected, 5)
            if options:
                return
            ids = torch.cat([got.sequences, follow], 1)
            mask = torch.cat(
                [batch["attention_mask"], torch.ones(3, ids.shape[1] - batch["attention_mask"].shape[1])], 1
            )
            both = [
                model_.generate(
                    input_ids=ids, attention_mask=mask.long(), **GREEDY, **DETAILS,
                    **as_cache(model_, returned_cache(before)),
                )
                for model_, before in ((pruned, got), (reference, expected))
            ]  # fmt: skip
    check_tokens(*both, 5)


def test_a_pass_with_shared_keys_and_nothing_to_drop_changes_no_bit() -> None:
    target, plain, batch = shared(), shared(), ragged(FAMILY)
    with vtokens.attach(target, "cls(keep=1.0)"):
        got = target.generate(**batch, **GREEDY, **DETAILS)
    expected = plain.generate(**batch, **GREEDY, **DETAILS)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got.logits, expected.logits, strict=True))


def test_shared_layers_cache_nothing() -> None:
    """So that the report counts the keys of four layers."""
    target, batch = shared(), ragged(FAMILY)
    with vtokens.attach(target, "cls(keep=0.5)") as handle:
        cache = returned_cache(target(**batch, use_cache=True))
        report = handle.report()
    held = [layer.keys for layer in cache.layers[:4]]
    assert all(layer.keys is None for layer in cache.layers[4:])
    assert report.kv_bytes == 2 * 4 * sum(part.numel() for part in held)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("fastv(keep=0.5, layer=3)", "drops tokens before layer 3: 1 to 2 are allowed"),
        ("vhr", "does more than drop tokens"),
        ("vcd", "does more than drop tokens"),
    ],
)
def test_what_shared_keys_do_not_carry_is_refused_at_attach(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=rf"from 4 on attend to keys of layers 2 to 3 .* {says}"):
        vtokens.attach(shared(), spec)


def test_shared_keys_in_a_static_cache_are_refused() -> None:
    target = shared()
    with (
        vtokens.attach(target, "cls(keep=0.5)"),
        pytest.raises(ValueError, match="layers share their keys in this Static"),
    ):
        target.generate(**ragged(FAMILY), **GREEDY, cache_implementation="static")
