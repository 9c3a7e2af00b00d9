"""OPERA against a search that feeds every candidate whole to an eager model, without a cache, in float64."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vtokens
from tests.engine.cases import model
from tests.engine.compare import one, ragged
from tests.engine.contrasted import extended
from tests.engine.state import snapshot
from tests.families import build
from vtokens.adapters import adapter_for
from vtokens.recipes import Opera, opera
from vtokens.recipes.overtrust import TINY, State, chosen, followed, mode, overtrust

Tokens = tuple[int, ...]
DETAILS: dict[str, Any] = {"return_dict_in_generate": True, "do_sample": False, "eos_token_id": 10**6}


@cache
def speaking(family: str, attention: str) -> Any:
    """A model that says no placeholders, which could not be fed as text."""
    target, _ = build(family, attn_implementation=attention)
    target.get_output_embeddings().weight.data[target.config.image_token_id] = 0
    return target


class Slow:
    """The search, from the paper's description and the release's constants."""

    def __init__(self, family: str, batch: dict[str, Any], opera: Opera) -> None:
        self.model, self.batch, self.opera = speaking(family, "eager"), batch, opera
        self.image = adapter_for(self.model).placeholders(batch)["image"][0].numpy()
        self.known: dict[Tokens, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def look(self, answer: Tokens) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logits (V,) behind an answer, and what each position looks at in the last layer, (N, N)."""
        if answer not in self.known:
            ids = torch.tensor([answer], dtype=torch.long)
            out = self.model(**extended(self.batch, ids), use_cache=False, output_attentions=True)
            most = out.attentions[-1][0].double().amax(0)
            self.known[answer] = out.logits[0, -1].double().numpy(), (most / most.sum(-1, keepdim=True)).numpy()
        return self.known[answer]

    def judge(self, answer: Tokens) -> tuple[float, int]:
        """What an answer with a candidate behind it is to lose, and which of its tokens it dwells on."""
        attention, start = self.look(answer)[1], self.batch["input_ids"].shape[1]
        said = attention[start:, start:] * self.opera.scale
        products = [float(np.prod(said[j:, j])) for j in range(len(said))]
        best = int(np.argmax(products))
        if len(answer) <= self.opera.warm:
            return -float(attention[-1, : len(self.image)][self.image].sum()), best
        return min(TINY * products[best], 65504.0), best

    def run(self, beams: int, new: int) -> tuple[Tokens, float, list[int]]:
        """The best answer, its score, and where the search went back to."""
        opera, size = self.opera, len(self.look(())[0])
        state: list[tuple[Tokens, float, int]] = [((), 0.0 if beam == 0 else -1e9, beam) for beam in range(beams)]
        history: list[list[tuple[Tokens, float, int]]] = []
        dwelt: list[list[int]] = []
        banned: dict[int, set[tuple[int, int]]] = {}
        times: Counter[int] = Counter()
        went: list[int] = []
        while len(state[0][0]) < new:
            history.append(state)
            table, columns = np.full((beams, size), -999.0), []
            for beam, (answer, _, _) in enumerate(state):
                logits = self.look(answer)[0]
                judged = {int(t): self.judge((*answer, int(t))) for t in np.argsort(-logits)[: opera.candidates]}
                for token, (loss, _) in judged.items():
                    table[beam, token] = logits[token] - opera.weight * loss
                columns.append(mode([column for _, column in judged.values()]))
            dwelt.append(columns)
            column = mode(columns)
            often = min(sum(row[beam] == column for row in dwelt) for beam in range(beams))
            if column >= opera.warm and often > opera.threshold and column + 3 <= len(history):
                for left in (column + 1, column):
                    if times[left] < opera.candidates:
                        times[left] += 1
                        went.append(left)
                        after = history[left + 1]
                        banned = {k: v for k, v in banned.items() if k <= left}
                        banned[left] = banned.get(left, set()) | {(origin, answer[-1]) for answer, _, origin in after}
                        history, dwelt, state = history[: left + 1], dwelt[: left + 1], history[left]
                        for beam, (answer, _, _) in enumerate(state):
                            logits = self.look(answer)[0]
                            table[beam] = logits - 999 - logits.min()
                            for where, token in banned[left]:
                                if where == beam:
                                    table[beam, token] = -999
                        break
            total = table - np.log(np.exp(table - table.max(1, keepdims=True)).sum(1, keepdims=True))
            total = total - table.max(1, keepdims=True) + np.array([[score] for _, score, _ in state])
            best = np.argsort(-total.reshape(-1), kind="stable")[:beams]
            state = [
                ((*state[at // size][0], int(at % size)), float(total.reshape(-1)[at]), int(at // size)) for at in best
            ]
        answer, score, _ = max(state, key=lambda one: one[1])
        return answer, score / new, went


def check(family: str, settings: Opera, beams: int = 3, new: int = 7) -> list[int]:
    """Compare both searches; where they went back to."""
    batch = one(family)
    with torch.no_grad():
        answer, score, went = Slow(family, batch, settings).run(beams, new)
    target = speaking(family, "sdpa")
    got = opera(target, batch, settings, num_beams=beams, max_new_tokens=new, **DETAILS)
    assert got.sequences[0, batch["input_ids"].shape[1] :].tolist() == list(answer)
    assert got.sequences_scores.tolist() == pytest.approx([score], rel=1e-4)
    assert list(got.found) == went
    return went


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_answers_are_those_of_the_search(family: str) -> None:
    """Early tokens look for the picture, later ones avoid what everybody dwells on; large weights make it matter."""
    assert check(family, Opera(candidates=4, weight=30.0, warm=3, scale=60.0)) == []


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_it_goes_back_and_says_something_else(family: str) -> None:
    assert check(family, Opera(candidates=3, weight=2.0, warm=1, threshold=0, scale=40.0), beams=2, new=8)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_it_goes_back_to_where_nothing_was_said(family: str) -> None:
    """The prompt alone is cached then, and no token is fed again."""
    assert 0 in check(family, Opera(candidates=3, weight=2.0, warm=0, threshold=0, scale=40.0), beams=2, new=10)


def test_penalties_by_hand() -> None:
    """Three tokens, scale 2: the products are .8 * .6 * 1 = .48 for the first, .4 * .4 = .16, and .6."""
    dwelt = torch.zeros(1, 1, 0, dtype=torch.float64)
    for row in ([0.4], [0.3, 0.2], [0.5, 0.2, 0.3]):
        dwelt = followed(dwelt, torch.tensor([[row]], dtype=torch.float64), 2.0)
    torch.testing.assert_close(dwelt.exp(), torch.tensor([[[0.48, 0.16, 0.6]]], dtype=torch.float64))
    penalty, columns = overtrust(dwelt)
    assert penalty.tolist() == [[pytest.approx(6e-8)]]
    assert columns == (2,)
    assert overtrust(torch.tensor([[[1e4]]], dtype=torch.float64))[0].tolist() == [[65504.0]]
    assert mode([2, 1, 1, 2, 3]) == 1


def test_beams_that_end_leave_their_place_to_the_next() -> None:
    config = type("Config", (), {"length_penalty": 1.0})
    state = State(torch.tensor([[7, 1], [7, 2]]), torch.zeros(2), torch.zeros(2, 4), torch.zeros(2, 1))
    scores = torch.tensor([[-1.0, -9.0, -2.0, -3.0], [-4.0, -9.0, -9.0, -9.0]])
    origin, tokens, total, finished = chosen(scores, state, {0}, 1, config)
    assert (origin, tokens, total.tolist()) == ([0, 0], [2, 3], [-2.0, -3.0])
    assert [(score, ids.tolist()) for score, ids in finished] == [(-0.5, [7, 1, 0])]


@pytest.mark.parametrize(("ends", "beams"), [(4, 2), (3, 3)])
def test_tokens_that_end_answers_leave_beams_to_go_on(ends: int, beams: int) -> None:
    """With no weight and every token a candidate it is transformers' own search, however many tokens end an answer."""
    target, batch = speaking("llava", "sdpa"), one("llava")
    with torch.no_grad():
        likely = target(**batch).logits[0, -1].topk(ends).indices.tolist()
    options: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 5, "num_return_sequences": beams}
    options |= DETAILS | {"eos_token_id": likely, "pad_token_id": 0}
    want = target.generate(**batch, output_scores=True, **options)
    every = Opera(candidates=target.config.text_config.vocab_size, weight=0.0, threshold=10**6)
    got = opera(target, batch, every, **options)
    assert got.sequences_scores.tolist() == pytest.approx(want.sequences_scores.tolist(), rel=1e-4)
    width = want.sequences.shape[1]
    assert got.sequences[:, :width].tolist() == want.sequences.tolist()


def test_it_composes_and_leaves_nothing() -> None:
    target, batch = model("llava", "pruned"), one("llava")
    options: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    opera(target, batch, **options)  # transformers leaves hooks of its own in the first call
    before = snapshot(target)
    opera(target, batch, **options)
    assert snapshot(target) == before
    for spec in ("cls(keep=0.25)+fastv(keep=0.5, layer=2)", "vcd", "dola", "vista", "vhr"):
        with vtokens.attach(target, spec):
            again = opera(target, batch, Opera(threshold=0, warm=1), return_dict_in_generate=True, **options)
        assert again.sequences_scores.isfinite().all()
        assert again.sequences.shape == (1, batch["input_ids"].shape[1] + 6)


def test_what_it_cannot_do_is_refused() -> None:
    target, _ = build("llava")
    batch, several = one("llava"), ragged("llava")
    for options, says in (
        ({"num_beams": 2, **several}, "3 prompts at once is not allowed"),
        ({"num_beams": 2, "do_sample": True, **batch}, "do_sample=True is not allowed"),
        ({"num_beams": 2, "early_stopping": "never", **batch}, "early_stopping='never' is not allowed"),
    ):
        with pytest.raises(ValueError, match=says):
            opera(target, {}, max_new_tokens=2, **options)
    with pytest.raises(ValueError, match=r"candidates=1 is out of range: 2 or more is allowed"):
        Opera(candidates=1)
    with pytest.raises(ValueError, match=r"'opera' is a recipe, no strategy: .* vtokens.recipes.opera "):
        vtokens.attach(target, "opera")
