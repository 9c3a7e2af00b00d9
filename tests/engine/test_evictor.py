"""Evicted is masked: keys dropped once the prompt was read, or at steps, for all heads or for each its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import assume, currently_in_test_context, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import StaticCache

import vtokens
from tests.engine.blended import groups
from tests.engine.cases import COUNTS, SHARES, SIZES, model, share
from tests.engine.compare import DETAILS, GREEDY, check_programs, one, ragged
from tests.engine.masked import decoder_layers
from tests.families import EVERY, build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import registry_restored
from vtokens.adapters import adapter_for
from vtokens.core.budget import budget
from vtokens.core.compat import as_cache, given_cache, returned_cache
from vtokens.strategies import Attention, Evictor, Facts, Keys, Needs, Selection, Strategy, Visuals, parse, register

LAYERS = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple)
CLOSE = 2e-5
"""How near two keys may be in length before rounding could turn which one is longer."""


def clear(far: Any) -> None:
    """Draw another case if rounding could decide this one; a case that is written down is to be clear."""
    if currently_in_test_context():
        assume(far)
    else:
        assert far


@dataclass(frozen=True)
class Long(Evictor):
    """Keeps the longest keys, of each head or of all."""

    name: ClassVar[str] = "long"
    heads: bool = True
    layers: tuple[int, ...] | None = None

    def score(self, keys: Keys) -> Tensor:
        norm = keys.key.norm(dim=-1)
        return norm if self.heads else norm.mean(1)


@dataclass(frozen=True)
class Uneven(Strategy):
    """Drops visual keys that are shorter than one number, so that heads keep different numbers of them."""

    name: ClassVar[str] = "uneven"
    least: float = 5.5

    def needs(self, facts: Facts) -> Needs:
        return Needs(cache=range(facts.depth))

    def at_cache(self, keys: Keys) -> Selection | None:
        if not keys.is_image_prefill:
            return None
        return Selection(~keys.visual[:, None] | (keys.key.norm(dim=-1) >= self.least))


@contextmanager
def closing(target: Any, closed: list[Tensor]) -> Iterator[None]:
    """Let later passes of a model not see the keys that `closed` (B, H, N) says of each layer."""

    def close(index: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden, cache = args[0] if args else kwargs["hidden_states"], given_cache(kwargs)
        past = cache.get_seq_length(index)
        if not past:
            return None
        queries, keys, mask = hidden.shape[1], past + hidden.shape[1], kwargs["attention_mask"]
        if mask is None:
            mask = torch.zeros(1, 1, queries, keys).masked_fill(~torch.ones(queries, keys).tril(past).bool(), -1e30)
        shut = torch.nn.functional.pad(closed[index], (0, keys - closed[index].shape[-1]))[:, :, None]
        return args, {**kwargs, "attention_mask": mask.masked_fill(shut, -1e30)}

    handles = [
        layer.register_forward_pre_hook(partial(close, index), with_kwargs=True)
        for index, layer in enumerate(decoder_layers(target))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def evicted(target: Any, batch: dict[str, Any], strategy: Any, pictures: Any) -> tuple[list[Tensor], Any]:
    """bool (B, H, N) a layer, worked out key by key from what the plain model caches; and its output.

    Rejects examples in which rounding could turn a choice.
    """
    output = target(**batch, use_cache=True)
    heads = target.config.text_config.num_attention_heads
    found = []
    for index, layer in enumerate(returned_cache(output).layers):
        norm = layer.keys.norm(dim=-1)
        batch_size, own, length = norm.shape
        closed = torch.zeros(batch_size, own, length, dtype=torch.bool)
        where: dict[int, list[int]] = {}
        total: dict[int, int] = {}
        for row, places in pictures:
            where.setdefault(row, []).extend(places)
            total[row] = total.get(row, 0) + budget(len(places), strategy.keep if isinstance(strategy, Long) else 1.0)
        for row, places in where.items():
            for head in range(own):
                if isinstance(strategy, Uneven):
                    clear((norm[row, head, places] - strategy.least).abs().min() > CLOSE)
                    closed[row, head, places] = norm[row, head, places] < strategy.least
                elif strategy.layers is None or index in strategy.layers:
                    values = norm[row, head] if strategy.heads else norm[row].mean(0)
                    ranked = sorted(places, key=lambda place: -float(values[place]))
                    best, rest = ranked[: total[row]], ranked[total[row] :]
                    clear(not rest or values[best[-1]] - values[rest[0]] > CLOSE)
                    closed[row, head, rest] = True
        found.append(closed.repeat_interleave(heads // own, 1))
    return found, output


@pytest.mark.fuzz
@settings(max_examples=share(2))
@given(
    family=st.sampled_from(EVERY),
    strategy=st.one_of(
        st.builds(Long, keep=SHARES | COUNTS, heads=st.booleans(), layers=st.none() | LAYERS),
        st.builds(Uneven, st.floats(3.0, 9.0)),
    ),
    rows=st.lists(st.lists(st.sampled_from(SIZES), max_size=2), min_size=1, max_size=3).filter(any),
    words=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
@example("gemma3", Long(), [[(84, 84)]], [0], 0)  # layers with a window count by themselves what they were given
@torch.no_grad()
def test_evicted_is_masked(family: str, strategy: Any, rows: list[Any], words: list[int], seed: int) -> None:
    """The prompt's logits to the last bit; two tokens and a second turn as with a full cache and closed keys."""
    # A plain call of a Qwen model counts positions over the whole mask that it is given.
    numbered = adapter_for(model(family, "pruned")).anatomy.axes == 1
    rows = rows if numbered else [max(rows, key=len)]
    pictures = [
        [image(*size, seed=seed + 9 * number + row) for number, size in enumerate(group)]
        for row, group in enumerate(rows)
    ]
    texts = ["Look at this" + " well" * number for number in words]
    batch = dict(inputs(family, texts[: len(rows)], pictures))
    target, reference = model(family, "pruned"), model(family, "plain", "eager")
    more = [torch.full((len(rows), width), token) for width, token in ((1, 8), (1, 9), (3, 7), (1, 6))]

    def go_on(at: Any, output: Any) -> list[Tensor]:
        mask, got = batch["attention_mask"], []
        for token in more:
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            padded = {"attention_mask": mask} if numbered else {}
            got.append(at(input_ids=token, **as_cache(at, returned_cache(output)), **padded).logits)
        return got

    with vtokens.attach(target, "none") as handle:
        plain = target(**batch).logits
        there = groups(handle.report(), adapter_for(target).placeholders(batch)["image"])
    with vtokens.attach(target, strategy):
        output = target(**batch, use_cache=True)
        assert torch.equal(output.logits, plain)
        held = [layer.keys.shape[2] for layer in returned_cache(output).layers]
        assert returned_cache(output).get_seq_length() == batch["input_ids"].shape[1]
        got = go_on(target, output)
    closed, output = evicted(reference, batch, strategy, there)
    for width, shut in zip(held, closed, strict=True):
        real = batch["attention_mask"].bool()[:, None] & ~shut
        least = int(real.sum(-1).max())
        assert width == least
    with closing(reference, closed):
        expected = go_on(reference, output)
    for mine, theirs in zip(got, expected, strict=True):
        close_pass(mine, theirs, passes=2)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_rows_beams_pruners_and_contrasts_answer_as_alone(family: str) -> None:
    target, _ = build(family)
    batch = ragged(family)
    groups_ = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
    prompts = ["Is there a cat?", "Compare <image> with <image>, and say which one is red", "hello there"]
    for spec in ((Long(),), (Long(heads=False), *parse("fastv(keep=0.5, layer=2)")), (Uneven(), *parse("m3id"))):
        for options in ({}, {"num_beams": 2}):
            with vtokens.attach(target, spec):
                whole = target.generate(**batch, **GREEDY, **DETAILS, **options)
                for row in range(3):
                    alone = dict(inputs(family, [prompts[row]], [groups_[row]]))
                    single = target.generate(**alone, **GREEDY, **DETAILS, **options)
                    assert torch.equal(single.sequences[0, -5:], whole.sequences[row, -5:])
    programs: list[Any] = [Long(heads=False), "cls(keep=0.5)+vhr", "none"]
    check_programs(target, batch, programs, **GREEDY)


@dataclass(frozen=True)
class Heard(Strategy):
    """Writes down what the positions of a pass receive from the last one in layer 2, and drops nothing."""

    name: ClassVar[str] = "heard"
    log: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(2, "last"), Attention(0, "last", rotary=False)), layer=(3,))

    def at_layer(self, visuals: Visuals, index: int) -> None:
        self.log["last"] = visuals.received(2, "last")
        self.log["unturned"] = visuals.received(0, "last", rotary=False)


@pytest.mark.parametrize("family", ["llava", "llava_onevision"])
@pytest.mark.parametrize("least", [5.0, 6.5])
@torch.no_grad()
def test_a_later_picture_is_looked_at_by_each_head_through_the_keys_that_it_kept(family: str, least: float) -> None:
    target, reference = model(family, "pruned"), model(family, "plain", "eager")
    first, second = (dict(inputs(family, ["<image> What is this?"], [[image(84, 60, seed=seed)]])) for seed in (3, 4))
    mask = torch.ones(1, first["input_ids"].shape[1] + second["input_ids"].shape[1], dtype=torch.long)
    second["attention_mask"] = mask
    heard, strategy = Heard(), Uneven(least)
    with vtokens.attach(target, "none") as handle:
        target(**first)
        there = groups(handle.report(), adapter_for(target).placeholders(first)["image"])
    with vtokens.attach(target, (strategy, heard)):
        cache = returned_cache(target(**first, use_cache=True))
        target(**second, **as_cache(target, cache))
    closed, output = evicted(reference, first, strategy, there)
    assert not (closed[2] == closed[2][:, :1]).all(), "the heads of layer 2 keep different keys"
    with closing(reference, closed):
        told = reference(**second, **as_cache(reference, returned_cache(output)), output_attentions=True).attentions[2]
    expected = told[:, :, -1, first["input_ids"].shape[1] :].mean(1)
    close_pass(heard.log["last"], expected, passes=2)
    # Without rotary embeddings only tokens of the pass itself are compared, and layer 0 is given them as they are.
    unturned = heard.log["unturned"]
    with vtokens.attach(target, heard):
        target(**second, **as_cache(target, returned_cache(target(**first, use_cache=True))))
    close_pass(unturned, heard.log["unturned"])


@dataclass(frozen=True)
class Stream(Strategy):
    """Keeps the first keys and the newest, whatever they are, after every pass."""

    name: ClassVar[str] = "stream"
    first: int = 2
    newest: int = 6

    def needs(self, facts: Facts) -> Needs:
        return Needs(cache=range(facts.depth))

    def at_cache(self, keys: Keys) -> Selection:
        place = torch.arange(keys.key.shape[2])
        keep = (place < self.first) | (place >= len(place) - self.newest)
        return Selection(keep.expand(len(keys.key), -1), (min(len(place), self.first + self.newest),) * len(keys.key))


@torch.no_grad()
def test_steps_evict() -> None:
    """The oldest key but two goes with every new one."""
    target, reference = model("llava", "pruned"), model("llava", "plain", "eager")
    batch = one("llava")
    length, heads = batch["input_ids"].shape[1], target.config.text_config.num_attention_heads
    with vtokens.attach(target, Stream()):
        output = target(**batch, use_cache=True)
        cache = returned_cache(output)
        got = []
        for _ in range(3):
            got.append(target(input_ids=torch.full((1, 1), 8), **as_cache(target, cache)).logits)
            assert {layer.keys.shape[2] for layer in cache.layers} == {8}
        assert cache.get_seq_length() == length + 3
    output = reference(**batch, use_cache=True)
    for step, mine in enumerate(got):
        place = torch.arange(length + step)
        shut = (place >= 2) & (place < length + step - 6)
        closed = [shut.expand(1, heads, -1)] * len(decoder_layers(reference))
        with closing(reference, closed):
            theirs = reference(input_ids=torch.full((1, 1), 8), **as_cache(reference, returned_cache(output))).logits
        close_pass(mine, theirs)


@dataclass(frozen=True)
class Wrong(Long):
    """Scores of another shape."""

    name: ClassVar[str] = "wrong"

    def score(self, keys: Keys) -> Tensor:
        return keys.key[..., 0, 0]


@torch.no_grad()
def test_what_cannot_be_evicted_is_refused() -> None:
    target, _ = build("llava")
    batch = one("llava")
    with (
        vtokens.attach(target, Wrong()),
        pytest.raises(ValueError, match=r"scores have the shape \(1, \d\): one for each key"),
    ):
        target(**batch)
    for other in ("dymu(thresholds=(0.2, 0.2, 0.2))",):
        with pytest.raises(ValueError, match="'long' drops cached keys, and 'dymu'"):
            vtokens.attach(target, (Long(), *parse(other)))
    with pytest.raises(ValueError, match="would drop keys of one cache twice"):
        vtokens.attach(target, (Long(), Uneven()))
    cache = StaticCache(config=target.config.text_config, max_cache_len=64)
    with vtokens.attach(target, Long()), pytest.raises(ValueError, match="a StaticLayer holds its keys in fixed slots"):
        target(**batch, **as_cache(target, cache))
    with vtokens.attach(target, Uneven()):
        cache = returned_cache(target(**batch, use_cache=True))
    with vtokens.attach(target, "cls"), pytest.raises(ValueError, match="for some heads only"):
        target(input_ids=torch.ones(1, 1, dtype=torch.long), **as_cache(target, cache))
    with vtokens.attach(target, Long(keep=1.0)):
        assert torch.equal(target.generate(**batch, **GREEDY), build("llava")[0].generate(**batch, **GREEDY))


def test_a_negative_prompt_whose_heads_hold_different_keys_goes_on_under_its_own_strategies_alone() -> None:
    target, _ = build("llava")
    with registry_restored():
        register("uneven")(Uneven)
        with vtokens.attach(target, "contrast(branch='uneven')"):
            cache = returned_cache(target(**one("llava"), use_cache=True))
    with (
        vtokens.attach(target, "contrast(branch='random(keep=0.5)')"),
        pytest.raises(ValueError, match="for some heads only"),
    ):
        target(input_ids=torch.ones(1, 1, dtype=torch.long), **as_cache(target, cache))
