"""A modality that is left alone, the audio of omni models: never dropped, no text, and kept where pictures are not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
)

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, check_tokens
from tests.engine.contrasted import check_answers, contrasted, expect, guided, ruled_out
from tests.engine.dense import attending
from tests.engine.masked import dropped_keys, masking
from tests.engine.test_attend_equals_dense import oracle, sinks
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import build, image
from tests.limits import close_pass
from tests.strategies.helpers import pair, probe
from vtokens.adapters import adapter_class, register_adapter
from vtokens.core.compat import as_cache, returned_cache
from vtokens.core.facts import Facts
from vtokens.strategies import Attention, Relevance
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.visuals import Visuals

OMNI = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
SPECS = ("cls(keep=0.4)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)", "todre(keep=0.5)")
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SOUND = "<|audio_start|><|audio_pad|><|audio_end|>"

pytestmark = [pytest.mark.parametrize("family", OMNI), pytest.mark.usefixtures("no_grad")]


def sound(seconds: float, seed: int) -> Any:
    """Noise at 16 kHz."""
    return np.random.default_rng(seed).normal(size=int(16000 * seconds)).astype(np.float32)


def heard(family: str, texts: list[str], seed: int = 0, side: str = "left") -> dict[str, Any]:
    """A batch of texts with pictures and sounds, by the genuine processor; sounds differ in length."""
    pictures = [image(84 + 28 * n, 84, seed=seed + n) for n in range("".join(texts).count(PICTURE))]
    sounds = [sound(0.2 + 0.1 * n, seed + n) for n in range("".join(texts).count(SOUND))]
    return dict(
        pair(family)[1](
            text=texts, images=pictures or None, audio=sounds or None, padding=True, padding_side=side,
            return_tensors="pt",
        )
    )  # fmt: skip


RAGGED = [f"Listen: {SOUND} what {PICTURE}{SOUND} is it?", f"{PICTURE} hi {SOUND}", f"Only {SOUND} here"]


def audio_places(family: str, batch: dict[str, Any]) -> Tensor:
    places: Tensor = batch["input_ids"] == pair(family)[1].audio_token_id
    return places


def sounding_video(family: str) -> dict[str, Any]:
    """A video of three frames with its sound, whose tokens take turns as the family's positions want them."""
    model_, processor = pair(family)
    frames = [image(84, 56, seed=n) for n in range(3)]
    made = processor(text=[PICTURE] * 3, images=frames, return_tensors="pt", padding=True)
    grid = made["image_grid_thw"][:1].clone()
    tokens, grid[0, 0] = int(grid.prod()) // 4, 3
    sample = heard(family, [f"Look: {SOUND} what happens?"])
    count = int(audio_places(family, sample).sum())
    config, ids = model_.config, sample["input_ids"][0].tolist()
    first = ids.index(config.audio_token_id)
    # Two positions a frame: audio goes in between, all that is as late or later than its frame behind it.
    if family == "qwen2_5_omni_thinker":  # chunks of a second, four positions, in which video comes first
        order = [*"v" * 2 * tokens, *"a" * min(4, count), *"v" * tokens, *"a" * max(0, count - 4)]
    else:
        order = [*"v" * tokens, *"aa", *"v" * tokens, *"a" * (count - 2), *"v" * tokens]
    mixed = [config.video_token_id if kind == "v" else config.audio_token_id for kind in order]
    end = processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    ids = [*ids[: first - 1], config.vision_start_token_id, ids[first - 1], *mixed, ids[first + count], end]
    ids += sample["input_ids"][0, first + count + 1 :].tolist()
    fed = torch.tensor([ids])
    return {
        **{name: sample[name] for name in ("input_features", "feature_attention_mask")},
        "input_ids": fed, "attention_mask": torch.ones_like(fed), "pixel_values_videos": made["pixel_values"],
        "video_grid_thw": grid, "video_second_per_grid": torch.tensor([0.5]), "use_audio_in_video": True,
    }  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", SPECS)
def test_pruned_equals_masked(family: str, spec: str, side: str) -> None:
    """Ragged rows with pictures and sounds, and one without a picture; all of the sound stays."""
    batch = heard(family, RAGGED, side=side)
    report = check_forward(batch, model(family, "pruned"), model(family, "plain", "eager"), spec)
    for sample, places in zip(report.samples, audio_places(family, batch), strict=True):
        for positions in sample.positions:
            assert {*places.nonzero()[:, 0].tolist()} <= {*positions.tolist()}
    assert [min(sample.visual_tokens) < max(sample.visual_tokens) for sample in report.samples] == (
        [False] * 3 if spec.startswith("cls(keep=0.4)") or "todre" in spec else [True, True, False]
    )


@pytest.mark.parametrize("spec", SPECS)
def test_a_video_whose_sound_stands_between_its_frames(family: str, spec: str) -> None:
    """`use_audio_in_video`: one picture over all its runs, in one pass and in what is generated."""
    batch, target, plain = sounding_video(family), model(family, "pruned"), model(family, "plain", "eager")
    report = check_forward(batch, target, plain, spec)
    (part,) = report.samples[0].pictures
    assert (part.picture.modality, part.picture.grids) == ("video", ((3, 2, 3),))
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    with masking(plain, dropped_keys(report, batch["attention_mask"])):
        check_tokens(got, plain.generate(**batch, **GREEDY, **DETAILS), GREEDY["max_new_tokens"])


def test_keeping_all_changes_no_bit(family: str) -> None:
    target, plain = model(family, "pruned"), model(family, "plain")
    with vtokens.attach(target, "cls(keep=1.0)+fastv(keep=1.0, layer=1)"):
        for batch in (heard(family, RAGGED), sounding_video(family)):
            assert torch.equal(target(**batch).logits, plain(**batch).logits)
            assert torch.equal(target.generate(**batch, **GREEDY), plain.generate(**batch, **GREEDY))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {}])
def test_generated_behind_sounds(family: str, options: dict[str, Any]) -> None:
    """Beams, and a second turn of sound alone over the pruned cache."""
    target, plain = model(family, "pruned"), model(family, "plain", "eager")
    batch, options = heard(family, [f"{SOUND} what {PICTURE} is it?"]), {**GREEDY, **DETAILS, **options}
    more = heard(family, [f"And {SOUND}?"], seed=5)
    with vtokens.attach(target, "cls(keep=0.6)+fastv(keep=0.5, layer=1)") as handle:
        got = target.generate(**batch, **options)
        report = handle.report()
        with masking(plain, dropped_keys(report, batch["attention_mask"].expand(len(report.samples), -1))):
            expected = plain.generate(**batch, **options)
            assert torch.equal(got.sequences, expected.sequences)
            if "num_beams" in options:
                return
            ids = torch.cat([got.sequences, more["input_ids"]], 1)
            turn = {**more, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            second = target.generate(**turn, **options, **as_cache(target, returned_cache(got)))
            wanted = plain.generate(**turn, **options, **as_cache(plain, returned_cache(expected)))
            check_tokens(second, wanted, GREEDY["max_new_tokens"])


def test_beams_that_transformers_would_give_the_wrong_recordings_are_refused(family: str) -> None:
    """It repeats what is heard (A, A, B, B) where rows need (A, B, A, B): answers are others than one by one."""
    target, plain = model(family, "pruned"), model(family, "plain")
    batch = heard(family, [f"{SOUND} or {PICTURE}{SOUND}?"])
    copies = {"do_sample": False, "num_beams": 2, "max_new_tokens": 1, "return_dict_in_generate": True}
    mixed, alone = (plain.generate(**batch, **{**copies, "num_beams": n}, output_logits=True).logits[0] for n in (2, 1))
    assert (mixed[-1] - alone[0]).abs().max() > 1e-2
    with vtokens.attach(target, "cls(keep=0.5)"), pytest.raises(ValueError, match="several audio and 2 beams"):
        target.generate(**batch, **copies)


@dataclass(frozen=True)
class Liking(Strategy):
    """Notes how relevant visual tokens are to the prompt's text, (G, M)."""

    name = "liking"
    log: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Relevance(),))

    def at_prompt(self, visuals: Visuals) -> None:
        self.log["scores"] = visuals.relevance()


def test_attention_and_relevance_of_text_leave_sounds_out(family: str) -> None:
    """What a strategy sees of text is the mean over words alone, computed from an eager copy's maps."""
    batch, text, after = heard(family, [f"Look {PICTURE}{SOUND} what?"]), Attention(1, "text"), Attention(1, "after")
    log, liking = probe(model(family, "pruned"), batch, text, after), Liking()
    with vtokens.attach(model(family, "pruned"), liking):
        model(family, "pruned")(**batch)
    eager, fed = model(family, "plain", "eager"), []
    hook = eager.model.language_model.register_forward_pre_hook(
        lambda *call: fed.append(call[2]["inputs_embeds"]), with_kwargs=True
    )
    maps = eager(**batch, output_attentions=True).attentions[1][0].mean(0)
    hook.remove()
    ids, processor = batch["input_ids"][0], pair(family)[1]
    visual, audio = ids == processor.image_token_id, audio_places(family, batch)[0]
    place = torch.arange(len(ids))
    last = int(place[visual].max())
    words = ~visual & ~audio & (place > last)
    close_pass(log[text][0, visual], maps[words].mean(0)[visual])
    close_pass(log[after][0, visual], maps[place[words][0]][visual])
    unit = torch.nn.functional.normalize(fed[0][0], dim=-1)
    close_pass(liking.log["scores"][0], (unit[visual] @ unit[words].T).mean(1))


def test_heads_are_changed_in_no_row_of_a_sound(family: str, tmp_path: Path) -> None:
    """VAR and VHR equal editing the whole matrix, in which only rows of text are edited."""
    batch, target, plain = heard(family, RAGGED[:2]), model(family, "pruned"), model(family, "plain")
    spec = f"var(min_visual=0.0, first_layer=0, min_nonsink_ratio=0.1, sinks='{sinks(family, tmp_path)}')+vhr(alpha=2)"
    with vtokens.attach(target, spec) as handle:
        got = target.generate(**batch, **GREEDY, **DETAILS)
        report = handle.report()
    dense = oracle(family, spec, report, batch["input_ids"], batch["attention_mask"])
    dense = replace(dense, text=dense.text & ~audio_places(family, batch))
    with attending(plain, dense):
        expected = plain.generate(**batch, **GREEDY, **DETAILS)
    check_tokens(got, expected, GREEDY["max_new_tokens"])
    assert not dense.close


@dataclass(frozen=True)
class Answering(Strategy):
    """Notes in which rows heads would be changed, pass by pass and sample by sample."""

    name = "answering"
    log: dict[int, list[list[int]]] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(1,))

    def at_attend(self, heads: Heads) -> None:
        rows = heads.answers
        real = torch.ones_like(rows.index, dtype=torch.bool) if rows.real is None else rows.real
        self.log[len(self.log)] = [part[keep].tolist() for part, keep in zip(rows.index, real, strict=True)]


def test_a_later_turn_of_sound_alone_has_rows_of_text_alone(family: str) -> None:
    """Behind a picture of the turn before, in the pass that brings the sound."""
    target, looking = model(family, "pruned"), Answering()
    first, more = heard(family, [f"{PICTURE} what?"]), heard(family, [f"And {SOUND} then?"], seed=5)
    with vtokens.attach(target, looking):
        output = target(**first, use_cache=True)
        mask = torch.ones(1, first["input_ids"].shape[1] + more["input_ids"].shape[1], dtype=torch.long)
        turn = {
            **more,
            "attention_mask": mask,
            "position_ids": torch.arange(mask.shape[1])[None, None].expand(3, 1, -1),
        }
        turn["position_ids"] = turn["position_ids"][..., first["input_ids"].shape[1] :]
        target(**turn, **as_cache(target, returned_cache(output)))
    assert looking.log[1] == [(~audio_places(family, more)[0]).nonzero()[:, 0].tolist()]


def test_a_prompt_without_its_pictures_keeps_its_sounds(family: str) -> None:
    """PAI holds the answer against text and sound, numbered as the untouched model numbers them."""
    target, plain = model(family, "pruned"), model(family, "plain")
    batch = heard(family, [f"Listen: {SOUND} what {PICTURE}{SOUND} is it?"])
    ids = batch["input_ids"][:, batch["input_ids"][0] != pair(family)[1].image_token_id]
    alone = {
        **{name: batch[name] for name in ("input_features", "feature_attention_mask")},
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
    }  # fmt: skip
    options = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": 10**6}
    with vtokens.attach(target, "pai(gamma=1.5, beta=0.02)"):
        got = target.generate(**batch, **options, **DETAILS)
    check_answers(got, expect(plain, batch, [alone], guided(1.5, 0.02), **options))


def test_given_answers_get_the_logits_that_written_ones_get(family: str) -> None:
    """`logits_to_keep` says where the prompt ends, though a thinker gives all logits whatever it is asked for."""
    target = model(family, "pruned")
    batch = heard(family, [f"{SOUND} what {PICTURE} is it?"])
    options = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": 10**6}
    with vtokens.attach(target, "fastv(keep=0.5, layer=2)+pai(gamma=1.5, beta=0.02)"):
        written = target.generate(**batch, **options, **DETAILS)
        ids = written.sequences[:, :-1]
        given = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = target(**given, logits_to_keep=3).logits
    assert logits.shape[1] == ids.shape[1]
    for mine, (theirs,) in zip(logits[0, -3:], written.scores, strict=True):
        one, other = ruled_out(mine), ruled_out(theirs)
        assert torch.equal(one.isinf(), other.isinf())
        close_pass(one.log_softmax(-1), other.log_softmax(-1), passes=2)


def test_another_prompt_has_the_sounds_where_they_stand_in_it(family: str) -> None:
    """The negative prompt of `lqcd`; one without their lengths, or with others, is refused."""
    target, plain = model(family, "pruned"), model(family, "plain")
    batch = heard(family, [f"{SOUND} Which is red, {PICTURE} or what?"])
    other = heard(family, [f"{PICTURE} and so on and on: {SOUND} what do you hear"])
    options = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": 10**6}
    with vtokens.attach(target, "lqcd(alpha=1.0, beta=0.02)") as handle:
        with handle.negative_prompt(**other):
            got = target.generate(**batch, **options, **DETAILS)
        check_answers(got, expect(plain, batch, [other], contrasted(1.0, 0.02), **options))
        with (
            handle.negative_prompt(input_ids=other["input_ids"]),
            pytest.raises(ValueError, match="the prompt has no feature_attention_mask"),
        ):
            target.generate(**batch, **options)
        twice = heard(family, [f"{PICTURE} and {SOUND}{SOUND}"])
        with handle.negative_prompt(**twice), pytest.raises(ValueError, match=r"hold \[\d+\] audio placeholder"):
            target.generate(**batch, **options)


def test_another_prompt_about_a_sounding_video(family: str) -> None:
    """Its frames and sound take turns in the negative prompt too, at the same seconds."""
    target, plain, batch = model(family, "pruned"), model(family, "plain"), sounding_video(family)
    ids = torch.cat([torch.tensor([[70, 71, 72]]), batch["input_ids"]], 1)
    other = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": 10**6}
    with vtokens.attach(target, "lqcd(alpha=1.0, beta=0.02)") as handle, handle.negative_prompt(**other):
        got = target.generate(**batch, **options, **DETAILS)
    check_answers(got, expect(plain, batch, [other], contrasted(1.0, 0.02), **options))


def test_sound_that_nobody_declares_is_refused(family: str) -> None:
    genuine = adapter_class(family)

    class Deaf(genuine):  # type: ignore[misc, valid-type]
        anatomy = replace(genuine.anatomy, aside={})

    register_adapter(family)(Deaf)
    try:
        with pytest.raises(ValueError, match=r"encodes audio too, and its adapter declares image, video only"):
            vtokens.attach(build(family)[0], "uniform(keep=0.5)")
    finally:
        register_adapter(family)(genuine)


def test_the_whole_model_names_its_thinker_and_is_loaded_as_one(family: str, tmp_path: Path) -> None:
    """Who attaches to the whole model is told where; `vtokens.load` of its folder gives the thinker."""
    kinds: dict[str, tuple[Any, Any]] = {
        "qwen2_5_omni_thinker": (Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration),
        "qwen3_omni_moe_thinker": (Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration),
    }
    config, kind = kinds[family]
    thinker, processor = build(family)
    whole = kind(config(thinker_config=thinker.config.to_dict(), enable_audio_output=False)).eval()
    with pytest.raises(ValueError, match=rf"{kind.__name__} is a .* around a model .*: attach to its \.thinker"):
        vtokens.attach(whole, "cls(keep=0.5)")
    batch = heard(family, RAGGED[:1])
    with vtokens.attach(whole.thinker, "cls(keep=0.5)") as handle:
        whole.thinker.generate(**batch, max_new_tokens=2)
        assert handle.report().samples[0].visual_tokens[0] == 5
    whole.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = vtokens.load(tmp_path, "cls(keep=0.5)")
    assert type(loaded) is type(thinker)
    with vtokens.attach(whole.thinker, "cls(keep=0.5)"):
        assert torch.equal(loaded(**batch).logits, whole.thinker(**batch).logits)
