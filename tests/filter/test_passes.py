"""Reading responses: what the other views of a prompt are, what can be read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import vtokens
from tests.engine.masked import decoder_layers, masking
from tests.families import EVERY, STATEFUL, answer_kind, build
from tests.filter.traced import DEPTH, EVERYTHING, ask, distances, everything
from tests.limits import close_pass
from vtokens import scenes
from vtokens.core.prompts import question_prompt
from vtokens.filter.trace.contrast import CORE
from vtokens.filter.trace.passes import generate, score
from vtokens.filter.trace.trace import Parts, Trace

pytestmark = pytest.mark.usefixtures("no_grad")
SAID = [[20, 31, 42, 53, 64], [99, 100, 101], [77]]


def alone(processor: Any, images: list[Image.Image], prompt: str, ids: list[int]) -> dict[str, Tensor]:
    """One sample's inputs, its response behind."""
    inputs = dict(processor(images=[images], text=[prompt], return_tensors="pt"))
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in inputs.keys() & {"mm_token_type_ids", "token_type_ids"}:
        inputs[name] = torch.cat([inputs[name], inputs[name].new_full((1, len(ids)), answer_kind(processor, name))], 1)
    return inputs


def said(model: Any, inputs: dict[str, Tensor], ids: list[int]) -> Tensor:
    """(T,): log-probabilities of a response, by the model alone."""
    logs = model(**inputs).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return logs.gather(1, torch.tensor(ids)[:, None])[:, 0]


def outputs(model: Any, inputs: dict[str, Tensor], length: int) -> Tensor:
    """(L, H, T): head outputs, as they enter the output projections, at the rows that predict the response."""
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        for layer in decoder_layers(model)
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)[:, 0, -length - 1 : -1].unflatten(-1, (4, 16))


@pytest.mark.parametrize("family", [*EVERY, *STATEFUL])
def test_views_without_the_picture(family: str) -> None:
    """The text alone, the mean colour, and how far heads diverge, each against a plain pass over one sample."""
    model, processor = build(family)
    images, prompts = ask(processor)
    for row, trace in enumerate(score(model, processor, images, prompts, SAID, everything(model))):
        ids = SAID[row]
        full = alone(processor, images[row], prompts[row], ids)
        close_pass(trace.logprob, said(model, full, ids))
        # Next to 0: tiles of Idefics3 that are 0 all over are no pictures. Gemma 4's are grey where they are 0.5.
        blank = {**full, "pixel_values": torch.full_like(full["pixel_values"], 0.5 if family == "gemma4" else 1e-30)}
        close_pass(trace.contrasts["blank"], said(model, blank, ids))
        words = full["input_ids"][full["input_ids"] != model.config.image_token_id][None]
        text = {"input_ids": words, "attention_mask": torch.ones_like(words)}
        if "token_type_ids" in full:
            text["token_type_ids"] = full["token_type_ids"][full["input_ids"] != model.config.image_token_id][None]
        close_pass(trace.contrasts["no_image"], said(model, text, ids))
        if family in STATEFUL:  # what enters its output projections was gated behind the heads
            continue
        apart = (outputs(model, full, len(ids)) - outputs(model, text, len(ids))).norm(dim=-1).transpose(1, 2)
        torch.testing.assert_close(trace.divergence, apart, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl"])
@pytest.mark.parametrize("spec", ["none", "todre(keep=0.4)", "fastv(keep=0.4, layer=2)"])
def test_the_views_of_what_was_attended_and_what_was_not(family: str, spec: str) -> None:
    """Two thirds of what is left, and the other third: a model whose layers ignore all else says the same."""
    model, processor = build(family)
    images, prompts = ask(processor)
    parts = Parts(layers=frozenset({1, 2}), contrasts=frozenset({"attended", "unattended"}))
    with vtokens.attach(model, spec):
        traces = score(model, processor, images, prompts, SAID, parts)
    for row, trace in enumerate(traces):
        left = trace.kept.nonzero()[:, 0].tolist()
        order = sorted(left, key=lambda j: -float(trace.gaze[:, j].sum()))
        split = round(2 / 3 * len(order))
        inputs = alone(processor, images[row], prompts[row], SAID[row])
        there = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        there = there[torch.cat([torch.from_numpy(picture.view >= 0) for picture in trace.pictures])]
        for name, stay in (("attended", order[:split]), ("unattended", order[split:])):
            assert stay
            gone = torch.ones(len(trace.kept), dtype=torch.bool)
            gone[stay] = False
            dropped = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
            dropped[0, there[gone]] = True
            with masking(model, [dropped] * DEPTH):
                expected = said(model, inputs, SAID[row])
            close_pass(trace.contrasts[name], expected, passes=2)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl"])
@pytest.mark.parametrize("spec", [None, "todre(keep=0.4)", "fastv(keep=0.4, layer=2)"])
def test_the_view_without_what_matters(family: str, spec: str | None) -> None:
    """A full-length model whose layers ignore those tokens says the same."""
    model, processor = build(family)
    images, prompts = ask(processor)
    handle = None if spec is None else vtokens.attach(model, spec)
    traces = score(model, processor, images, prompts, SAID, EVERYTHING)
    if handle is not None:
        handle.detach()
    for row, trace in enumerate(traces):
        if spec is None:
            matters = torch.zeros(len(trace.kept), dtype=torch.bool)
            matters[trace.gaze.sum(0).argsort(descending=True)[: max(1, int(CORE * len(matters)))]] = True
        else:
            matters = trace.kept
        assert 0 < matters.sum() < len(matters)
        inputs = alone(processor, images[row], prompts[row], SAID[row])
        there = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        there = there[torch.cat([torch.from_numpy(picture.view >= 0) for picture in trace.pictures])]
        dropped = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        dropped[0, there[matters]] = True
        with masking(model, [dropped] * DEPTH):
            expected = said(model, inputs, SAID[row])
        close_pass(trace.contrasts["dropped"], expected, passes=2)


def test_only_what_is_asked_for_costs_a_pass() -> None:
    model, processor = build("llava")
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    for parts in (Parts(), Parts(layers=frozenset({1})), EVERYTHING, Parts(contrasts=frozenset({"no_image"}))):
        calls.clear()
        score(model, processor, *ask(processor), SAID, parts)
        assert len(calls) == 1 + parts.passes
    assert EVERYTHING.passes == 3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batches(side: str) -> None:
    """The tokenizer's own side of padding does not matter, nor who else is in the batch, nor text or ids."""
    model, processor = build("llava_onevision")
    processor.tokenizer.padding_side = side
    images, prompts = ask(processor)
    texts = [processor.tokenizer.decode(ids) for ids in SAID]
    ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for row, trace in enumerate(score(model, processor, images, prompts, texts, EVERYTHING)):
        assert trace.ids.tolist() == ids[row]
        [single] = score(model, processor, [images[row]], [prompts[row]], [torch.tensor(ids[row])], EVERYTHING)
        assert max(distances(trace, single).values()) < 2e-4


def test_the_embedded_model_says_what_it_says_otherwise() -> None:
    """Through the chat template; a batch in which responses end at different times."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    asked = scenes.examples("test", n=6, kinds=["caption", "exist", "count_all"])
    images, prompts = [[e.image] for e in asked], [e.question for e in asked]
    traces = generate(model, processor, images, prompts, Parts(layers=frozenset({3})))
    assert [processor.decode(trace.ids) for trace in traces] == scenes.answer(model, processor, asked)
    assert len({len(trace) for trace in traces}) > 1
    read = score(model, processor, images, prompts, [trace.ids.tolist() for trace in traces], Parts(frozenset({3})))
    for one, other in zip(traces, read, strict=True):
        assert max(distances(one, other).values()) < 1e-4
        assert (one.logprob.exp() > 0.2).all()  # greedy: the first of a few words that are likely


def _one(**changes: Any) -> list[Trace]:
    model, processor = build("llava")
    images, prompts = ask(processor, 1)
    given = {"images": images, "prompts": prompts, "responses": [[5, 6]], "parts": Parts(), **changes}
    return score(model, processor, *given.values())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"responses": [[]]}, ValueError, r"responses\[0\]=\[\] is empty"),
        ({"responses": [""]}, ValueError, "is empty: there is nothing to score"),
        ({"responses": [[5], [6]]}, ValueError, "2 responses for 1 prompts"),
        ({"responses": [[5, 320]]}, ValueError, "token 320: ids from 0 to 319"),
        ({"responses": [[5, 1.5]]}, TypeError, "neither text nor a list of token ids"),
        ({"responses": [[5] * 4090]}, ValueError, "context holds 4096: cut the response to 40"),
        ({"responses": [[5, 3]]}, ValueError, "hold a placeholder of a picture"),
        ({"images": []}, ValueError, "pictures for 0 samples and 1 prompts"),
        ({"images": [[]]}, ValueError, "at least one PIL image"),
        ({"images": [["cat.png"]]}, ValueError, "at least one PIL image"),
        ({"prompts": ["<image><image> which?"]}, ValueError, "holds 2 '<image>' for 1 picture"),
        ({"parts": Parts(contrasts=frozenset({"noise"}))}, ValueError, "unknown contrast 'noise'"),
        ({"parts": Parts(contrasts=frozenset({"dropped"}))}, ValueError, "record some layers"),
        ({"parts": Parts(contrasts=frozenset({"attended"}))}, ValueError, "goes by attention: record some layers"),
        ({"parts": Parts(layers=frozenset({4}))}, ValueError, "layers=4 is out of range"),
        ({"parts": Parts(states=frozenset({5}))}, ValueError, "states=5 is out of range"),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _one(**changes)


def test_prompts_go_through_the_chat_template() -> None:
    _, plain = build("llava")
    assert plain.image_token_id == 3
    assert question_prompt(plain, "What?", 2) == "<image>\n<image>\nWhat?"
    assert question_prompt(plain, "On <image>?", 1) == "On <image>?"
    _, processor = vtokens.load("scenes-llava", strategy="none")
    assert question_prompt(processor, "what?", 1) == scenes.prompt(processor, "what?")
