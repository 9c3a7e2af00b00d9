"""An exit of all visual tokens late in the decoder, when it happens to some samples or to all: beside the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.test_pairs import CONTRASTS, EVERY, FAMILIES, NEW, TEMPORAL, chosen, generate, settings  # noqa: F401
from tests.limits import close_pass

EXIT = {"name": "todre", "keep": 0.5, "exit_depth": 0.5}
OTHERS = sorted({*EVERY, "cls", "fastv", "uniform", "census"})
MODIFIERS = [name for name in OTHERS if (cls := vtokens.strategies.get(name))().modifies and cls.alone is None]
"""What acts on a pruner before it, and not by itself."""
SOMETIMES = {"llava": 0.45, "llava_onevision": 0.6, "qwen2_5_vl": 0.2}
"""A threshold at which one sample leaves and another one stays."""


def both_ways(name: str) -> list[list[Any]]:
    """The exit before another strategy and behind it; only before a contrast, whose logits come last, or a modifier."""
    behind = name in CONTRASTS or name in MODIFIERS
    return [[EXIT, name]] if behind else [[EXIT, name], [name, EXIT]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_each_sample_leaves_as_it_would_alone(
    name: str,
    family: str,
    settings: Callable[[str], dict[str, dict[str, Any]]],  # noqa: F811
) -> None:
    """Whether all samples leave, or some of them."""
    target = model(family, "pruned")
    if family == "llava" and name in TEMPORAL:
        with pytest.raises(ValueError, match="drops tokens of videos alone"):
            vtokens.attach(target, both_ways(name)[0])
        return
    if name == "flowcut" and family != "llava":
        with pytest.raises(ValueError, match="flowcut"):
            vtokens.attach(target, both_ways(name)[0])
        return
    more = {"divergence": "two_branch"} if name == "vhr" else {"others": "drop"} if name == "avisc" else {}
    variants = [chosen(name, settings(family)), *([{**chosen(name, settings(family)), **more}] if more else [])]
    passes = 2 if name in CONTRASTS else 1
    for variant in variants:
        for pair in both_ways(name):
            for threshold in (2.0, SOMETIMES[family]):
                spec = [variant if part == name else {**EXIT, "exit_threshold": threshold} for part in pair]
                with vtokens.attach(target, spec) as handle:
                    together = generate(target, family, 0, 1, 2)
                    left = [sample.visual_tokens[-1] for sample in handle.report().samples]
                    assert threshold < 2 or not any(left)
                    for row in range(3):
                        alone = generate(target, family, row)
                        for step in range(NEW):
                            mine, single = together.logits[step][row], alone.logits[step][0]
                            close_pass(mine, single, passes)
                            if together.sequences[row, step - NEW] != alone.sequences[0, step - NEW]:
                                break


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_some_leave_and_some_stay(family: str) -> None:
    """What the test above counts on."""
    target = model(family, "pruned")
    with vtokens.attach(target, [{**EXIT, "exit_threshold": SOMETIMES[family]}]) as handle:
        generate(target, family, 0, 1, 2)
        left = [sample.visual_tokens[-1] for sample in handle.report().samples[:2]]
    assert sorted(map(bool, left)) == [False, True]


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "other"),
    [(one, "damro(k=3)") for one in ("llava", "llava_onevision", "qwen2_5_vl")]
    # With gamma=0 a single layer speaks, and in these models one before the exit.
    + [(one, f"avisc(gamma=0, others={how!r})") for one in ("llava", "llava_onevision") for how in ("zero", "drop")],
)
def test_the_negative_picture_is_chosen_among_what_was_there(family: str, other: str) -> None:
    """An exit changes nothing about outliers, nor about blind tokens of layers before it."""
    target, spec = model(family, "pruned"), "todre(keep=0.5, exit_threshold={}, exit_depth=0.75)"
    fed: list[list[torch.Tensor]] = [[], []]
    for parts, threshold in zip(fed, (None, 2.0), strict=True):
        hook = target.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs, parts=parts: parts.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        with hook, vtokens.attach(target, f"{spec.format(threshold)}+{other}"):
            generate(target, family, 0, 1, 2)
    # The whole prompt, and the branch's.
    assert torch.equal(fed[0][0], fed[1][0])
    assert torch.equal(fed[0][1], fed[1][1])
