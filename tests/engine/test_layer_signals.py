"""Keys of decoder layers, attention without rotary embeddings and relevance, against the genuine modules by hand.

Everything is made anew from what the projections of the plain model give: hooks note it, the model's own function
turns it, and sums are in float64.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.compare import ragged
from tests.engine.masked import decoder_layers, decoder_of, dropped_keys, masking
from tests.families import EVERY, build, image, inputs
from tests.limits import close, close_pass
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Attention, Facts, LayerKeys, Needs, Relevance, Strategy, Visuals, parse

pytestmark = pytest.mark.usefixtures("no_grad")
LAYERS = (0, 2)
KEYS = tuple(LayerKeys(layer, rotary) for layer in LAYERS for rotary in (True, False))
ROWS = tuple(Attention(2, rows, rotary=False) for rows in ("last", "after", "text", "visual"))


def entering(target: Any, batch: Any) -> Tensor:
    """(B, N, D), the states that enter the decoder."""
    entered: list[Tensor] = []
    hook = decoder_of(target).register_forward_pre_hook(
        lambda *call: entered.append(call[-1]["inputs_embeds"]), with_kwargs=True
    )
    target(**batch)
    hook.remove()
    return entered[0]


@dataclass(frozen=True)
class Look(Strategy):
    """Writes down signals for all positions that layer 3 sees, and drops nothing."""

    wanted: tuple[Any, ...] = KEYS
    asks: bool = True
    log: dict[Any, Tensor] = field(default_factory=dict, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=self.wanted if self.asks else (), layer=(3,))

    def at_layer(self, visuals: Visuals, index: int) -> None:
        for one in self.wanted:
            if isinstance(one, LayerKeys):
                found = visuals.layer_keys(one.layer, one.rotary)
                assert torch.equal(visuals.keys(one.layer, one.rotary), visuals._groups.gather(found))
            elif isinstance(one, Attention):
                found = visuals.received(one.layer, one.rows, one.rotary)
            else:
                grouped = visuals.relevance(one.text)
                found = visuals.observed.relevance(one.text)
                assert torch.equal(grouped, visuals._groups.gather(found))
                self.log["text", one.text] = visuals.text(one.text)
            self.log[one] = found


def looked(target: Any, batch: Any, *wanted: Any, before: str = "", **given: Any) -> dict[Any, Tensor]:
    look = Look(wanted=wanted)
    with vtokens.attach(target, [*(parse(before) if before else []), look]):
        target(**batch, **given)
    return look.log


@contextmanager
def projections(target: Any) -> Iterator[dict[tuple[int, str], Any]]:
    """(layer, "query" or "key") -> (B, heads, N, d) before rotation; (layer, "angles") -> (cos, sin)."""
    found: dict[tuple[int, str], Any] = {}
    hooks = []

    def note(index: int, name: str, width: int) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            heads = output if output.dim() == 4 else output.unflatten(-1, (-1, width))
            found[index, name] = heads if heads.shape[1] in (2, 4) and output.dim() == 4 else heads.transpose(1, 2)

        return hook

    def angles(index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            found[index, "angles"] = kwargs["position_embeddings"]

        return hook

    for index, layer in enumerate(decoder_layers(target)):
        attention = layer.self_attn
        for name, short in (("query", "q"), ("key", "k")):
            norm = getattr(attention, f"{short}_norm", None)
            module = getattr(attention, f"{short}_proj") if norm is None else norm
            hooks.append(module.register_forward_hook(note(index, name, attention.head_dim)))
        hooks.append(layer.register_forward_pre_hook(angles(index), with_kwargs=True))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def turned(target: Any, found: dict[tuple[int, str], Any], index: int) -> Tensor:
    """(B, H_kv, N, d): keys of a layer, turned by the function of the model's own file."""
    home = sys.modules[type(decoder_layers(target)[index].self_attn).__module__]
    key = found[index, "key"]
    turn, angles = home.apply_rotary_pos_emb, found[index, "angles"]
    both = next(iter(inspect.signature(turn).parameters)) == "q"
    return turn(key, key, *angles)[1] if both else turn(key, *angles)


@pytest.mark.parametrize("family", EVERY)
def test_keys_are_those_of_the_projection(family: str) -> None:
    """Turned by the model's own function, and as they are; padding aside."""
    target, plain, batch = model(family, "pruned"), model(family, "plain"), ragged(family)
    with projections(plain) as made:
        plain(**batch)
    found, real = looked(target, batch, *KEYS), batch["attention_mask"].bool()
    for signal in KEYS:
        key = turned(plain, made, signal.layer) if signal.rotary else made[signal.layer, "key"]
        assert found[signal].shape == key.transpose(1, 2).shape
        close_pass(found[signal][real], key.transpose(1, 2)[real])


@pytest.mark.parametrize("family", EVERY)
def test_keys_of_what_was_dropped_before_are_gone(family: str) -> None:
    """The pruned model's own projections, in the order in which the rows stand."""
    target, batch = model(family, "pruned"), inputs(family, ["what is <image> this"], [[image(84, 60, seed=3)]])
    look = Look(wanted=KEYS)
    with (
        vtokens.attach(target, [*parse("uniform(keep=0.5)+fastv(keep=0.5, layer=2)"), look]) as handle,
        projections(target) as made,
    ):
        target(**batch)
    for signal in KEYS:
        key = turned(target, made, signal.layer) if signal.rotary else made[signal.layer, "key"]
        key = key.transpose(1, 2)
        own, left = (torch.from_numpy(handle.report().samples[0].positions[layer]) for layer in (signal.layer, 2))
        assert key.shape[1] == len(own)
        close_pass(look.log[signal], key[:, torch.searchsorted(own, left)])


def shares(target: Any, made: dict[tuple[int, str], Any], visual: Tensor, causal: bool = True) -> Tensor:
    """float64 (B, N, N): mean over heads of what rows of layer 2 give to the visual tokens alone, without rotation."""
    query, key = made[2, "query"].double(), made[2, "key"].double()
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query @ key.transpose(2, 3) * decoder_layers(target)[2].self_attn.scaling
    seen = visual[:, None, None].expand_as(scores)
    if causal:
        seen = seen & torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0).mean(1)


def asked_rows(batch: Any, visual: Tensor, placeholder: Tensor, rows: str, row: int) -> Tensor:
    real = batch["attention_mask"][row].bool()
    place = torch.arange(len(real))
    last = int(real.nonzero().max())
    if rows == "last":
        return place == last
    if rows == "visual":
        return visual[row]
    first, end = int(visual[row].nonzero().min()), int(placeholder[row].nonzero().max())
    return place == end + 1 if rows == "after" else real & ~placeholder[row] & (place > first)


def visual_of(target: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """bool (B, N): visual tokens, and placeholders, newlines among them."""
    with vtokens.attach(target, "fastv(keep=1)") as handle:
        target(**batch)
        report = handle.report()
    placeholder = batch["input_ids"] == target.config.image_token_id
    visual = placeholder.clone()
    for row, sample in enumerate(report.samples):
        views = [torch.from_numpy(part.picture.view >= 0) for part in sample.pictures]
        if views:
            visual[row, placeholder[row].nonzero().flatten()] = torch.cat(views)
    return visual, placeholder


@pytest.mark.parametrize("family", [one for one in EVERY if not one.startswith("gemma")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_without_rotation(family: str, side: Any) -> None:
    """Rows over visual keys alone, from projections in float64; rows of a batch as alone; nothing for text."""
    target, plain = model(family, "pruned"), model(family, "plain")
    prompts = ["Is there a cat?", "Compare <image> with <image> please, and say which"]
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(84, 84, seed=2)]]
    batch = inputs(family, prompts, groups, padding_side=side)
    with projections(plain) as made:
        plain(**batch)
    visual, placeholder = visual_of(target, batch)
    expected = shares(plain, made, visual, causal=family != "paligemma")
    found = looked(target, batch, *ROWS)
    for signal in ROWS:
        for row in range(2):
            mean = expected[row][asked_rows(batch, visual, placeholder, signal.rows, row)].mean(0)
            close_pass(found[signal][row], mean.float())
            assert (found[signal][row][~visual[row]] == 0).all()


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["gemma3", "gemma4"])
def test_attention_without_rotation_where_pictures_see_both_ways(family: str, layer: int) -> None:
    """In Gemma 4 they do in layers with a window only."""
    target, plain = model(family, "pruned"), model(family, "plain")
    batch = inputs(family, ["Look: <image> what?"], [[image(84, 60, seed=4)]])
    with projections(plain) as made:
        plain(**batch)
    for name in ("query", "key"):
        made[2, name] = made[layer, name]
    visual, placeholder = visual_of(target, batch)
    for rows in ("last", "text", "visual"):
        expected = shares(plain, made, visual, causal=family == "gemma4" and layer == 1)[0]
        mean = expected[asked_rows(batch, visual, placeholder, rows, 0)].mean(0)
        signal = Attention(layer, rows, rotary=False)
        close_pass(looked(target, batch, signal)[signal][0], mean.float())


def test_a_stretched_rotation_is_undone_as_well() -> None:
    """YaRN makes turned keys longer."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    target, processor = build("llava", text_config={"rope_parameters": rope})
    batch = inputs(processor, ["what is <image> this"], [[image(84, 60, seed=3)]])
    with projections(target) as made:
        target(**batch)
    cos, sin = made[0, "angles"]
    assert (cos * cos + sin * sin).max() > 1.01
    for signal, key in looked(target, batch, *KEYS).items():
        expected = turned(target, made, signal.layer) if signal.rotary else made[signal.layer, "key"]
        close_pass(key, expected.transpose(1, 2))


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_under_unmerging(family: str) -> None:
    """A merged token has its own key, turned at its own place; attention is of all positions, summed at their token."""
    target = model(family, "pruned")
    batch = inputs(family, ["what is <image> this"], [[image(84, 60, seed=3)]])
    look, dymu = Look(wanted=(*KEYS, *ROWS[:1])), parse("dymu(thresholds=(0.3, 0.3))")
    with projections(target) as made, vtokens.attach(target, [*dymu, look]) as handle:
        target(**batch)
        kept = torch.from_numpy(handle.report().samples[0].positions[2])
    assert made[2, "key"].shape[2] == len(kept) < batch["input_ids"].shape[1]
    plain = model(family, "plain")
    with projections(plain) as whole:
        plain(**batch)
    angles = tuple(part[..., kept, :] for part in whole[2, "angles"])
    for signal in KEYS:
        key = made[signal.layer, "key"]
        if signal.rotary:
            key = turned(target, {(signal.layer, "key"): key, (signal.layer, "angles"): angles}, signal.layer)
        close_pass(look.log[signal], key.transpose(1, 2))
    close_pass(look.log[ROWS[0]].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("family", ["llava", "llava_onevision"])
def test_a_second_turn_has_its_own_pictures(family: str) -> None:
    """Keys and attention are of the pass: pictures shown before are not among them."""
    target, plain = model(family, "pruned"), model(family, "plain")
    first = dict(inputs(family, ["look <image> well"], [[image(84, 60, seed=3)]]))
    cache = returned_cache(target(**first, use_cache=True))
    second = dict(inputs(family, ["and <image> now"], [[image(60, 84, seed=5)]]))
    second["attention_mask"] = torch.cat([first["attention_mask"], second["attention_mask"]], 1)
    again = {**second, **as_cache(plain, returned_cache(plain(**first, use_cache=True)))}
    with projections(plain) as made:
        plain(**again)
    wanted = (LayerKeys(2, True), LayerKeys(2, False), ROWS[0])
    found = looked(target, {**second, **as_cache(target, cache)}, *wanted)
    close_pass(found[wanted[0]], turned(plain, made, 2).transpose(1, 2))
    close_pass(found[wanted[1]], made[2, "key"].transpose(1, 2))
    visual, _ = visual_of(target, inputs(family, ["and <image> now"], [[image(60, 84, seed=5)]]))
    close_pass(found[wanted[2]], shares(plain, made, visual)[:, -1].float())


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("text", ["after", "all"])
def test_relevance_is_the_mean_of_cosines(family: str, text: Any) -> None:
    """Between what enters the decoder at each visual token and at each token of text, one pair after the other."""
    target, batch = model(family, "pruned"), ragged(family)
    entered = entering(target, batch)
    visual, placeholder = visual_of(target, batch)
    found = looked(target, batch, Relevance(text), before="fastv(keep=0.99, layer=1)")
    wide = looked(target, batch, Relevance(text))
    real = batch["attention_mask"].bool()
    for row in range(3):
        words = real[row] & ~placeholder[row]
        if text == "after" and visual[row].any():
            words &= torch.arange(len(words)) > int(visual[row].nonzero().min())
        assert torch.equal(wide["text", text][row], words)
        states = entered[row].double()
        cosines = torch.cosine_similarity(states[visual[row]][:, None], states[words][None], dim=-1)
        close_pass(wide[Relevance(text)][row][visual[row]], cosines.mean(1).float())
        assert (wide[Relevance(text)][row][~visual[row]] == 0).all()
    assert found["text", text].sum() == wide["text", text].sum()


def test_a_prompt_that_ends_with_its_picture_is_asked_by_all_its_text() -> None:
    target = model("llava", "pruned")
    batch = inputs("llava", ["what colour is this <image>"], [[image(56, 56, seed=1)]])
    found = looked(target, batch, Relevance("after"), Relevance("all"))
    assert torch.equal(found[Relevance("after")], found[Relevance("all")])
    assert found["text", "after"].sum() == (batch["input_ids"] != target.config.image_token_id).sum()


def test_an_answer_that_is_fed_along_does_not_count_as_asked() -> None:
    target = model("llava", "pruned")
    batch = dict(inputs("llava", ["<image> what is this? a red square"], [[image(56, 56, seed=1)]]))
    length = batch["input_ids"].shape[1]
    labels = batch["input_ids"].masked_fill(torch.arange(length) < length - 4, -100)
    found = looked(target, batch, Relevance(), labels=labels)
    assert found["text", "after"].nonzero()[:, 1].max() == length - 5


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_programs_by_row_see_their_rows(family: str) -> None:
    target, batch = model(family, "pruned"), ragged(family)
    wanted = (*KEYS, ROWS[0], Relevance())
    whole = looked(target, batch, *wanted)
    look = Look(wanted=wanted)
    with vtokens.attach(target, "none") as handle, handle.using(["uniform(keep=0.5)", [look], "none"]):
        target(**batch)
    for signal in wanted:
        close_pass(look.log[signal][0][-whole[signal].shape[1] :], whole[signal][1][-look.log[signal].shape[1] :])


@pytest.mark.parametrize(
    ("signal", "error", "says"),
    [
        (LayerKeys(4), ValueError, "the layer of LayerKeys=4 .* the nearest is 3"),
        (Attention(-1), ValueError, "0 to 3 is allowed"),
        (Attention(0, "lost"), ValueError, "Did you mean 'last'"),
        (Relevance("before"), ValueError, "rows|text"),
    ],
)
def test_what_a_model_has_not_is_refused_at_attach(signal: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        vtokens.attach(model("llava", "pruned"), Look(wanted=(signal,)))


@pytest.mark.parametrize("signal", [LayerKeys(0, rotary=False), Attention(0, rotary=False)])
def test_a_rotation_that_cannot_be_undone_is_refused(signal: Any) -> None:
    """Phi turns a part of each head."""
    text = {"model_type": "phi", "num_key_value_heads": 4, "partial_rotary_factor": 0.5}
    target, _ = build("llava", text_config=text)
    with pytest.raises(ValueError, match=r"rotary=False\) undoes rotates .* ask for it with rotary=True"):
        vtokens.attach(target, Look(wanted=(signal,)))
    vtokens.attach(target, Look(wanted=(LayerKeys(0), Attention(0), Relevance()))).detach()


@pytest.mark.parametrize("signal", [LayerKeys(1), ROWS[0], Relevance()])
def test_signals_not_asked_for_are_named(signal: Any) -> None:
    target, batch = model("llava", "pruned"), ragged("llava")
    look = Look(wanted=(signal,), asks=False)
    with vtokens.attach(target, look), pytest.raises(ValueError, match=r"let needs\(facts\) return Needs\(signals=\("):
        target(**batch)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("before", ["", "uniform(keep=0.5)"])
def test_raters_are_the_words_that_the_picture_is_about(family: str, before: str) -> None:
    """Their mean row of the attention matrix; which they are is found word by word in float64."""
    target, batch = model(family, "pruned"), inputs(family, ["what is <image> this red"], [[image(84, 60, seed=3)]])
    entered = entering(target, batch)
    visual, placeholder = visual_of(target, batch)
    states, first = entered[0].double(), int(visual[0].nonzero().min())
    words = (~placeholder[0] & (torch.arange(len(placeholder[0])) > first)).nonzero().flatten()
    share = (states[visual[0]] @ states[words].T).softmax(1).mean(0)
    raters = words[share > share.mean()]
    assert 0 < len(raters) < len(words)
    signal, rest = Attention(2, "raters"), [Attention(2, rows) for rows in ("text", "last")]
    found = looked(target, batch, signal, *rest, before=before)
    eager = model(family, "plain", "eager")
    with vtokens.attach(eager, before or "none") as handle:
        eager(**batch)
        dropped = dropped_keys(handle.report(), batch["attention_mask"]) if before else []
    with masking(eager, dropped) if before else nullcontext():
        maps = eager(**batch, output_attentions=True).attentions[2][0].mean(0)
    left = torch.ones_like(visual[0]) if not before else ~dropped[2][0]
    close_pass(found[signal][0], maps[raters].mean(0)[left])
    assert not torch.allclose(found[signal], found[rest[0]])


def test_a_single_word_rates_by_itself() -> None:
    target = model("llava", "pruned")
    batch = inputs("llava", ["what is this <image>a"], [[image(56, 56, seed=1)]])
    found = looked(target, batch, Relevance(), Attention(2, "raters"), Attention(2, "text"))
    assert found["text", "after"].sum() == 1
    assert torch.equal(found[Attention(2, "raters")], found[Attention(2, "text")])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_half_precision_undoes_what_it_rounded(family: str) -> None:
    """Turned keys are rounded, and so is what was undone: a unit in the last place each, of the longest of a head."""
    target = build(family)[0].bfloat16()
    batch = ragged(family)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    with projections(target) as made:
        target(**batch)
    real = batch["attention_mask"].bool()
    for layer in LAYERS:
        signal = LayerKeys(layer, rotary=False)
        found, expected = looked(target, batch, signal)[signal][real], made[layer, "key"].transpose(1, 2)[real]
        assert found.dtype == torch.bfloat16
        close(found, expected, terms=4)
