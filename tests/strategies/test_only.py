"""ONLY against an untouched model whose attention matrices and states are read, the formula by loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.blended import groups
from tests.engine.cases import model, refused
from tests.engine.compare import GREEDY, check_programs, one, ragged
from tests.engine.contrasted import by_row, check_answers, extended
from tests.engine.masked import decoder_layers
from tests.families import build
from tests.strategies.layered import ABLE, DETAILS, MODES, Ending, Numbers, samples
from vtokens.adapters import adapter_for
from vtokens.core.compat import returned_cache
from vtokens.strategies.contrast.only import Only
from vtokens.strategies.contrast.only import trimmed as trim

FITS = [family for family in ABLE if refused(family, "only") is None]
CLOSE = 1e-6
"""How near to a limit a share or a ratio may be before rounding could turn it."""


def trimmed(row: Numbers, keys: list[int]) -> float:
    """Sets to 0, in a row of attention, what stands out among some keys; the entropy of the others."""
    values = [float(row[key]) for key in keys]
    limit = np.mean(values) + (np.std(values, ddof=1) if len(values) > 1 else np.inf)
    assert min(abs(value - limit) for value in values) > CLOSE * limit
    for key in keys:
        if row[key] > limit:
            row[key] = 0.0
    total = sum(float(row[key]) for key in keys)
    parts = [float(row[key]) / total for key in keys]
    return -sum(part * np.log(part + 1e-6) for part in parts)


def side(target: Any, maps: Numbers, values: Numbers, entering: Numbers, visual: list[bool], layer: int) -> Numbers:
    """(V,): what the heads that are left say by themselves, by the model's own modules."""
    layers = decoder_layers(target)
    keys = range(1, len(visual))
    maps = maps.copy()
    ratios = []
    for head in maps:
        of_text = trimmed(head, [key for key in keys if not visual[key]])
        ratios.append(of_text / trimmed(head, [key for key in keys if visual[key]]))
    assert min(abs(ratio - np.mean(ratios)) for ratio in ratios) > CLOSE
    outputs = []
    for number, head in enumerate(maps):
        own = values[number * len(values) // len(maps)]
        silent = ratios[number] < np.mean(ratios)
        outputs.append(np.zeros(own.shape[1]) if silent else sum(head[key] * own[key] for key in range(len(visual))))
    last: Any = layers[-1]
    attention: Any = layers[layer].self_attn
    with torch.no_grad():
        sent = attention.o_proj(torch.from_numpy(np.concatenate(outputs)).float()[None, None])
        state = last.input_layernorm(sent) + 0.2 * torch.from_numpy(entering).float()
        more = last.mlp(last.post_attention_layernorm(state))
        state = state + (more[0] if isinstance(more, tuple) else more)
    return Ending(target).logits(state[0, 0].double().numpy(), True)


def formula(strategy: Only, own: Numbers, aside: Numbers) -> Numbers:
    """(V,): what becomes of the answer's logits."""

    def softmax(values: Numbers) -> Numbers:
        powers: Numbers = np.exp(values - values.max())
        return powers / powers.sum()

    other = aside + 0.5 * own
    distance = float(sum(abs(a - b) for a, b in zip(softmax(own), softmax(other), strict=True)))
    assert abs(distance - strategy.gamma) > 1e-4
    agree = distance < strategy.gamma
    made = own + strategy.up * other if agree else (1 + strategy.down) * own - strategy.down * other
    found: Numbers = np.where(softmax(own) >= strategy.beta * softmax(own).max() * (1 - 1e-6), made, -np.inf)
    return found


def expected(family: str, prompt: dict[str, Any], strategy: Only) -> Callable[[Tensor, Tensor], Tensor]:
    """What becomes of a row's scores in each step: the untouched model is fed prompt and answer whole, eagerly."""
    target = model(family, "plain", "eager")
    layer, depth = strategy.layer or 0, len(decoder_layers(target))
    places = adapter_for(target).placeholders(prompt)["image"]
    with vtokens.attach(model(family, "branch"), "none") as handle:
        model(family, "branch")(**prompt)
        shown = {place for _, group in groups(handle.report(), places) for place in group}

    def changed(answer: Tensor, scores: Tensor) -> Tensor:
        whole = extended(prompt, answer)
        states: list[Tensor] = []
        note = lambda module, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"])  # noqa: E731
        hook = decoder_layers(target)[-1].register_forward_pre_hook(note, with_kwargs=True)
        try:
            made = target(**whole, output_attentions=True, use_cache=True)
        finally:
            hook.remove()
        visual = [place in shown for place in range(whole["input_ids"].shape[1])]
        maps = made.attentions[layer][0, :, -1].double().numpy()
        values = returned_cache(made).layers[layer].values[0].double().numpy()
        assert depth == len(made.attentions)
        aside = side(target, maps, values, states[0][0, -1].double().numpy(), visual, layer)
        return torch.from_numpy(formula(strategy, made.logits[0, -1].double().numpy(), aside))

    return changed


def check(family: str, strategy: Only, batch: dict[str, Any], prompts: list[Any], mode: str = "greedy") -> None:
    """`generate` in a mode of `MODES` gives under ONLY what the formula does."""
    options = {**MODES[mode], "max_new_tokens": 2, "eos_token_id": 10**6}
    changes = [None if prompt is None else expected(family, prompt, strategy) for prompt in prompts]
    torch.manual_seed(0)
    wanted = by_row(model(family, "plain"), batch, changes, **options)
    target = model(family, "pruned")
    with vtokens.attach(target, strategy):
        torch.manual_seed(0)
        got = target.generate(**batch, **options, **DETAILS)
    check_answers(got, wanted, mode == "beam")


@pytest.mark.parametrize("family", FITS)
@torch.no_grad()
def test_answers_are_those_of_the_formula(family: str) -> None:
    batch = one(family)
    check(family, Only(beta=0.0), batch, [batch])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("family", "gamma"), [("llava", 2.1), ("qwen2_5_vl", 0.0)])
@torch.no_grad()
def test_batches_beams_and_sampling(family: str, gamma: float, mode: str) -> None:
    """Padded rows, each with heads of its own, added or held against, and a row without pictures, left alone."""
    check(family, Only(gamma=gamma, up=0.7, down=1.5, beta=0.3, layer=1), *samples(family), mode=mode)


@pytest.mark.parametrize("spec", ["cls(keep=0.25)+fastv(keep=0.5, layer=2)", "census", "m3id"])
@torch.no_grad()
def test_behind_pruners_and_contrasts(spec: str) -> None:
    """Beams are rows of their own, and all logits of a pass are those of single ones."""
    target, batch = model("llava", "pruned"), one("llava")
    with vtokens.attach(target, f"{spec}+only(beta=0)") as handle:
        answer = target.generate(**batch, **GREEDY)
        beams = target.generate(**batch, **GREEDY, num_beams=2)
        if "m3id" not in spec:
            whole, last = target(**batch).logits, target(**batch, logits_to_keep=1).logits
            torch.testing.assert_close(whole[:, -1:], last, rtol=1e-4, atol=1e-4)
            with handle.using(spec):
                assert not torch.equal(target(**batch, logits_to_keep=1).logits, last)
    assert answer.shape[1] == beams.shape[1] == batch["input_ids"].shape[1] + 5


@torch.no_grad()
def test_an_answer_that_is_fed_along_has_the_logits_of_one_that_is_written() -> None:
    """Each row has heads of its own."""
    target, batch = model("llava", "pruned"), one("llava")
    with vtokens.attach(target, "only(beta=0)"):
        made = target.generate(**batch, **GREEDY, return_dict_in_generate=True, output_logits=True)
        answer = made.sequences[:, batch["input_ids"].shape[1] :]
        got = target(**extended(batch, answer), logits_to_keep=len(made.logits) + 1).logits[:, :-1]
    torch.testing.assert_close(got, torch.stack(made.logits, 1), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_rows_have_their_own() -> None:
    target, _ = build("llava")
    specs = ["only", "cls(keep=0.5)", "only(layer=1, gamma=0, beta=0)"]
    check_programs(target, ragged("llava"), specs, **GREEDY)


def test_what_stands_out_is_cut_off() -> None:
    """Of .1 .1 .1 .1 .6 the mean is .2 and the deviation .2236: .6 goes, and four equal shares have entropy log 4."""
    shares = torch.tensor([0.1, 0.1, 0.6, 0.0, 0.1, 0.1])[None, None, None]
    kind = torch.tensor([True, True, True, False, True, True])[None, None, None]
    rest, entropy = trim(shares, kind)
    assert rest[0, 0, 0].tolist() == pytest.approx([0.1, 0.1, 0.0, 0.0, 0.1, 0.1])
    assert float(entropy) == pytest.approx(np.log(4), abs=1e-4)
    assert trim(shares, torch.zeros_like(kind))[1].isnan().all()


def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    with pytest.raises(ValueError, match=r"gamma=-1.0 is out of range"):
        Only(gamma=-1.0)
    with pytest.raises(ValueError, match=r"layer=9 is out of range .* 0 to 3 is allowed, the nearest is 3"):
        vtokens.attach(target, "only(layer=9)")
    with pytest.raises(ValueError, match=r"'only' reads what single positions attend to, and 'dymu' shows"):
        vtokens.attach(target, "dymu(thresholds=(0.5, 0.5))+only")
    for family in ("gemma3", "qwen3_5", "cohere2_vision"):
        with pytest.raises(ValueError, match=r"'only' sends what heads of decoder layer .* are supported"):
            vtokens.attach(build(family)[0], "only")
