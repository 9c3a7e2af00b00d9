"""What a user changes after attaching counts as if it had been changed before, to the bit; what cannot is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtokens
from tests.engine.compare import GREEDY, one, ragged
from tests.engine.state import snapshot
from tests.families import build
from tests.limits import close_pass

pytestmark = pytest.mark.usefixtures("no_grad")
# Together they use every hook: tower taps, merging, layers, attention, heads, both kinds of branch, the output layer.
SPECS = (
    "fastv(keep=0.5, layer=1)+vcd",
    "cls(keep=0.5)+vhr(divergence='two_branch')+pai",
    "todre(keep=0.4)+damro(k=3)",
    "dymu(thresholds=(0.5, 0.5))",
)


class Lora(nn.Module):
    """A low-rank addition to a linear layer, in its place, as peft puts it there."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        seeded = torch.Generator().manual_seed(base.in_features)
        self.down = nn.Parameter(0.3 * torch.randn(2, base.in_features, generator=seeded))
        self.up = nn.Parameter(0.3 * torch.randn(base.out_features, 2, generator=seeded))

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


def decoder(model: Any) -> Any:
    return model.model.language_model


def tower_blocks(model: Any) -> Any:
    tower = getattr(model.model, "vision_tower", None)
    return model.model.visual.blocks if tower is None else getattr(tower, "vision_model", tower).encoder.layers


def other_attention(model: Any) -> None:
    for layer in decoder(model).layers:
        new = copy.deepcopy(build(FAMILY, seed=1)[0].model.language_model.layers[0].self_attn)
        new.layer_idx, new.config = layer.self_attn.layer_idx, decoder(model).config
        layer.self_attn = new


def lora(*names: str) -> Callable[[Any], None]:
    def put(model: Any) -> None:
        for parent in [module for module in model.modules() if any(name in module._modules for name in names)]:
            for name in names:
                if name in parent._modules:
                    setattr(parent, name, Lora(getattr(parent, name)))

    return put


def resized(model: Any) -> None:
    torch.manual_seed(0)  # of the new rows
    model.resize_token_embeddings(len(model.lm_head.weight) + 7, mean_resizing=False)


def other_head(model: Any) -> None:
    model.set_output_embeddings(copy.deepcopy(build(FAMILY, seed=1)[0].lm_head))


def other_table(model: Any) -> None:
    model.set_input_embeddings(copy.deepcopy(build(FAMILY, seed=1)[0].get_input_embeddings()))


def tied(model: Any) -> None:
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = True
    model.tie_weights()


def merged(model: Any) -> None:
    for layer in decoder(model).layers:
        layer.self_attn.q_proj.weight += 0.1 * layer.self_attn.q_proj.weight.flip(0)
    for block in tower_blocks(model):
        next(block.parameters()).mul_(1.1)


FAMILY = "llava"
CHANGES: dict[str, Callable[[Any], Any]] = {
    "eager": lambda model: model.set_attn_implementation("eager"),
    "eager decoder": lambda model: model.set_attn_implementation({"text_config": "eager"}),
    "eager tower": lambda model: model.set_attn_implementation({"vision_config": "eager"}),
    "resized": resized,
    "other head": other_head,
    "other table": other_table,
    "tied": tied,
    "lora on the head": lora("lm_head"),
    "lora on attention": lora("q_proj", "v_proj"),
    "lora on the projector": lora("linear_1", "fc1"),
    "hook behind the head": lambda model: model.lm_head.register_forward_hook(lambda m, a, out: out * 1.5 + 1),
    "hook before the head": lambda model: model.lm_head.register_forward_pre_hook(lambda m, a: (a[0].tanh(),)),
    "merged": merged,
    "other attention": other_attention,
    "bfloat16": lambda model: model.bfloat16(),
    "float16": lambda model: model.half(),
    "float64": lambda model: model.to(torch.float64),
}


def answers(model: Any) -> list[Tensor]:
    first, second = one(FAMILY), ragged(FAMILY)
    for batch in (first, second):
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    torch.manual_seed(0)  # of a branch's noise
    return [model(**second).logits, model.generate(**first, **GREEDY)]


TOWER = ("eager tower", "lora on the projector", "merged", "bfloat16")
CASES = [
    *((change, spec) for change in CHANGES for spec in SPECS[:2]),
    *((change, SPECS[2]) for change in ("eager", "resized", "lora on the head", "float16")),
    *((change, SPECS[3]) for change in TOWER),
]


@pytest.mark.parametrize(("change", "spec"), CASES)
def test_a_change_after_attaching(change: str, spec: str) -> None:
    late, early = build(FAMILY)[0], build(FAMILY)[0]
    with vtokens.attach(late, spec):
        before = answers(late)
        CHANGES[change](late)
        got = answers(late)
        CHANGES[change](early)
        with vtokens.attach(early, spec):
            expected = answers(early)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    if change not in ("eager", "eager decoder", "eager tower"):
        assert not torch.equal(got[0].float(), before[0])
    # And nothing is left of us on what took the place of something.
    bare = build(FAMILY)[0]
    CHANGES[change](bare)
    assert all(torch.equal(a, b) for a, b in zip(answers(late), answers(bare), strict=True))
    assert "vtokens" not in repr(snapshot(late))


@pytest.mark.parametrize("first", ["sdpa", "eager"])
def test_switched_to_and_fro(first: str) -> None:
    target = build(FAMILY, attn_implementation=first)[0]
    other = "eager" if first == "sdpa" else "sdpa"
    with vtokens.attach(target, SPECS[1]):
        expected = answers(target)
        target.set_attn_implementation(other)
        switched = answers(target)
        target.set_attn_implementation(first)
        assert all(torch.equal(a, b) for a, b in zip(answers(target), expected, strict=True))
    assert decoder(target).config._attn_implementation == first
    close_pass(switched[0], expected[0])


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask", "ignore:flex_attention called without")
@pytest.mark.parametrize("spec", SPECS)
def test_switched_to_flex_attention(spec: str) -> None:
    """As if it had been chosen first; as written, since compiling it needs a compiler on the machine of the tests."""
    target, reference = build(FAMILY)[0], build(FAMILY)[0]
    reference.set_attn_implementation({"text_config": "flex_attention"})
    with vtokens.attach(target, spec), vtokens.attach(reference, spec), torch.compiler.set_stance("force_eager"):
        before = answers(target)
        target.set_attn_implementation({"text_config": "flex_attention"})
        switched = answers(target)
        assert all(torch.equal(a, b) for a, b in zip(switched, answers(reference), strict=True))
    close_pass(switched[0], before[0])


@pytest.mark.parametrize("what", ["layer", "decoder", "one layer more"])
def test_a_replaced_decoder_is_refused(what: str) -> None:
    target = build(FAMILY)[0]
    with vtokens.attach(target, "fastv(keep=0.5, layer=1)"):
        if what == "layer":
            decoder(target).layers[2] = copy.deepcopy(build(FAMILY)[0].model.language_model.layers[2])
        elif what == "decoder":
            target.model.language_model = copy.deepcopy(build(FAMILY)[0].model.language_model)
        else:
            decoder(target).layers.append(copy.deepcopy(build(FAMILY)[0].model.language_model.layers[3]))
            decoder(target).layers[4].self_attn.layer_idx = 4
            decoder(target).config.num_hidden_layers = 5
        with pytest.raises(RuntimeError, match=r"w(as|ere) replaced since .* detach\(\) and attach"):
            target(**one(FAMILY))
    with vtokens.attach(target, "fastv(keep=0.5, layer=1)"):
        target(**one(FAMILY), use_cache=False)
