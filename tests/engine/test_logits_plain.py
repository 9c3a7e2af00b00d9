"""`logits` strategies without a negative prompt answer as a model whose output a hook of torch's changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.compare import GREEDY, check_programs, one, ragged
from tests.engine.contrasted import ruled_out
from tests.engine.masked import decoder_layers
from tests.families import FAMILIES, build
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache
from vtokens.strategies import Facts, Needs, Strategy
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.logits import Logits

DETAILS: dict[str, Any] = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}


def ramp(size: int) -> Tensor:
    """What is taken from each token of the vocabulary."""
    return torch.linspace(-1, 1, size).sin() * 3


@dataclass(frozen=True)
class Ramp(Strategy):
    """Takes the more, the longer the answer is."""

    name: ClassVar[str] = "ramp"
    weight: float = 0.5

    def at_logits(self, logits: Logits) -> Tensor:
        step = 1 if logits.step is None else logits.step[..., None]
        return logits.positive - self.weight * step * ramp(logits.positive.shape[-1])


@contextmanager
def ramped(model: Any, rows: list[bool], weight: float = 0.5) -> Iterator[None]:
    """Let the output of every pass be changed so, in some rows; passes are counted from 1."""
    count = 0

    def change(module: Any, args: Any, output: Any) -> None:
        nonlocal count
        count += 1
        copies = len(output.logits) // len(rows)
        chosen = torch.tensor(rows).repeat_interleave(copies)[:, None, None]
        output.logits = output.logits - chosen * weight * count * ramp(output.logits.shape[-1])

    handle = model.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
@pytest.mark.parametrize("spec", ["none", "fastv(keep=0.5, layer=2)", "m3id"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_changed_is_hooked(family: str, spec: str, options: dict[str, Any]) -> None:
    """Rows without pictures are left alone; behind a contrast, what it makes is changed."""
    model, _ = build(family)
    batch = ragged(family)
    with vtokens.attach(model, spec), ramped(model, [True, True, False]):
        expected = model.generate(**batch, **DETAILS, **options)
    with vtokens.attach(model, [*vtokens.strategies.parse(spec), Ramp()]):
        got = model.generate(**batch, **DETAILS, **options)
    assert torch.equal(got.sequences, expected.sequences)
    for mine, theirs in zip(map(ruled_out, got.logits), map(ruled_out, expected.logits), strict=True):
        finite = theirs.isfinite()
        assert torch.equal(mine.isfinite(), finite)
        close_pass(mine[finite], theirs[finite], passes=2)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_only_text_behind_the_picture_changes_and_turns_count_anew(family: str) -> None:
    model, _ = build(family)
    first, more, token = one(family), torch.full((1, 3), 9), torch.full((1, 1), 8)

    def turns() -> list[Tensor]:
        begun = model(**first, use_cache=True)
        cache = returned_cache(begun)
        second = model(input_ids=more, **as_cache(model, cache)).logits
        return [begun.logits, second, model(input_ids=token, **as_cache(model, cache)).logits]

    plain = turns()
    with vtokens.attach(model, Ramp()):
        got = turns()
    size = plain[0].shape[-1]
    image = (first["input_ids"] == model.config.image_token_id)[0]
    behind = int(image.nonzero()[-1]) + 1
    before = int(image.nonzero()[0])
    assert torch.equal(got[0][:, :before], plain[0][:, :before])
    assert torch.equal(got[0][:, :behind][:, image[:behind]], plain[0][:, :behind][:, image[:behind]])
    close_pass(got[0][:, behind:], plain[0][:, behind:] - 0.5 * ramp(size))
    close_pass(got[1], plain[1] - 0.5 * ramp(size))
    close_pass(got[2], plain[2] - ramp(size))


@torch.no_grad()
def test_rows_have_their_own() -> None:
    model, _ = build("llava")
    batch = ragged("llava")
    programs: list[Any] = [Ramp(), "cls(keep=0.5)", Ramp(weight=1.0)]
    check_programs(model, batch, programs, **GREEDY)


@dataclass(frozen=True)
class Recent(Strategy):
    """Notes in the last layer's attention what it then adds to the logits of the same pass."""

    name: ClassVar[str] = "recent"
    depth: int = 4

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(facts.depth - 1,))

    def at_attend(self, heads: Heads) -> None:
        before = heads.recall("norms")
        now = heads.query[:, :, -1].norm(dim=-1).mean(1)
        heads.remember("norms", now if before is None else before + now)

    def at_logits(self, logits: Logits) -> Tensor:
        noted = logits.recall("norms", self.depth - 1)
        assert noted is not None
        return logits.positive + noted[:, None, None] * ramp(logits.positive.shape[-1])


@torch.no_grad()
def test_what_attention_notes_in_a_pass_is_found_at_its_logits() -> None:
    """The norms of queries, which no rotation changes, summed over all passes of the answer."""
    model, _ = build("llava")
    batch = one("llava")
    depth, heads = len(decoder_layers(model)), model.config.text_config.num_attention_heads
    norms = [torch.zeros(1)]

    def note(module: Any, args: Any, output: Tensor) -> None:
        norms.append(norms[-1] + output[:, -1].view(1, heads, -1).norm(dim=-1).mean(1))

    def change(module: Any, args: Any, output: Any) -> None:
        output.logits = output.logits + norms[-1][:, None, None] * ramp(output.logits.shape[-1])

    handles = [
        decoder_layers(model)[-1].self_attn.q_proj.register_forward_hook(note), model.register_forward_hook(change),
    ]  # fmt: skip
    expected = model.generate(**batch, **DETAILS)
    for handle in handles:
        handle.remove()
    with vtokens.attach(model, Recent(depth=depth)):
        got = model.generate(**batch, **DETAILS)
    assert torch.equal(got.sequences, expected.sequences)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits), passes=2)


@dataclass(frozen=True)
class Asking(Ramp):
    """Reads what it did not declare."""

    name: ClassVar[str] = "asking"

    def at_logits(self, logits: Logits) -> Tensor:
        return logits.positive - logits.negative


@torch.no_grad()
def test_what_it_cannot_do_is_refused() -> None:
    model, _ = build("llava")
    batch = one("llava")
    with (
        vtokens.attach(model, Asking()),
        pytest.raises(ValueError, match=r"declared no other prompt: let its negative"),
    ):
        model(**batch)
    with (
        vtokens.attach(model, Ramp()),
        pytest.raises(ValueError, match="labels under a contrastive strategy, or another"),
    ):
        model(**batch, labels=batch["input_ids"])
    with pytest.raises(ValueError, match=r"'ramp' changes logits, and a LlavaModel makes none"):
        vtokens.attach(model.model, Ramp())
    with vtokens.attach(model, Ramp()):
        close_pass(model(input_ids=torch.full((1, 4), 7)).logits, model(input_ids=torch.full((1, 4), 7)).logits)


@dataclass(frozen=True)
class Steps(Strategy):
    """Notes which token of the answer each row of logits predicts."""

    name: ClassVar[str] = "steps"
    seen: ClassVar[list[Tensor | None]] = []

    def at_logits(self, logits: Logits) -> Tensor:
        self.seen.append(logits.step)
        return logits.positive


@torch.no_grad()
def test_steps_are_known_in_every_pass_that_makes_a_cache() -> None:
    """A cache that the decoder makes by itself counts as one that it is given; without one nobody knows."""
    model, _ = build("llava")
    batch = one("llava")
    Steps.seen.clear()
    with vtokens.attach(model, Steps()):
        model(**batch, logits_to_keep=1)
        model(**batch, logits_to_keep=1, use_cache=False)
    first, second = Steps.seen
    assert second is None
    assert first is not None
    assert first.tolist() == [[1]]
