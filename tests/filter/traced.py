"""Cases for traces: tiny models of every family, prompts with pictures, and a trace computed from eager attention."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Ovis2Processor

from tests.engine.masked import decoder_layers
from tests.families import MARK, answer_kind, build, image
from vtokens.adapters import adapter_for
from vtokens.filter.mentions import Mention
from vtokens.filter.trace.passes import generate
from vtokens.filter.trace.trace import Parts, Trace

DEPTH = 4  # decoder layers of the tiny models
EVERYTHING = Parts(
    layers=frozenset(range(DEPTH)),
    states=frozenset(range(DEPTH + 1)),
    image_states=frozenset(range(DEPTH + 1)),
    lens=frozenset({2, DEPTH}),
    contrasts=frozenset({"no_image", "blank", "dropped"}),
    divergence=True,
)


def everything(model: Any) -> Parts:
    """`EVERYTHING` that a model has: attention of the layers that have some."""
    return dataclasses.replace(EVERYTHING, layers=frozenset(adapter_for(model).facts.attending))


QUESTIONS = ("Is there a red square?", "Describe <image> and <image> in detail, please.", "How many?")
SIZES = (((100, 60),), ((60, 130), (84, 84)), ((57, 112),))


def fixed(processor: Any, tokens: int = 6) -> dict[str, Any]:
    """Greedy decoding of so many tokens, none of them a placeholder, which a random model writes now and then."""
    forbidden = [*processor.tokenizer.all_special_ids]
    return {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "suppress_tokens": forbidden}


def mention(tokens: tuple[int, ...], repeat: bool = False) -> Mention:
    """A mention of some response tokens."""
    return Mention(0, 3, "cat", "object", "cat", repeat=repeat, tokens=tokens)


def question(processor: Any, text: str, pictures: int) -> str:
    """A prompt with its placeholders, as the family writes them."""
    tokenizer, token = processor.tokenizer, MARK if isinstance(processor, Ovis2Processor) else processor.image_token
    around = next((name for name in ("vision", "image") if hasattr(tokenizer, f"{name}_start_token")), None)
    if around is None or token == MARK:
        slot = token
    else:
        slot = token.join(getattr(tokenizer, f"{around}_{side}_token") for side in ("start", "end"))
    return slot * (pictures - text.count(MARK)) + text.replace(MARK, slot)


def ask(processor: Any, rows: int = 3, seed: int = 0) -> tuple[list[list[Image.Image]], list[str]]:
    """Pictures and prompts of several lengths; the second has two pictures."""
    images = [[image(*size, seed=seed + 10 * r + n) for n, size in enumerate(SIZES[r])] for r in range(rows)]
    return images, [question(processor, QUESTIONS[r], len(SIZES[r])) for r in range(rows)]


def written(family: str, parts: Parts = EVERYTHING, **options: Any) -> tuple[Any, Any, Any, list[Trace]]:
    """A model, its processor, what was asked, and traces recorded while it wrote."""
    model, processor = build(family)
    asked = ask(processor)
    return model, processor, asked, generate(model, processor, *asked, parts, **fixed(processor), **options)


def distances(one: Trace, other: Trace) -> dict[str, float]:
    """The largest difference of each part of two traces; what is no number must be equal."""
    found = {}
    for part in dataclasses.fields(Trace):
        a, b = getattr(one, part.name), getattr(other, part.name)
        if part.name == "contrasts":
            assert a.keys() == b.keys()
            found |= {name: _far(a[name], b[name]) for name in a}
        elif isinstance(a, Tensor) and a.is_floating_point():
            found[part.name] = _far(a, b)
        elif isinstance(a, Tensor):
            assert torch.equal(a, b), part.name
        elif part.name != "pictures":
            assert a == b, part.name
    return found


def _far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert torch.equal(a == -torch.inf, b == -torch.inf)
    difference = torch.where(a == b, 0.0, (a - b).abs())
    return float(difference.max()) if len(difference.flatten()) else 0.0


def check_by_hand(trace: Trace, eager: Any, processor: Any, images: list[Image.Image], prompt: str, name: str) -> None:
    """All parts of the trace of a response are those that an eager model gives by hand; `name` says which it is."""
    shown = torch.cat([torch.from_numpy(picture.view >= 0) for picture in trace.pictures])
    for part, expected in by_hand(eager, processor, images, prompt, trace.ids.tolist(), shown).items():
        found = getattr(trace, part).double()
        assert found.shape == expected.shape, part
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4, msg=f"{part} of {name}")


def by_hand(
    model: Any, processor: Any, images: list[Image.Image], prompt: str, ids: list[int], shown: Tensor
) -> dict[str, Tensor]:
    """The parts of a trace in float64, from one pass with eager attention over one sample, nothing of ours involved.

    `shown` is bool, False on those placeholder positions that hold no feature, newlines.
    """
    inputs = processor(images=[images], text=[prompt], return_tensors="pt")
    start = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in inputs.keys() & {"mm_token_type_ids", "token_type_ids"}:
        inputs[name] = torch.cat([inputs[name], inputs[name].new_full((1, len(ids)), answer_kind(processor, name))], 1)
    # What enters a layer: transformers records states before features are added to them (deepstack).
    entering: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for layer in decoder_layers(model)
    ]
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    total = start + len(ids)
    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[shown, 0]
    logs = output.logits[0].double().log_softmax(-1)
    found: dict[str, list[Any]] = {name: [] for name in ("visual", "spread", "generated")}
    gaze = torch.zeros(len(ids), len(visual), dtype=torch.double)
    for attention in output.attentions:
        weights = attention[0].double()
        per_layer: dict[str, list[Any]] = {name: [] for name in found}
        for k in range(len(ids)):
            row = weights[:, start - 1 + k]
            on_picture = row[:, visual]
            share = on_picture / on_picture.sum(1, keepdim=True)
            per_layer["visual"].append(on_picture.sum(1))
            per_layer["spread"].append(-(share * share.log()).sum(1))
            per_layer["generated"].append(row[:, start:total].sum(1))
            gaze[k] += on_picture.mean(0) / len(output.attentions)
        for name, rows in per_layer.items():
            found[name].append(torch.stack(rows, 1))
    states = torch.stack([state[0].double() for state in (*entering, output.hidden_states[-1])])
    rows = slice(start - 1, start - 1 + len(ids))
    head = model.get_output_embeddings().weight.double()
    lens = (states[[2, DEPTH]][:, visual] @ head.T).log_softmax(-1)[..., ids].transpose(1, 2)
    top = logs[rows].exp().topk(2).values
    return {
        "logprob": logs[rows].gather(1, torch.tensor(ids)[:, None])[:, 0],
        "entropy": -(logs[rows].exp() * logs[rows]).sum(-1),
        "margin": top[:, 0] - top[:, 1],
        "gaze": gaze,
        "hidden": states[:, rows],
        "image_hidden": states[:, visual],
        "lens": lens,
        **{name: torch.stack(parts) for name, parts in found.items()},
    }
