"""Mllama in the calls that users make of it: turns, beams, programs by row, caches, compiled steps, what is refused."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CompileConfig, DynamicCache, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer, StaticLayer

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, GREEDY, check_programs
from tests.engine.crossed import closed_columns, closing
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import registry_restored
from vtokens.calibrate import sinks, thresholds
from vtokens.core.compat import as_cache, returned_cache
from vtokens.core.picture import Picture
from vtokens.eval.ideal import Ideal
from vtokens.strategies import Attention, Facts, LayerKeys, Needs, Relevance, Selection, Strategy, Visuals, register
from vtokens.strategies.prune.uniform import even_grid

# transformers 5.19's own tower calls its blocks by a name that it warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning"),
    pytest.mark.usefixtures("no_grad"),
]
FAMILY, TOKENS = "mllama", 10
SPEC = "cls(keep=0.4)"
PIXELS = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")


def one(prompt: str = "Look: <image> what is this?", seed: int = 0) -> dict[str, Any]:
    return dict(inputs(FAMILY, [prompt], [[image(100, 60, seed=seed)]]))


def two() -> dict[str, Any]:
    groups = [[image(100, 60, seed=1)], [image(40, 40, seed=2), image(90, 40, seed=3)]]
    return dict(inputs(FAMILY, ["<image> is it red?", "Compare <image> with <image>, please"], groups))


def later(first: dict[str, Any], text: Tensor, mask: Tensor, **more: Any) -> dict[str, Any]:
    """The arguments of a second turn."""
    padding = torch.cat([first["attention_mask"], torch.ones_like(text)], 1)
    return {"input_ids": text, "attention_mask": padding, "cross_attention_mask": mask, **more}


@pytest.mark.parametrize("whole", [False, True])
def test_a_second_turn_goes_on_from_the_keys_that_are_left(whole: bool) -> None:
    """With the mask of the new positions, or of all; and without any, when all keys are seen."""
    pruned, reference, first = model(FAMILY, "pruned"), model(FAMILY, "plain"), two()
    text = torch.randint(10, 300, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = first["cross_attention_mask"][:, -1:].expand(-1, 5, -1, -1)
    mask = torch.cat([first["cross_attention_mask"], mask], 1) if whole else mask
    with vtokens.attach(pruned, SPEC) as handle:
        cache = returned_cache(pruned(**first))
        closed = closed_columns(handle.report(), first, TOKENS)
        bare = pruned(
            **{**later(first, text, mask), "cross_attention_mask": None}, **as_cache(pruned, copy.deepcopy(cache))
        )
        got = pruned(**later(first, text, mask), **as_cache(pruned, cache))
    with closing(reference, closed):
        cache = returned_cache(reference(**first))
        close_pass(
            got.logits, reference(**later(first, text, mask), **as_cache(reference, copy.deepcopy(cache))).logits
        )
        # The oracle of no mask: one of zeros, but for what is closed.
        hook = reference.model.language_model.register_forward_pre_hook(_without_mask, with_kwargs=True)
        expected = reference(**later(first, text, mask), **as_cache(reference, cache))
        hook.remove()
    close_pass(bare.logits, expected.logits)


def _without_mask(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    mask = torch.zeros_like(kwargs["cross_attention_mask"])
    return args, {**kwargs, "cross_attention_mask": mask, "full_text_row_masked_out_mask": None}


@pytest.mark.parametrize("specs", [(SPEC, SPEC), ("none", SPEC), (SPEC, "none")])
def test_pictures_of_a_second_turn_stand_behind_those_of_the_first(specs: tuple[str, str]) -> None:
    pruned, reference = model(FAMILY, "pruned"), model(FAMILY, "plain")
    first, more = one(seed=4), one("and <image>?", seed=5)
    text = more["input_ids"]
    behind = torch.zeros(1, text.shape[1], 2, 4, dtype=torch.long)
    behind[:, :, 1:] = more["cross_attention_mask"]
    second = later(first, text, behind, **{name: more[name] for name in PIXELS})
    cache, closed = None, []
    for spec, batch in zip(specs, (first, second), strict=True):
        with vtokens.attach(pruned, spec) as handle:
            output = pruned(**batch, **({} if cache is None else as_cache(pruned, cache)))
            cache = returned_cache(output)
            closed.append(closed_columns(handle.report(), first if batch is first else more, TOKENS))
    with closing(reference, closed[0]):
        cache = returned_cache(reference(**first))
    with closing(reference, torch.cat(closed, 1)):
        close_pass(output.logits, reference(**second, **as_cache(reference, cache)).logits)


def test_rows_run_their_own_programs() -> None:
    """Beams run the program of their row, and a row that runs none is left as it is."""
    target, batch = model(FAMILY, "pruned"), two()
    check_programs(target, batch, [SPEC, "none"], **GREEDY)
    check_programs(target, batch, ["random(keep=2)", "uniform(keep=0.5)"], **GREEDY)
    with vtokens.attach(target, "none") as handle:
        with handle.using([SPEC, "none"]):
            together = target.generate(**batch, **GREEDY, num_beams=2, **DETAILS).logits
            with pytest.raises(ValueError, match="2 programs were given, and the batch has 4 rows"):
                target(**{name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in batch.items()})
            with pytest.raises(ValueError, match="2 programs were given, and the batch has 1 rows"):
                target(**one())
        with handle.using(SPEC):
            close_pass(together[0][:2], target.generate(**batch, **GREEDY, num_beams=2, **DETAILS).logits[0][:2])
        close_pass(together[0][2:], target.generate(**batch, **GREEDY, num_beams=2, **DETAILS).logits[0][2:])


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}]
)
def test_generate_is_as_without_keys_that_are_masked(options: dict[str, Any]) -> None:
    pruned, reference, batch = model(FAMILY, "pruned"), model(FAMILY, "plain"), two()
    options = {**GREEDY, **options}
    with vtokens.attach(pruned, SPEC) as handle:
        torch.manual_seed(1)
        got = pruned.generate(**batch, **options, **DETAILS)
        closed = closed_columns(handle.report(), batch, TOKENS)
    with closing(reference, closed):
        torch.manual_seed(1)
        expected = reference.generate(**batch, **options, **DETAILS)
    for mine, theirs in zip(got.logits, expected.logits, strict=True):
        close_pass(mine, theirs)
    assert torch.equal(got.sequences, expected.sequences)


def test_candidates_that_are_taken_back_leave_the_keys_alone() -> None:
    """Cropping the cache removes positions of the sequence, and no key of a picture is one."""
    target, batch = model(FAMILY, "pruned"), one()
    options = {**GREEDY, "max_new_tokens": 12, "min_new_tokens": 12}
    with vtokens.attach(target, SPEC):
        expected = target.generate(**batch, **options)
        assert torch.equal(target.generate(**batch, **options, prompt_lookup_num_tokens=3), expected)


def test_tokens_may_become_weighted_sums() -> None:
    """The first token of each picture becomes the mean of the first three; what it is summed from is dropped."""

    with registry_restored():

        @register("three_in_one")
        @dataclass(frozen=True)
        class Three(Strategy):
            def at_prompt(self, visuals: Visuals) -> Selection:
                keep = visuals.valid.clone()
                keep[:, 1:3] = False
                weights = torch.diag_embed(visuals.valid.float())[:, [0, *range(3, keep.shape[1])]]
                weights[:, 0, :3] = 1 / 3
                return Selection(keep, weights=weights)

        pruned, reference, batch = model(FAMILY, "pruned"), model(FAMILY, "plain"), one()
        with vtokens.attach(pruned, Three()) as handle:
            got = pruned(**batch).logits
            closed = closed_columns(handle.report(), batch, TOKENS)

    def mean(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        states = kwargs["cross_attention_states"].clone()
        states[0, 1] = states[0, 1:4].mean(0)  # the class token is the first of a tile
        return args, {**kwargs, "cross_attention_states": states}

    hook = reference.model.language_model.register_forward_pre_hook(mean, with_kwargs=True)
    with closing(reference, closed):
        close_pass(got, reference(**batch).logits)
    hook.remove()


def test_an_even_grid_runs_across_tiles() -> None:
    """Tiles follow each other, so that rows of the picture are not rows of its tokens."""
    target, batch = model(FAMILY, "pruned"), one()
    with vtokens.attach(target, "uniform(keep=9)") as handle:
        target(**batch)
        (kept,) = handle.report().samples[0].pictures
    _, high, wide = kept.picture.grids[0]
    places = {(int(kept.picture.y[at]), int(kept.picture.x[at])) for at in kept.kept[-1]}
    plain = Picture.of([(1, high, wide)], [False])
    chosen = even_grid(plain, 9)
    assert high * wide == kept.picture.tokens > 9
    assert places == {(int(y), int(x)) for y, x in zip(plain.y[chosen], plain.x[chosen], strict=True)}


def test_report_counts_the_keys_that_are_left() -> None:
    """Text layers cache what was fed, cross-attention layers what was kept and the class tokens."""
    target, batch = model(FAMILY, "pruned"), one()
    with vtokens.attach(target, "cls(keep=5)") as handle:
        cache = returned_cache(target(**batch))
        report = handle.report()
    assert report.samples[0].visual_tokens == (5, 5)
    assert report.kv_bytes == sum(2 * layer.keys.nbytes for layer in cache.layers)
    plain = returned_cache(model(FAMILY, "plain")(**batch))
    assert report.kv_bytes_full == sum(2 * layer.keys.nbytes for layer in plain.layers)
    assert report.flops < report.flops_full


def test_a_copy_is_attached_by_itself_and_detaching_leaves_nothing() -> None:
    target, batch = build(FAMILY)[0], one()
    before, hooks = target(**batch).logits, {id(m): len(m._forward_hooks) for m in target.modules()}
    with vtokens.attach(target, SPEC):
        pruned, twin = target(**batch).logits, copy.deepcopy(target)
        assert torch.equal(twin(**batch).logits, pruned)
    assert torch.equal(target(**batch).logits, before)
    assert {id(m): len(m._forward_hooks) for m in target.modules()} == hooks
    assert torch.equal(twin(**batch).logits, pruned)
    assert (before - pruned).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["fastv", "vcd", "pai", "vhr", "var", "dymu", "mminference", "todre"])
def test_what_needs_tokens_in_the_sequence_is_refused(name: str) -> None:
    """With the reason and what works, before anybody is sent to calibrate it."""
    says = rf"'{name}' acts at [a-z, ]+ and the visual tokens of a MllamaFor\w+ are no positions .* such as 'cls'"
    with pytest.raises(ValueError, match=says):
        vtokens.attach(model(FAMILY, "plain"), name)
    for combined in (f"cls(keep=0.5)+{name}",):
        with pytest.raises(ValueError, match=says):
            vtokens.attach(model(FAMILY, "plain"), combined)


def test_features_without_a_tower_run_are_refused() -> None:
    """Which of them are padding is not known."""
    target, batch = model(FAMILY, "pruned"), one()
    states = target.model.vision_model(**{name: batch.pop(name) for name in PIXELS}).last_hidden_state
    states = target.model.multi_modal_projector(states).reshape(-1, TOKENS, 64)
    with vtokens.attach(target, SPEC), pytest.raises(ValueError, match="cross_attention_states were given, and only"):
        target(**batch, cross_attention_states=states)


@pytest.mark.parametrize("again", [False, True])
def test_a_static_cache_has_slots_for_what_is_kept(again: bool) -> None:
    """Answers are those of a growing cache; where more is kept of the next pictures, it gets all of its slots."""
    target, static = model(FAMILY, "pruned"), StaticCache(model(FAMILY, "pruned").config.text_config, max_cache_len=64)
    for number in (1, 3):  # as transformers makes them itself, which counts text alone elsewhere
        static.layers[number] = StaticLayer(max_cache_len=80)
    batches = [two(), dict(inputs(FAMILY, ["<image> a", "<image> b"], [[image(40, 40, seed=i)] for i in (0, 1)]))]
    slots: list[int] = []
    with vtokens.attach(target, SPEC):
        for batch in batches[:: -1 if again else 1]:
            expected = target.generate(**batch, **GREEDY, **DETAILS)
            static.reset()
            got = target.generate(**batch, **GREEDY, **DETAILS, **as_cache(target, static))
            for mine, theirs in zip(got.logits, expected.logits, strict=True):
                close_pass(mine, theirs)
            slots.append(static.layers[1].keys.shape[2])
        assert slots[0] < 80
        assert slots[1] == (80 if again else slots[0])
        with pytest.raises(ValueError, match="a static cache has slots for the pictures of the first prompt alone"):
            target(**two(), **as_cache(target, static))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_compiled_steps_take_as_many_graphs_as_without_strategies(attention: str) -> None:
    target, found = build(FAMILY, attn_implementation=attention)[0], []
    torch._dynamo.reset()
    for spec in ("none", "cls(keep=0.4)"):
        torch._dynamo.reset()
        graphs: list[Any] = []

        def counting(graph: Any, example: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return graph

        config = CompileConfig(backend=counting, mode=None)
        config._compile_all_devices = True
        with vtokens.attach(target, spec):
            for batch in (one(), one("What <image>?", seed=7)):
                expected = target.generate(**batch, **GREEDY, **DETAILS)
                options = {"cache_implementation": "static", "compile_config": config}
                got = target.generate(**batch, **GREEDY, **DETAILS, **options)
                for mine, theirs in zip(got.logits, expected.logits, strict=True):
                    close_pass(mine, theirs)
        found.append(len(graphs))
    assert 0 < found[1] <= found[0]


def test_a_cache_that_was_reset_holds_no_keys() -> None:
    target, batch = model(FAMILY, "pruned"), two()
    with vtokens.attach(target, SPEC) as handle:
        output = target(**batch)
        cache = returned_cache(output)
        cache.reset()
        assert torch.equal(target(**batch, **as_cache(target, cache)).logits, output.logits)
        cache.reset()
        with handle.using("none"):
            expected = target(**one()).logits
            assert torch.equal(target(**one(), **as_cache(target, cache)).logits, expected)


def test_packed_keys_are_refused() -> None:
    target, batch = model(FAMILY, "pruned"), one()
    cache = DynamicCache(config=target.config.text_config)
    cache.layers[1] = DynamicSlidingWindowLayer(sliding_window=8)
    with vtokens.attach(target, SPEC), pytest.raises(ValueError, match="for the keys of cross-attention packs them"):
        target(**batch, **as_cache(target, cache))


def test_a_mask_that_leaves_pictures_out_is_refused() -> None:
    target, batch = model(FAMILY, "pruned"), two()
    with vtokens.attach(target, SPEC):
        cache = returned_cache(target(**batch))
        text = torch.full((2, 1), 20)
        with pytest.raises(ValueError, match=r"the cross-attention mask has 40 columns, and the pictures .* have 80"):
            target(**later(batch, text, batch["cross_attention_mask"][:, -1:, :1]), **as_cache(target, cache))


def test_what_looks_for_tokens_in_the_sequence_is_refused() -> None:
    """Calibration, the ideal of a profile, and the filter: each by its name, before a model runs."""
    target, processor = build(FAMILY)
    says = r" looks for visual tokens in the sequence, and the visual tokens of a MllamaFor\w+ are no positions"
    with pytest.raises(ValueError, match=f"dymu's calibration{says}"):
        thresholds.measure(target, lambda: [one()], (0.5,), "made up")
    with pytest.raises(ValueError, match=f"var's calibration{says}"):
        sinks.discover(target, [one()])
    with vtokens.attach(target, SPEC) as handle:
        target(**one())
        report = handle.report()
    with pytest.raises(ValueError, match=f"the ideal that a strategy is held against{says}"):
        Ideal(target, one(), report)
    with pytest.raises(ValueError, match="'the filter' acts at attend, and the visual tokens of a MllamaFor"):
        vtokens.HallucinationFilter.from_pretrained(target, processor)


@pytest.mark.parametrize("signal", [Attention(1), LayerKeys(0), Relevance()])
def test_signals_of_the_decoder_are_refused(signal: Any) -> None:
    """Its layers see no visual token as a position, and there is no text among the features."""

    @dataclass(frozen=True)
    class Asking(Strategy):
        def needs(self, facts: Facts) -> Needs:
            return Needs(signals=(signal,))

        def at_prompt(self, visuals: Visuals) -> Selection:
            return visuals.top(visuals.tokens.norm(dim=-1), 0.5)

    with pytest.raises(ValueError, match=r"(reads|compares) .* no positions of the decoder, but keys"):
        vtokens.attach(model(FAMILY, "pruned"), Asking())


def test_text_among_features_is_refused() -> None:
    """There is none, and a score against nothing would be wrong without a word."""

    @dataclass(frozen=True)
    class Reading(Strategy):
        def at_prompt(self, visuals: Visuals) -> Selection:
            return visuals.top(visuals.tokens.norm(dim=-1) * visuals.text().sum(), 0.5)

    target = model(FAMILY, "pruned")
    with vtokens.attach(target, Reading()), pytest.raises(ValueError, match="asks for text looks for visual tokens in"):
        target(**one())


@pytest.mark.parametrize("how", ["reorder_cache", "batch_select_indices", "batch_repeat_interleave"])
def test_what_keys_stand_for_moves_with_the_rows_of_a_cache(how: str) -> None:
    """Rows of other pictures change places, or one of them is taken twice."""
    target, batch = model(FAMILY, "pruned"), two()
    rows = torch.tensor([0, 0, 1, 1] if how == "batch_repeat_interleave" else [1, 0])
    step = {"input_ids": torch.tensor([[20], [30]]), "cross_attention_mask": batch["cross_attention_mask"][:, -1:]}
    padding = torch.cat([batch["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    with vtokens.attach(target, SPEC):
        cache = returned_cache(target(**batch))
        moved = copy.deepcopy(cache)
        getattr(moved, how)(2 if how == "batch_repeat_interleave" else rows)
        plain = target(**step, attention_mask=padding, **as_cache(target, cache)).logits
        step = {name: value[rows] for name, value in step.items()}
        close_pass(target(**step, attention_mask=padding[rows], **as_cache(target, moved)).logits, plain[rows])
