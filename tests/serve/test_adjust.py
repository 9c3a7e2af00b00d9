"""Penalties and biases against OpenAI's formula, worked token by token on an untouched model without a cache."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import openai
import pytest
import torch

import vtokens
from tests.serve.common import answers, greedy, job, loaded, prompt, questions
from tests.serve.served import client, serving, user
from vtokens.serve.adjust import Adjust
from vtokens.serve.batcher import Batcher
from vtokens.serve.settings import Settings

CASES = (
    Adjust(presence=9.0), Adjust(frequency=4.0), Adjust(presence=-9.0, frequency=13.0),
    Adjust(presence=0.5, bias=((30, 7.5), (8, -100.0), (41, 3.0))),
)  # fmt: skip


def worked(model: Any, inputs: Any, adjust: Adjust, most: int) -> list[int]:
    """Greedy tokens, each from a pass over all that came before, in numpy and float64."""
    written: list[int] = []
    for _ in range(most):
        ids = torch.cat([inputs["input_ids"], torch.tensor([written], dtype=torch.long)], 1)
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            scores = model(**{**inputs, **more}, use_cache=False).logits[0, -1].double().numpy()
        counts = Counter(written)
        for token, times in counts.items():
            scores[token] = scores[token] - times * adjust.frequency - adjust.presence
        for token, value in adjust.bias:
            scores[token] += value
        written.append(int(np.argmax(scores)))
        if written[-1] == model.generation_config.eos_token_id:
            break
    return written


def test_answers_follow_the_formula_row_by_row() -> None:
    model, processor = loaded()
    one = next(one for one in questions() if one.images)
    inputs = prompt(processor, "Describe the image.", one.images)
    expected = [worked(model, inputs, adjust, 8) for adjust in (*CASES, Adjust())]
    assert len(set(map(tuple, expected))) > 3
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle) as batcher:
        jobs = [job(inputs, "none", greedy(8), adjust=adjust, logprobs=0) for adjust in (*CASES, None)]
        found = answers(batcher, jobs)
        assert [list(told.end.ids) for told in found] == expected
        # Likelihoods are the model's, before any of it.
        assert found[0].tokens[0].logprob == pytest.approx(found[-1].tokens[0].logprob, abs=1e-5)
        with pytest.raises(ValueError, match="token 9999 is not there"):
            batcher.submit(job(inputs, adjust=Adjust(bias=((9999, 1.0),))), print)


def test_clients_ask_for_them_as_of_openai() -> None:
    with serving(Settings(action="flag", threshold=0.5)) as (address, app):
        chats, served = client(address).chat.completions, app.state.served
        text = [user("is there a red circle?")]
        ids = [served.processor.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]
        for token, word in zip(ids, ("yes", "no"), strict=True):
            bias: Any = {str(token): 100}
            answer = chats.create(model="scenes-llava", messages=text, logit_bias=bias, temperature=0, max_tokens=3)
            assert answer.choices[0].message.content.split()[0] == word
            alone = chats.create(
                model="scenes-llava", messages=text, logit_bias=bias, temperature=0, max_tokens=8,
                presence_penalty=2.0, frequency_penalty=2.0,
            )  # fmt: skip
            assert alone.choices[0].message.content.split().count(word) >= 1
        for more, param, says in (
            ({"logit_bias": {"99999": 1}}, "logit_bias", "tokens 0 to"),
            ({"logit_bias": {"a": 1}}, "logit_bias.a", "pattern"),
            ({"logit_bias": {"3": 101}}, "logit_bias.3", "100"),
            ({"presence_penalty": 3}, "presence_penalty", "2"),
            # What the filter of this server judges is written without them: of chats with pictures alone.
            ({"messages": [user("is there a red circle?", *questions()[0].images)], "presence_penalty": 1},
             "presence_penalty", "filter"),
        ):  # fmt: skip
            given: Any = {"model": "scenes-llava", "messages": text, **more}
            with pytest.raises(openai.BadRequestError, match=says) as caught:
                chats.create(**given)
            assert caught.value.param == param
