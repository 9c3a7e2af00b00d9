"""VHR: the choice of heads by hand, layers by depth, both ways to measure divergence, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.families import FAMILIES, build, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Facts
from vtokens.strategies.attend.vhr import Vhr, select_heads


def test_worked_example() -> None:
    """Head 0 diverges most, but is loud on text alone as well: it is set aside."""
    divergence = torch.tensor([[10.0, 1, 2, 3, 4, 5, 6, 7]])
    text = torch.tensor([[9.0, 1, 1, 1, 1, 1, 1, 1]])
    assert select_heads(divergence, text)[0].nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_half_of_distinct_heads() -> None:
    draw = torch.Generator().manual_seed(0)
    divergence = torch.rand(5, 32, generator=draw)
    assert select_heads(divergence, torch.ones(5, 32)).sum(1).tolist() == [16] * 5


def test_no_divergence_no_heads() -> None:
    assert not select_heads(torch.zeros(2, 8), torch.rand(2, 8)).any()


@torch.no_grad()
def test_rounding_sets_no_head_aside() -> None:
    """Two pairs of heads that are equally loud: mean and deviation add up to the louder pair, but for rounding."""
    divergence = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    for factor in torch.linspace(0.1, 9, 200).tolist():
        text = factor * torch.tensor([[3.0, 3.0, 1.0, 1.0]])
        assert select_heads(divergence, text)[0].tolist() == [True, False, False, True]
        assert select_heads(divergence, factor * torch.ones(1, 4))[0].tolist() == [True, False, False, True]


@torch.no_grad()
def test_a_text_of_one_token() -> None:
    """Heads that share keys are equally loud over it; a sample is reinforced in a batch as it is alone."""
    target = build("llava_onevision")[0]
    prompts, groups = ["<image> is what?", ""], [[image(84, 84, seed=37)], [image(170, 50, seed=46)]]
    with vtokens.attach(target, "fastv(pool='sample')+vhr(alpha=0.25, divergence='two_branch')"):
        together = target(**inputs("llava_onevision", prompts, groups)).logits[1, -1]
        alone = target(**inputs("llava_onevision", prompts[1:], groups[1:])).logits[0, -1]
    close_pass(together, alone)


def test_layers_by_depth() -> None:
    def layers(depth: int) -> list[int]:
        return list(Vhr().needs(Facts("llava", depth, 24, True)).attend)

    assert layers(32) == [1, *range(18, 32)]
    assert layers(28) == [1, *range(16, 28)]
    assert layers(1) == [0]
    assert list(Vhr(layers=(5, 3, 5)).needs(Facts("llava", 8, 4, True)).attend) == [3, 5]
    assert not Vhr(alpha=1).needs(Facts("llava", 8, 4, True)).attend


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"alpha": 0}, ValueError, "above 0"),
        ({"alpha": "loud"}, TypeError, "loud"),
        ({"divergence": "two_branches"}, ValueError, "two_branch"),
        ({"layers": ()}, ValueError, "no decoder layer"),
        ({"layers": (4,)}, ValueError, "nearest is 3"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], says: str) -> None:
    model = build("llava")[0]
    with pytest.raises(error, match=says):
        vtokens.attach(model, vtokens.strategies.get("vhr")(**options))
    assert vtokens.attachment(model) is None


def branches(model: Any, batch: dict[str, Any], text: dict[str, Any], alpha: float, layers: tuple[int, ...]) -> Any:
    """The paper's two sequences in step, by hand: head sets of each layer and the logits with the picture.

    `batch` and `text` hold one prompt with and without its picture; each forward pass below knows the heads of the
    layers before, so running both again for every layer advances them together.
    """
    chosen: dict[int, Tensor] = {}
    for layer in layers:
        states = [heads(model, part, chosen, alpha, layer) for part in (batch, text)]
        distance, loud = (states[0] - states[1]).norm(dim=-1), states[1].square().sum(-1)
        chosen[layer] = select_heads(distance, loud)
    return chosen


def heads(model: Any, batch: dict[str, Any], chosen: dict[int, Tensor], alpha: float, layer: int) -> Tensor:
    """(1, H, D): head outputs at the last position of `layer`, the heads `chosen` reinforced."""
    found: list[Tensor] = []
    hooks = []
    for index, block in enumerate(model.model.language_model.layers):

        def scale(module: Any, args: Any, index: int = index) -> Any:
            values = args[0].view(*args[0].shape[:2], -1, module.in_features // 4)
            if index == layer:
                found.append(values[:, -1].clone())
            if index not in chosen:
                return None
            gain = torch.where(chosen[index], alpha, 1.0)
            return (values * gain[:, None, :, None]).flatten(2)

        hooks.append(block.self_attn.o_proj.register_forward_pre_hook(scale))
    try:
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_two_branch_advances_both_sequences_together(family: str) -> None:
    model, processor = build(family)
    layers = (0, 1, 3)
    batch = dict(inputs(processor, ["<image> What is to be seen here?"], [[image(60, 60, seed=3)]]))
    kind = batch["input_ids"][0]
    special = {model.config.image_token_id}
    keep = torch.tensor([token not in special for token in kind.tolist()])
    text = {"input_ids": batch["input_ids"][:, keep], "attention_mask": batch["attention_mask"][:, keep]}
    expected = branches(model, batch, text, 2.0, layers)
    with vtokens.attach(model, f"vhr(layers={layers}, divergence=two_branch)"):
        cache = returned_cache(model(**batch, use_cache=True))
    for layer in layers:
        got = cache.layers[layer].keymap.memory.samples["vhr.heads"]
        assert torch.equal(got, expected[layer]), layer


@torch.no_grad()
def test_heads_stay_those_of_the_prompt() -> None:
    """One answer token at a time gives what the same tokens give fed at once, with the heads chosen at the prompt."""
    model, processor = build("llava")
    batch = dict(inputs(processor, ["What is it?", "hi"], [[image(60, 60, seed=0)], []]))
    with vtokens.attach(model, "vhr"):
        first = model(**batch, use_cache=True)
        cache, mask = returned_cache(first), batch["attention_mask"]
        tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
        steps = []
        for place in range(3):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            steps.append(
                model(input_ids=tokens[:, place : place + 1], attention_mask=mask, **as_cache(model, cache)).logits
            )
        again = model(**batch, use_cache=True)
        together = model(input_ids=tokens, attention_mask=mask, **as_cache(model, returned_cache(again))).logits
    close_pass(torch.cat(steps, 1), together)
    chosen = returned_cache(first).layers[3].keymap.memory.samples["vhr.heads"]
    assert chosen.sum(1).tolist() == [2, 0]  # the sample without a picture has no vision-aware heads
