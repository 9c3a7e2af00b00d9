"""A cache that was pruned in the first turn serves the next ones."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vtokens
from tests.engine.cases import model, unseen
from tests.engine.compare import DETAILS, GREEDY
from tests.engine.masked import dropped_keys, masking
from tests.families import ALL, image, inputs
from tests.limits import close_pass
from vtokens.core.compat import as_cache, returned_cache

SPECS = ["cls(keep=0.5)+fastv(keep=0.5, layer=2)", "todre(keep=0.4, exit_threshold=2.0)", "fastv(keep=0.3, layer=1)"]


pytestmark = [
    pytest.mark.parametrize(
        ("family", "spec"), [(family, spec) for spec in SPECS for family in ALL if not unseen(family, spec)]
    ),
    pytest.mark.usefixtures("no_grad"),
]


def pixels(batch: dict[str, Any]) -> dict[str, Any]:
    """What a batch holds besides its text."""
    return {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}


def followed_by(first: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """A text-only turn `ids` (B, M) after the sequences `first` (B, N), nothing of it padded."""
    together = torch.cat([first, ids], dim=1)
    return {"input_ids": together, "attention_mask": torch.ones_like(together)}


def test_a_text_turn_goes_on_from_the_cache(family: str, spec: str) -> None:
    """`generate` with `past_key_values` of the turn before equals the masked model's, three turns long."""
    pruned, reference = model(family, "pruned"), model(family, "plain", "eager")
    batch = dict(inputs(family, ["Look: <image> what is this?"], [[image(100, 60, seed=3)]]))
    more = [inputs(family, [text])["input_ids"] for text in ("And why is it so?", "Sure?")]
    with vtokens.attach(pruned, spec) as handle, ExitStack() as stack:
        got = pruned.generate(**batch, **GREEDY, **DETAILS)
        stack.enter_context(masking(reference, dropped_keys(handle.report(), batch["attention_mask"])))
        expected = reference.generate(**batch, **GREEDY, **DETAILS)
        for turn in [None, *more]:
            if turn is not None:
                text, caches = followed_by(got.sequences, turn), (returned_cache(got), returned_cache(expected))
                got = pruned.generate(**text, **GREEDY, **DETAILS, **as_cache(pruned, caches[0]))
                expected = reference.generate(**text, **GREEDY, **DETAILS, **as_cache(reference, caches[1]))
            assert torch.equal(got.sequences, expected.sequences)
            close_pass(torch.stack(got.logits), torch.stack(expected.logits))
    fed = got.sequences.shape[1] - 1
    assert {layer.get_seq_length() for layer in returned_cache(got).layers} == {fed}
    assert returned_cache(got).layers[-1].keys.shape[2] < fed


def test_a_new_picture_is_pruned_beside_the_cached_one(family: str, spec: str) -> None:
    """A second turn of a ragged batch with new pictures: both turns' dropped keys masked give the same logits."""
    pruned, reference = model(family, "pruned"), model(family, "plain", "eager")
    turns = [
        dict(inputs(family, ["Is there a cat?", "<image> or <image>", "hi"], [[image(100, 60, seed=0)], [
            image(84, 112, seed=1), image(60, 60, seed=2)], []])),
        dict(inputs(family, ["Yes, and <image>?", "No", "But <image> then"], [[image(60, 130, seed=4)], [], [
            image(57, 112, seed=5)]])),
    ]  # fmt: skip
    valid = torch.cat([turn["attention_mask"] for turn in turns], dim=1)
    cut = turns[0]["input_ids"].shape[1]
    places = (valid.cumsum(1) - 1).clamp(min=0)
    caches: list[Any] = [None, None]
    dropped = [torch.zeros(3, 0, dtype=torch.bool)] * 4
    with vtokens.attach(pruned, spec) as handle:
        for number, turn in enumerate(turns):
            part = slice(0, cut) if number == 0 else slice(cut, None)
            mask = valid[:, : part.stop]
            # One numbering for both models; three equal rows are M-RoPE's own way to number text.
            ids = places[:, part].expand(3, -1, -1) if family.startswith("qwen") else places[:, part]
            call = {**turn, "attention_mask": mask, "position_ids": ids, "use_cache": True}
            got = pruned(**call, **as_cache(pruned, caches[0]))
            report = handle.report()
            new = dropped_keys(report, turn["attention_mask"])
            dropped = [torch.cat(pair, dim=1) for pair in zip(dropped, new, strict=True)]
            with masking(reference, dropped):
                expected = reference(**call, **as_cache(reference, caches[1]))
            caches = [returned_cache(got), returned_cache(expected)]
            for row, sample in enumerate(report.samples):
                at = torch.from_numpy(sample.positions[-1])
                close_pass(got.logits[row, at], expected.logits[row, at])
            assert {layer.get_seq_length() for layer in caches[0].layers} == {mask.shape[1]}
        one = {"input_ids": torch.tensor([[65], [66], [67]]), "attention_mask": F.pad(valid, (0, 1), value=1)}
        one["position_ids"] = places[:, -1:] + 1
        if family.startswith("qwen"):
            one["position_ids"] = one["position_ids"].expand(3, -1, -1)
        got = pruned(**one, **as_cache(pruned, caches[0]))
    with masking(reference, dropped):
        expected = reference(**one, **as_cache(reference, caches[1]))
    close_pass(got.logits, expected.logits)
    assert dropped[-1][:, cut:].sum(1).gt(0).tolist() == [True, False, True]


def test_a_picture_turn_through_generate(family: str, spec: str) -> None:
    """As chat loops do it: the whole text again, the cache, and the new picture only."""
    pruned, reference = model(family, "pruned"), model(family, "plain", "eager")
    batch = dict(inputs(family, ["Look: <image> what is this?"], [[image(100, 60, seed=3)]]))
    new = dict(inputs(family, ["And <image>?"], [[image(60, 130, seed=4)]]))

    def chat(target: Any, dropped: list[Tensor] | None, handle: Any) -> tuple[Any, list[Tensor]]:
        """Two turns; the dropped keys of both are returned, or given to a masked model turn by turn."""
        with ExitStack() as stack:
            if dropped is not None:
                stack.enter_context(masking(target, dropped))
            first = target.generate(**batch, **GREEDY, **DETAILS)
            lost = [] if handle is None else dropped_keys(handle.report(), batch["attention_mask"])
            text = followed_by(first.sequences, new["input_ids"])
            second = target.generate(
                **text, **pixels(new), **GREEDY, **DETAILS, **as_cache(target, returned_cache(first))
            )
        if handle is None:
            return second, []
        # The last generated token had not been fed yet: it belongs to the second pass.
        fed = first.sequences.shape[1] - 1
        later = dropped_keys(handle.report(), text["attention_mask"][:, fed:])
        gap = torch.zeros(1, fed - lost[0].shape[1], dtype=torch.bool)
        return second, [torch.cat([a, gap, b], dim=1) for a, b in zip(lost, later, strict=True)]

    with vtokens.attach(pruned, spec) as handle:
        got, dropped = chat(pruned, None, handle)
    expected, _ = chat(reference, dropped, None)
    close_pass(torch.stack(got.logits), torch.stack(expected.logits))
    assert torch.equal(got.sequences, expected.sequences)
