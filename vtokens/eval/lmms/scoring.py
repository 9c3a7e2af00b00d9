"""How likely a model finds given answers: lmms-eval's `loglikelihood` requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch

from vtokens.core.prompts import starts_with_bos
from vtokens.eval.lmms.asked import user_turn
from vtokens.eval.lmms.prompts import media_prompt
from vtokens.loading.media import MediaPrompt, batch_inputs


class Scored(NamedTuple):
    """How unlikely an answer is, as a negative log-likelihood in nats, and whether greedy decoding gives it."""

    loss: float
    greedy: bool

    def strip(self) -> str:
        """Nothing: lmms-eval's response cache asks this of what it takes for text, and then does not store the pair.

        What it stores comes back as JSON and is made a string on its way to the task, which cannot choose by that.
        """
        return ""


_WINDOW = 32  # batches whose pictures are held at a time, to be put together by length


def score(
    requests: Sequence[Any],
    model: Any,
    processor: Any,
    documents: Any,
    frames: int,
    size: int,
    done: Callable[[int], Any],
) -> list[Scored]:
    """`losses` of `loglikelihood` requests, in their order.

    Args:
        requests: lmms-eval's `Instance`s.
        model, processor: genuine transformers classes.
        documents: task -> split -> documents.
        frames: the most to take from a video.
        size: requests scored together.
        done: told of the number of requests after each batch.
    """
    found: list[Any] = [None] * len(requests)
    for start in range(0, len(requests), _WINDOW * size):
        part = range(start, min(start + _WINDOW * size, len(requests)))
        asked = {i: read_request(requests[i], documents, processor, frames) for i in part}
        tokens = {i: answer_tokens(processor, one.text, answer) for i, (one, answer) in asked.items()}
        for batch in _batches(part, tokens, {i: len(one.text) for i, (one, _) in asked.items()}, size):
            pairs = [asked[i] for i in batch]
            scores = losses(model, processor, [p for p, _ in pairs], [a for _, a in pairs], tokens[batch[0]])
            for i, one in zip(batch, scores, strict=True):
                found[i] = one
            done(len(batch))
    return found


def _batches(part: Sequence[int], tokens: dict[int, int], length: dict[int, int], size: int) -> Iterator[list[int]]:
    """Requests whose answers have equally many tokens, long prompts first."""
    order = sorted(part, key=lambda i: (tokens[i], -length[i], i))
    for _, group in groupby(order, key=tokens.__getitem__):
        same = list(group)
        for start in range(0, len(same), size):
            yield same[start : start + size]


def read_request(request: Any, documents: Any, processor: Any, frames: int) -> tuple[MediaPrompt, str]:
    """The prompt and the answer to be scored of one request; media are opened here."""
    context, answer, *rest = request.args
    if not rest:  # asked for without its context, as mutual information needs it
        return media_prompt(processor, user_turn(None, context), frames), answer
    source, doc, task, split = rest
    document = documents[task][split][doc]
    visuals = source(document) if source is not None else None
    answer = answer if isinstance(answer, str) else answer(document)
    return media_prompt(processor, user_turn(visuals, context), frames), answer


def answer_tokens(processor: Any, text: str, answer: str) -> int:
    """How many tokens `answer` adds behind the prompt `text`.

    Raises:
        ValueError: none.
    """
    tokenizer, special = processor.tokenizer, not starts_with_bos(processor, text)
    counts = [len(tokenizer(part, add_special_tokens=special)["input_ids"]) for part in (text + answer, text)]
    if counts[0] <= counts[1]:
        raise ValueError(f"the answer {answer!r} adds no token to its prompt: an empty answer cannot be scored")
    return counts[0] - counts[1]


def losses(
    model: Any, processor: Any, prompts: Sequence[MediaPrompt], answers: Sequence[str], tokens: int
) -> list[Scored]:
    """Score answers of equally many tokens.

    A strategy decides on the prompt alone, as it does in `generate`: the model is asked for the logits of the answer
    only, which tells the engine where the prompt ends.

    Args:
        model, processor: genuine transformers classes.
        prompts, answers: one a row.
        tokens: of each answer.

    Returns:
        For each row the negative log-likelihood of the answer, summed over its tokens, in nats, and whether greedy
        decoding would have given it.
    """
    inputs = batch_inputs(processor, prompts, answers).to(model.device, model.dtype)
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=tokens + 1, use_cache=False).logits[:, -tokens - 1 : -1].float()
    right = inputs["input_ids"][:, -tokens:]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), right, reduction="none").sum(1)
    greedy = (logits.argmax(-1) == right).all(1)
    return [Scored(*pair) for pair in zip(loss.tolist(), greedy.tolist(), strict=True)]
