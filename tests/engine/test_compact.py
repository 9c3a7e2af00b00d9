"""positions="compact": kept tokens and later text are numbered one after the other, as a shorter sequence would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import COUNTS, SHARES, batches, model, share
from tests.engine.compare import DETAILS, GREEDY, check_fed, check_tokens, one, ragged
from tests.engine.masked import decoder_layers, decoder_of, dropped_keys, masking
from tests.families import EVERY, build
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache

NUMBERED = [family for family in EVERY if adapter_for(model(family, "plain")).anatomy.axes == 1]
TOLD_BY_EMBEDDINGS = [family for family in NUMBERED if adapter_for(model(family, "plain")).anatomy.visibility is None]
"""Those whose decoder, fed embeddings alone, makes the mask that it makes of the whole call."""


@contextmanager
def numbered(target: Any, dropped: Sequence[Tensor], closed: Sequence[bool]) -> Iterator[None]:
    """Let the layers of a full-length model count positions without those that were dropped, where `closed` says so."""
    decoder = decoder_of(target)

    def count(index: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        positions = kwargs["position_ids"]
        gone = dropped[index].long().cumsum(1)
        length = dropped[index].shape[1]
        if positions.shape[1] == length:
            behind = positions - gone
        else:
            behind = positions - gone[:, -1:]
        # Layers with a window turn by angles of their own in Gemma 3.
        kind = decoder.config.layer_types[index : index + 1] if hasattr(decoder.rotary_emb, "layer_types") else ()
        angles = decoder.rotary_emb(module.input_layernorm.weight, behind.clamp(min=0), *kind)
        return args, {**kwargs, "position_embeddings": angles}

    handles = [
        layer.register_forward_pre_hook(partial(count, index), with_kwargs=True)
        for index, layer in enumerate(decoder_layers(target))
        if closed[index]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@st.composite
def compacts(draw: st.DrawFn) -> str:
    """A pruner with drawn settings that numbers anew."""
    late = f"layer={draw(st.integers(1, 3))}"
    name, more = draw(st.sampled_from([("cls", ""), ("random", ""), ("fastv", late), ("todre", "exit_threshold=None")]))
    return f"{name}(keep={draw(SHARES | COUNTS)}, positions=compact{', ' if more else ''}{more})"


@pytest.mark.fuzz
@settings(max_examples=share(2))
@given(st.data())
@torch.no_grad()
def test_compact_is_a_masked_model_that_counts_less(data: Any) -> None:
    """Logits and answers, pruned at the prompt or in the decoder, ragged batches, beams."""
    family, spec = data.draw(st.sampled_from(NUMBERED)), data.draw(compacts())
    batch = data.draw(batches(family))
    options = data.draw(st.sampled_from([{}, {"num_beams": 2}]))
    target, reference = model(family, "pruned"), model(family, "plain", "eager")
    with vtokens.attach(target, spec) as handle:
        logits = target(**batch).logits
        plain = handle.report()
        got = target.generate(**batch, **GREEDY, **options, **DETAILS)
        report = handle.report()
    valid = batch["attention_mask"]
    dropped = dropped_keys(plain, valid)
    closed = [bool(part.any()) for part in dropped]
    with masking(reference, dropped), numbered(reference, dropped, closed):
        expected = reference(**batch).logits
    check_fed(logits, expected, plain, valid)
    copies = len(report.samples) // len(plain.samples)
    dropped = [part.repeat_interleave(copies, 0) for part in dropped]
    with masking(reference, dropped), numbered(reference, dropped, closed):
        check_tokens(got, reference.generate(**batch, **GREEDY, **options, **DETAILS), 5)


@pytest.mark.parametrize("family", TOLD_BY_EMBEDDINGS)
@torch.no_grad()
def test_compact_is_the_shortened_sequence(family: str) -> None:
    """What was kept, fed by itself as embeddings to an untouched model, which numbers it; then two tokens, a second
    turn, and a token of that."""
    target, plain = model(family, "pruned"), model(family, "plain")
    batch, more = one(family), (torch.full((1, 1), 8), torch.full((1, 3), 9), torch.full((1, 1), 7))
    caught: list[Tensor] = []
    note = adapter_for(plain).language_model.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    plain(**batch)
    note.remove()
    for spec in ("cls(keep=0.25, positions=compact)", "todre(keep=0.5, positions=compact, exit_threshold=None)"):
        with vtokens.attach(target, spec) as handle:
            output = target(**batch, use_cache=True)
            kept = torch.from_numpy(handle.report().samples[0].positions[0])
            got = [output.logits[:, kept]]
            for token in more:
                got.append(target(input_ids=token, **as_cache(target, returned_cache(output))).logits)
        output = plain(inputs_embeds=caught[0][:, kept], use_cache=True)
        expected = [output.logits]
        for token in more:
            expected.append(plain(input_ids=token, **as_cache(plain, returned_cache(output))).logits)
        for mine, theirs in zip(got, expected, strict=True):
            close_pass(mine, theirs)
    with vtokens.attach(target, "cls(keep=0.25)"):
        output = target(**batch, use_cache=True)
        assert not torch.allclose(output.logits[:, -1], expected[0][:, -1], atol=1e-4)


@pytest.mark.parametrize("spec", ["m3id", "vcd", "vhr(divergence='two_branch')"])
@torch.no_grad()
def test_rows_contrasts_and_text_lanes_beside_it(spec: str) -> None:
    """Each row as alone, with a second lane; the other rows are numbered as before."""
    target, _ = build("llava")
    batch = ragged("llava")
    programs = [
        f"cls(keep=0.25, positions=compact)+{spec}",
        spec,
        f"fastv(keep=0.5, layer=1, positions=compact)+{spec}",
    ]
    with vtokens.attach(target, "none") as handle, handle.using(programs):
        together = torch.stack(target.generate(**batch, **GREEDY, **DETAILS).logits)
    for row, program in enumerate(programs):
        with vtokens.attach(target, program):
            alone = torch.stack(target.generate(**batch, **GREEDY, **DETAILS).logits)[:, row]
        finite = alone.isfinite()
        assert torch.equal(together[:, row].isfinite(), finite)
        close_pass(together[:, row][finite], alone[finite])


def test_where_there_are_no_numbers_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stand at places in time, height and width.*positions='original' is allowed"):
        vtokens.attach(model("qwen2_5_vl", "pruned"), "cls(keep=0.5, positions=compact)")
    with pytest.raises(ValueError, match=r"closes the gaps between positions, and 'dymu'"):
        vtokens.attach(model("llava", "pruned"), "cls(keep=0.5, positions=compact)+dymu(thresholds=(0.2, 0.2, 0.2))")
    with pytest.raises(ValueError, match=r"unknown positions 'compct'.*compact"):
        vtokens.attach(model("llava", "pruned"), "cls(keep=0.5, positions=compct)")
