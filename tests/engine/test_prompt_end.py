"""Where a prompt ends: answers that are fed along with their prompts get what they get while they are written.

The oracle is `generate` on each prompt alone, under the same strategy, made to write that answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass
from vtokens.engine.state.prompt_end import asked_for

pytestmark = pytest.mark.usefixtures("no_grad")
TEXTS = ("what is <image> this? please tell", "and <image> that", "<image>", "two <image> things <image> here, or one")
SETTINGS = {
    "fastv": "fastv(keep=0.5, layer=1)",
    "fastv, all text": "fastv(keep=0.4, layer=2, query_scope='all_text', pool='sample')",
    "vhr": "vhr(layers=(0, 1, 2, 3))",
    "two branches": "uniform(keep=0.5)+fastv(keep=0.5, layer=2)+vhr(divergence='two_branch', layers=(1, 2, 3))",
    "an exit": "todre(keep=0.5, exit_threshold=0.4, exit_depth=0.5)",
    "merged": "dymu(thresholds=(0.6, 0.6, 0.7))+fastv(keep=0.5, layer=2)",
    "no picture": "pai(beta=0)+fastv(keep=0.5, layer=1)",
    "by step": "m3id(beta=0, forgetting=0.1)",
    "noised": "vcd(beta=0)",
    "some tokens": "damro(beta=0, k=3)",
    "blind tokens": "avisc(beta=0)",
    "another prompt": "lqcd(beta=0)",
}


def pictures(texts: list[str]) -> list[list[Any]]:
    """Those of a prompt are the same in every batch."""
    return [[image(60 + 24 * n, 84, seed=TEXTS.index(t) + 10 * n) for n in range(t.count("<image>"))] for t in texts]


@contextmanager
def attached(family: str, spec: str, texts: list[str]) -> Iterator[Any]:
    """The model under a strategy, and under the other prompt that "lqcd" wants."""
    target = model(family, "pruned")
    with vtokens.attach(target, spec) as handle:
        if "lqcd" not in spec:
            yield target
            return
        other = [f"look at {'<image>' * t.count('<image>')} it now" + " please" * TEXTS.index(t) for t in texts]
        with handle.negative_prompt(**inputs(family, other, pictures(texts))):
            yield target


class Forced:
    """A logits processor that lets nothing but the tokens of an answer through."""

    def __init__(self, answer: Tensor, length: int) -> None:
        self._answer, self._length = answer, length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, self._answer[input_ids.shape[1] - self._length]] = 0
        return only


def written(family: str, spec: str, text: str, answer: Tensor) -> Tensor:
    """(T, V): the logits from which each token of an answer (T,) is chosen in `generate`."""
    batch = dict(inputs(family, [text], pictures([text])))
    with attached(family, spec, [text]) as target:
        out = target.generate(
            **batch, max_new_tokens=len(answer), min_new_tokens=len(answer), do_sample=False, output_logits=True,
            return_dict_in_generate=True, logits_processor=[Forced(answer, batch["input_ids"].shape[1])],
        )  # fmt: skip
    return torch.cat(out.logits)


def drawn(seed: int) -> tuple[list[str], list[Tensor]]:
    """Two to four prompts in any order, and an answer of 1 to 7 tokens to each."""
    rng = random.Random(seed)
    texts = rng.sample(TEXTS, rng.randint(2, 4))
    generator = torch.Generator().manual_seed(seed)
    return texts, [torch.randint(40, 300, (rng.randint(1, 7),), generator=generator) for _ in texts]


def followed(family: str, texts: list[str], answers: list[Tensor]) -> tuple[dict[str, Any], int]:
    """Prompts padded on the left, answers on the right, as trainers of policies put them; and the longest answer."""
    batch, most = dict(inputs(family, texts, pictures(texts))), max(map(len, answers))
    said, real = torch.zeros(len(texts), most, dtype=torch.long), torch.zeros(len(texts), most, dtype=torch.long)
    for row, answer in enumerate(answers):
        said[row, : len(answer)], real[row, : len(answer)] = answer, 1
    kinds = {"mm_token_type_ids": torch.zeros_like(said), "token_type_ids": torch.ones_like(said)}  # PaliGemma's
    more = {"input_ids": said, "attention_mask": real, **kinds}
    return {k: torch.cat([v, more[k].to(v.dtype)], 1) if k in more else v for k, v in batch.items()}, most


@pytest.mark.parametrize("spec", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("family", [*FAMILIES, "paligemma"])
def test_answers_fed_are_answers_written(family: str, spec: str) -> None:
    """GRPO and RLOO: `logits_to_keep` is the longest answer and one, as a number or as positions."""
    texts, answers = drawn(hash_of(family, spec))
    batch, most = followed(family, texts, answers)
    length = batch["input_ids"].shape[1]
    with attached(family, spec, texts) as target:
        got = target(**batch, logits_to_keep=most + 1).logits
        places = target(**batch, logits_to_keep=torch.arange(length - most - 1, length)).logits
    close_pass(places, got)
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        expected = written(family, spec, text, answer)
        close_pass(got[row, : len(answer)], expected)


@pytest.mark.parametrize("name", list(SETTINGS)[:6])
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_say_where_an_answer_begins(family: str, name: str) -> None:
    """Fine-tuning: prompts and answers padded together, on either side, and labels for the answers."""
    spec, side = SETTINGS[name], ("left", "right")[hash_of(name, family) % 2]
    texts, answers = drawn(hash_of(family, name, side))
    ids = [inputs(family, [text], pictures([text]))["input_ids"][0] for text in texts]
    length = max(len(one) + len(answer) for one, answer in zip(ids, answers, strict=True))
    fed = {name: torch.zeros(len(ids), length, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    labels = torch.full((len(ids), length), -100)
    starts = []
    for row, (one, answer) in enumerate(zip(ids, answers, strict=True)):
        first = 0 if side == "right" else length - len(one) - len(answer)
        whole = slice(first, first + len(one) + len(answer))
        fed["input_ids"][row, whole], fed["attention_mask"][row, whole] = torch.cat([one, answer]), 1
        labels[row, first + len(one) : whole.stop] = answer
        starts.append(first + len(one) - 1)
    batch = dict(inputs(family, texts, pictures(texts)))
    if "mm_token_type_ids" in batch:
        image_token = model(family, "pruned").config.image_token_id
        batch["mm_token_type_ids"] = (fed["input_ids"] == image_token).to(batch["mm_token_type_ids"].dtype)
    with attached(family, spec, texts) as target:
        got = target(**{**batch, **fed}, labels=labels, use_cache=False).logits
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        expected = written(family, spec, text, answer)
        close_pass(got[row, starts[row] : starts[row] + len(answer)], expected)


@pytest.mark.parametrize("spec", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding(family: str, spec: str) -> None:
    """A plain pass over prompts alone: each ends at its own last position, even if that belongs to its picture."""
    texts = list(TEXTS)
    batch = dict(inputs(family, texts, pictures(texts), "right"))
    last = batch["attention_mask"].sum(1) - 1
    with attached(family, spec, texts) as target:
        got = target(**batch).logits[torch.arange(len(texts)), last]
        # All positions by number: asking for logits of the pictures themselves says nothing of the prompt either.
        same = target(**batch, logits_to_keep=batch["input_ids"].shape[1]).logits[torch.arange(len(texts)), last]
    close_pass(same, got)
    for row, text in enumerate(texts):
        expected = written(family, spec, text, torch.tensor([50]))[0]
        close_pass(got[row], expected)


def test_what_is_asked_for() -> None:
    """Trailing positions from the first on that is asked for; 1 where nothing follows from it."""
    some = torch.zeros(9, dtype=torch.bool)
    some[[5, 7]] = True
    asked = (0, 1, 3, 20, None, torch.tensor([8]), torch.tensor([6, 8, 7]), torch.tensor([-2]), some, torch.tensor([]))
    assert [asked_for(keep, 9) for keep in asked] == [1, 1, 3, 9, 1, 1, 3, 2, 4, 1]


def hash_of(*words: str) -> int:
    """The same number in every run."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate("".join(words))) % 9973
