"""Batches, and the comparison of generated tokens with the masked model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.masked import dropped_keys, masking
from tests.families import image, inputs
from tests.limits import BLOCKS, WIDTH, close_pass, rounding
from tests.strategies.helpers import probe
from vtokens.strategies import Attention

SPEC = "cls(keep=0.5)+fastv(keep=0.5, layer=2)"
PROMPTS = ["Is there a cat?", "Compare <image> with <image>, and say which one is red", "hello there"]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
ANSWER: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": 10**6}
"""Four tokens and no end, in place of `GREEDY` where scores are compared, which `min_new_tokens` would change."""
DETAILS = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}


def one(family: str) -> dict[str, Any]:
    """A single sample."""
    return dict(inputs(family, ["Look: <image> what is this?"], [[image(100, 60, seed=3)]]))


def two(family: str, text: str = "Look: <image> what is <image> this?") -> dict[str, Any]:
    """A single sample of as many pictures as its text has marks, two at most."""
    pictures = [image(100, 60, seed=3), image(60, 130, seed=4)][: text.count("<image>")]
    return dict(inputs(family, [text], [pictures]))


def ragged(family: str) -> dict[str, Any]:
    """Three left-padded samples of one, two and no images."""
    groups = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
    return dict(inputs(family, PROMPTS, groups))


def both(family: str, batch: dict[str, Any], spec: str = SPEC, **options: Any) -> tuple[Any, Any, vtokens.Report]:
    """Details of the same call on the pruned and on the masked model."""
    pruned, reference = model(family, "pruned"), model(family, "plain", "eager")
    with vtokens.attach(pruned, spec) as handle:
        torch.manual_seed(0)
        got = pruned.generate(**batch, **options, **DETAILS)
        report = handle.report()
    valid = batch["attention_mask"].repeat_interleave(len(report.samples) // len(batch["attention_mask"]), dim=0)
    with masking(reference, dropped_keys(report, valid)):
        torch.manual_seed(0)
        return got, reference.generate(**batch, **options, **DETAILS), report


def sums(target: Any) -> int:
    """Sums behind one another in a block: a layer that keeps a state adds up positions, as others do channels; where
    norms stand behind attention and MLP too (GLM), there are as many again. Where a tower's rows are pooled by
    attention, that is a block more, and there is room for as many; the gated MLP behind it, with no norm in front
    (Molmo 2), multiplies two sums of thirty to products of two hundred, which are off by what both are. Where queries
    are scaled by their positions (Ministral 3), scores are off by as many times more: 2.4 times in the hundredth of
    steps of three, as test_scaled_queries.py has them."""
    text = target.config.get_text_config()
    states = "linear_attention" in (getattr(text, "layer_types", None) or ())
    scaled = "llama_4_scaling_beta" in (getattr(text, "rope_parameters", None) or ())
    normed, pooled = (
        any(name.endswith(part) for name, _ in target.named_modules())
        for part in ("post_mlp_layernorm", "image_pooling_2d")
    )
    return 1 + (states or scaled or normed) + 2 * pooled


def check_tokens(got: Any, expected: Any, new: int, passes: int = 1) -> None:
    """Step by step the same logits and tokens, up to a tie that either choice may win; `passes` as in `close_pass`."""
    if "beam_indices" in expected:
        close_pass(got.sequences_scores, expected.sequences_scores, passes)
        if torch.equal(got.sequences, expected.sequences):
            return
    rows = torch.ones(len(expected.logits[0]), dtype=torch.bool)
    for step in range(new):
        mine, theirs = got.logits[step], expected.logits[step]
        close_pass(mine[rows], theirs[rows], passes)
        if "beam_indices" in expected:
            continue
        chosen, other = (out.sequences[:, step - new] for out in (got, expected))
        for row in ((chosen != other) & rows).nonzero()[:, 0].tolist():
            gap = theirs[row, chosen[row]] - theirs[row, other[row]]
            assert abs(gap) <= rounding(theirs[row], WIDTH, BLOCKS * passes), (
                f"row {row}, step {step}: {chosen[row]} instead of {other[row]}"
            )
            rows[row] = False  # from here on the two go different ways


def check_rows_alone(target: Any, family: str, spec: str) -> None:
    """Each of three samples, of one, two and no images, has the logits in a batch that it has alone, step by step."""
    prompts = ["Look: <image> what is this?", "Compare <image> with <image> please", "hello"]
    groups = [[image(100, 60, seed=0)], [image(84, 84, seed=1), image(150, 40, seed=2)], []]
    options = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    with vtokens.attach(target, spec):
        together = target.generate(**inputs(family, prompts, groups), **options)
        for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            alone = target.generate(**inputs(family, [prompt], [group]), **options)
            for mine, theirs in zip(together.logits, alone.logits, strict=True):
                close_pass(mine[row], theirs[0])


def check_fed(got: Tensor, expected: Tensor, report: vtokens.Report, valid: Tensor, passes: int = 1) -> None:
    """Logits (B, N, V) are those expected at all positions that a pass fed, from the first on that the last layer saw.

    Pictures that are lost from the very start have no survivor before them.

    Args:
        got, expected: of all positions.
        report: of the pass.
        valid: its mask (B, N).
        passes: as in `close_pass`.
    """
    for row, sample in enumerate(report.samples):
        fed = valid[row].bool().clone()
        fed[: sample.positions[-1][0]] = False
        close_pass(got[row, fed], expected[row, fed], passes)


def check_rows_of_attention(family: str, layer: int, rows: Any) -> tuple[Tensor, Tensor]:
    """`Attention` of a picture amid text, as rows of a layer give it, is read off the eager model's whole matrix.

    Returns:
        That matrix (N, N), the mean over heads, and which positions are visual.
    """
    target, batch = model(family, "pruned"), dict(inputs(family, ["Look: <image> what?"], [[image(84, 60, seed=4)]]))
    maps = model(family, "plain", "eager")(**batch, output_attentions=True).attentions[layer][0].mean(0)
    visual = batch["input_ids"][0] == target.config.image_token_id
    places = torch.arange(len(visual))
    behind = places > int(visual.nonzero()[0])
    chosen = {"last": places == len(visual) - 1, "text": behind & ~visual, "visual": visual}[rows]
    (found,) = probe(target, batch, Attention(layer, rows))[Attention(layer, rows)]
    close_pass(found[visual], maps[chosen].mean(0)[visual])
    return maps, visual


def check_programs(target: Any, batch: dict[str, Any], programs: list[Any], **options: Any) -> None:
    """Each row of a batch has, at every step, the logits that it has where its program runs on all rows."""
    with vtokens.attach(target, "none") as handle, handle.using(programs):
        together = torch.stack(target.generate(**batch, **options, **DETAILS).logits)
    for row, program in enumerate(programs):
        with vtokens.attach(target, program):
            alone = torch.stack(target.generate(**batch, **options, **DETAILS).logits)
        close_pass(together[:, row], alone[:, row])
