"""Static caches: under every strategy they answer as dynamic ones, and take room for what is kept."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, StaticCache

import vtokens
from tests.engine.cases import MODES, SIZES, TEXTS, model
from tests.engine.compare import DETAILS, GREEDY, SPEC, check_tokens, one, ragged
from tests.families import EVERY, FAMILIES, build, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

pytestmark = pytest.mark.usefixtures("no_grad")
NEW = 7
# Layers with and without a window; the first that has one decides what mask transformers makes.
WINDOWED: dict[str, dict[str, Any]] = {
    "gemma3": {"layer_types": ["full_attention", "sliding_attention"] * 2},
    "llava_onevision": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen2_vl": {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
}
PRUNERS = (
    "none",
    "cls(keep=0.5)",
    "fastv(keep=0.3, layer=1)",
    "random(keep=0.3)+fastv(keep=0.4, layer=3)",
    "uniform(keep=1)",
)
SPECS = (
    "none", "cls(keep=0.5)", SPEC, "fastv(keep=0.3, layer=1)", "random(keep=0.3)+fastv(keep=0.4, layer=3)",
    "todre(keep=0.4, exit_threshold=2.0)", "uniform(keep=1)", "vhr", "vhr(divergence='two_branch')",
    "cls(keep=0.5)+vhr(alpha=1.5)", "dymu(thresholds=(0.2, 0.2, 0.2))", "pai", "cls(keep=0.5)+vcd", "m3id",
)  # fmt: skip
MORE = ("vhr", "pai", "cls(keep=0.5)+vcd", "m3id", "todre(keep=0.4, exit_threshold=2.0)")  # of SPECS, for all families
PROGRAMS = ("none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)", "vhr", "todre(keep=0.5)")


@cache
def windowed(family: str, window: int, attention: str = "sdpa") -> Any:
    """A model of which some layers look back over so many positions; the same weights for all windows."""
    text = {**WINDOWED[family], "sliding_window": window}
    return build(family, attn_implementation=attention, text_config=text)[0]


def static(target: Any, room: int) -> StaticCache:
    """A static cache with room for so many fed positions."""
    return StaticCache(config=target.config.get_text_config(decoder=True), max_cache_len=room)


def large(family: str, side: int = 448) -> dict[str, Any]:
    """A single sample with many visual tokens."""
    return dict(inputs(family, ["Look: <image> what is this?"], [[image(side, side, seed=1)]]))


def answers(target: Any, batch: dict[str, Any], seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return target.generate(**batch, max_new_tokens=NEW, min_new_tokens=NEW, **DETAILS, **options)


def check(target: Any, batch: dict[str, Any], seed: int = 0, **options: Any) -> None:
    """The same answer with either cache, under what is attached."""
    expected = answers(target, batch, seed, **options)
    check_tokens(answers(target, batch, seed, cache_implementation="static", **options), expected, NEW)


@pytest.mark.parametrize("mode", ["greedy", "beam"])
@pytest.mark.parametrize("spec", SPECS)
def test_each_kind_of_strategy_answers_as_with_a_dynamic_cache(spec: str, mode: str) -> None:
    with vtokens.attach(model("qwen2_5_vl", "pruned"), spec):
        check(model("qwen2_5_vl", "pruned"), ragged("qwen2_5_vl"), **MODES[mode])


@pytest.mark.fuzz
@given(st.data())
def test_static_caches_drawn(data: Any) -> None:
    """Any family, prompts, pictures and padding, sampled or not, one strategy or a program a row."""
    window = data.draw(st.sampled_from([None, 9, 30, 4096]))
    family = data.draw(st.sampled_from(EVERY if window is None else [*WINDOWED]))
    attention = data.draw(st.sampled_from(["sdpa", "eager"]))
    groups = st.lists(st.sampled_from(SIZES), max_size=2)
    sizes = data.draw(st.lists(groups, min_size=1, max_size=3).filter(any))
    texts = [data.draw(st.sampled_from(TEXTS)).replace("<image>", "it") + "?" for _ in sizes]
    prompts = ["<image>" * len(group) + text for group, text in zip(sizes, texts, strict=True)]
    # Behind padding on the right, a token may see nothing at all in its window, and says nothing either way.
    cuts = window in (9, 30)
    seed, side = data.draw(st.integers(0, 99)), data.draw(st.sampled_from(["left"] if cuts else ["left", "right"]))
    pictures = [[image(*size, seed=seed + number) for number, size in enumerate(group)] for group in sizes]
    batch = dict(inputs(family, prompts, pictures, side))
    target = model(family, "pruned", attention) if window is None else windowed(family, window, attention)
    options = MODES[data.draw(st.sampled_from(sorted(MODES)))]
    if data.draw(st.booleans()):
        programs = [data.draw(st.sampled_from(PROGRAMS[:3] if cuts else PROGRAMS)) for _ in sizes]
        with vtokens.attach(target, "none") as handle, handle.using(programs):
            check(target, batch, seed, **options)
    else:
        specs = PRUNERS if cuts else SPECS if family in FAMILIES else PRUNERS + MORE
        with vtokens.attach(target, data.draw(st.sampled_from(specs))):
            check(target, batch, seed, **options)


@pytest.mark.parametrize(
    ("family", "window"), [*((name, None) for name in FAMILIES), *((name, 9) for name in WINDOWED)]
)
@pytest.mark.parametrize("allocated", [False, True])
def test_steps_and_turns_of_the_callers_own(family: str, window: int | None, allocated: bool) -> None:
    """Plain calls with a cache of the caller's: a prompt, steps, more text at once, another picture, steps."""
    target, batch = model(family, "pruned") if window is None else windowed(family, window), ragged(family)
    more = dict(
        inputs(family, ["<image> and this?", "no", "<image>"], [[image(60, 60, seed=7)], [], [image(84, 84, seed=8)]])
    )
    rows = len(batch["input_ids"])
    steps = [torch.full((rows, count), 65 + count) for count in (1, 1, 3, 1)]
    turns = [batch, *({"input_ids": ids} for ids in steps), more, *({"input_ids": ids} for ids in steps)]
    room = sum(turn["input_ids"].shape[1] for turn in turns) + 3
    text = target.config.get_text_config(decoder=True)
    caches = DynamicCache(config=text), static(target, room)
    if allocated:
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        caches[1].early_initialization(rows, text.num_key_value_heads, head, torch.float32, torch.device("cpu"))
    mask = torch.zeros(rows, 0, dtype=torch.long)
    with vtokens.attach(target, SPEC):
        for turn in turns:
            ids = turn["input_ids"]
            places = torch.arange(mask.shape[1], mask.shape[1] + ids.shape[1]).expand(rows, -1)
            if family.startswith("qwen"):  # any numbering will do, if both get the same
                places = places.expand(3, -1, -1)
            mask = torch.cat([mask, turn.get("attention_mask", torch.ones_like(ids))], 1)
            given = {**turn, "attention_mask": mask, "position_ids": places, "use_cache": True}
            if "token_type_ids" in turn:  # from the start of the sequence on
                kinds = turn["token_type_ids"]
                given["token_type_ids"] = torch.nn.functional.pad(kinds, (mask.shape[1] - ids.shape[1], 0))
            expected, got = (target(**given, **as_cache(target, cache)).logits for cache in caches)
            real = mask[:, -ids.shape[1] :].bool()
            close_pass(got[real], expected[real])


def test_a_window_that_is_not_known_or_was_cut_is_refused() -> None:
    """Layers that all have one do not say how many positions are to come; keys that were let go of do not come back."""
    text, batch = {"model_type": "mistral", "num_key_value_heads": 2}, one("llava")
    fed = batch["input_ids"].shape[1]
    for window, cuts in ((fed - 3, True), (fed + 100, False)):
        target = build("llava", text_config={**text, "sliding_window": window})[0]
        with vtokens.attach(target, SPEC):
            if cuts:
                with pytest.raises(ValueError, match=r"no layer of its cache is without a window"):
                    target.generate(**batch, **GREEDY, cache_implementation="static")
            else:
                check(target, batch, do_sample=False)
            target.generate(**batch, **GREEDY)
    target, batch = windowed("llava_onevision", 30), one("llava_onevision")
    kept, ids = static(target, 200), torch.full((1, 9), 70)
    target(input_ids=ids, **as_cache(target, kept), use_cache=True)
    batch["attention_mask"] = torch.cat([torch.ones_like(ids), batch["attention_mask"]], 1)
    with (
        vtokens.attach(target, SPEC),
        pytest.raises(ValueError, match="when 9 positions were fed: begin with an empty"),
    ):
        target(**batch, **as_cache(target, kept), use_cache=True)


def test_room_is_made_for_what_is_kept() -> None:
    """Each layer has slots for what it keeps and for the answer, in sixteens; prompts that keep less get as many."""
    target = build("qwen2_5_vl")[0]
    first, second = large("qwen2_5_vl"), large("qwen2_5_vl", 300)
    sizes = []
    with vtokens.attach(target, "cls(keep=0.25)+fastv(keep=0.5, layer=2)") as handle:
        for batch in (first, second):
            cache = returned_cache(answers(target, batch, do_sample=False, cache_implementation="static"))
            sizes.append([layer.keys.shape[2] for layer in cache.layers])
            assert cache.get_max_length() >= batch["input_ids"].shape[1] + NEW - 1
            if batch is first:
                kept = [len(positions) for positions in handle.report().samples[0].positions]
    assert sizes[0] == [-(-(count + NEW - 1) // 16) * 16 for count in kept]
    assert sizes[1] == sizes[0] != [first["input_ids"].shape[1] + NEW - 1] * 4


def test_a_reset_cache_serves_a_prompt_that_keeps_more() -> None:
    target, batch = model("qwen2_5_vl", "pruned"), large("qwen2_5_vl")
    room = batch["input_ids"].shape[1] + NEW
    cache, expected = static(target, room), answers(target, batch, do_sample=False)
    with vtokens.attach(target, "cls(keep=1)"):
        answers(target, batch, do_sample=False, **as_cache(target, cache))
        assert {layer.keys.shape[2] < room - 20 for layer in cache.layers} == {True}
    cache.reset()
    check_tokens(answers(target, batch, do_sample=False, **as_cache(target, cache)), expected, NEW)


def test_what_a_static_cache_cannot_hold_is_refused() -> None:
    """And the call works with another cache, or other masks."""
    target, batch = model("llava", "pruned"), one("llava")
    fed = batch["input_ids"].shape[1]
    with vtokens.attach(target, SPEC):
        with pytest.raises(ValueError, match=rf"has room for 20 positions, and {fed} are fed.*max_cache_len={fed}"):
            target(**batch, **as_cache(target, static(target, 20)), use_cache=True)
        mask = torch.ones(1, 1, fed, 128, dtype=torch.bool).tril()
        mask[..., 3] = False
        batch["attention_mask"], padding = mask.clone(), mask[:, 0, -1, :fed].long()
        seen = target(**batch, **as_cache(target, static(target, 128)), use_cache=True).logits
        close_pass(seen[:, 4:], target(**{**batch, "attention_mask": padding}).logits[:, 4:])
        mask[..., 9, 5] = False
        with pytest.raises(ValueError, match=r"only a 2-D attention_mask"):
            target(**{**batch, "attention_mask": mask}, **as_cache(target, static(target, 128)), use_cache=True)
    flexible = build("llava")[0]
    flexible.set_attn_implementation({"text_config": "flex_attention"})
    with (
        vtokens.attach(flexible, SPEC),
        pytest.raises(ValueError, match=r"'flex_attention' gives no mask .* use 'sdpa' or 'eager'"),
    ):
        flexible(**one("llava"), **as_cache(flexible, static(flexible, 128)), use_cache=True)
