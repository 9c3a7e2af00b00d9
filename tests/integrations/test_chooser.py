"""What is chosen where another engine runs the decoder is what an attached strategy feeds the decoder."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.families import build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.integrations.behind_tower.chooser import Chooser
from vtokens.integrations.behind_tower.stand_in import stand_in

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl")
SPECS = (
    "agilepruner(keep=0.5)", "apet(keep=0.5, layer=0, basis=3)", "cls(keep=0.4)", "divprune(keep=7)", "fopru(keep=0.5)",
    "hiprune(keep=0.5, alpha=0.4)", "holov(keep=0.5)", "idselection(keep=0.3)", "nuwa(keep=0.5, layer=0)",
    "prumerge(keep=0.4)", "prunesid(keep=0.4)", "random(keep=0.5)", "scans(keep=0.5, window=2)", "scope(keep=0.4)",
    "todre(keep=0.5, exit_threshold=None)", "uniform(keep=0.3)", "uniform(keep=0.6)+cls(keep=0.5, of=original)",
    "visionzip(keep=0.5)", "vispruner(keep=0.5)", "vmtc(keep=0.5)", "weighted_kcenter(keep=0.5)",
)  # fmt: skip


@functools.cache
def model(family: str) -> tuple[Any, Any]:
    return build(family)


@functools.cache
def empty(family: str) -> Any:
    """The adapter of a model of the same config without weights."""
    return stand_in(model(family)[0].config)


def prompt(family: str) -> Any:
    """One prompt with two pictures."""
    return inputs(family, ["A <image> and a <image> too"], [[image(112, 140, seed=1), image(84, 84, seed=2)]])


def of_tower(batch: Any) -> dict[str, Any]:
    return {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}


@torch.no_grad()
def attached(family: str, spec: str) -> tuple[list[list[int]], Tensor, Any, list[Tensor]]:
    """The cells that stay of each picture, what the decoder is fed there, what the tower showed, and all features."""
    target, _ = model(family)
    batch, adapter = prompt(family), adapter_for(target)
    fed: list[Tensor] = []
    with vtokens.attach(target, spec) as handle:
        found = target.model.get_image_features(**of_tower(batch), return_dict=True)
        hook = adapter.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"]), with_kwargs=True, prepend=False
        )
        with handle.using(spec):
            target(**batch)
        hook.remove()
        sample = handle.report().samples[0]
    kept = [one.kept[0].tolist() for one in sample.pictures]
    ids = batch["input_ids"][0][torch.from_numpy(sample.positions[0])]
    visual = ids == adapter.placeholder_ids["image"]
    return kept, fed[-1][0][visual], found["_vtokens_tower_run"].run, list(found.pooler_output)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", SPECS)
def test_it_is_what_the_decoder_is_fed(family: str, spec: str) -> None:
    kept, fed, run, features = attached(family, spec)
    chooser = Chooser(empty(family), spec)
    pictures = empty(family).pictures("image", of_tower(prompt(family)))
    assert [chooser.kept(picture.tokens) for picture in pictures] == [len(one) for one in kept]
    chosen = chooser.choose(features, pictures, run)
    assert [one.kept.tolist() for one in chosen] == kept
    torch.testing.assert_close(torch.cat([one.features for one in chosen]), fed, rtol=1e-5, atol=1e-6)
    # Each by itself, out of what the tower showed of both, and with channels that go along.
    start = 0
    for feature, picture, together in zip(features, pictures, chosen, strict=True):
        at = torch.arange(start, start + len(picture))
        (alone,) = chooser.choose([torch.cat([feature, feature], 1)], [picture], run, feature.shape[1], at)
        assert alone.kept.tolist() == together.kept.tolist()
        torch.testing.assert_close(alone.features, torch.cat([together.features] * 2, 1), rtol=1e-5, atol=1e-6)
        start += len(picture)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_every_strategy_runs_or_is_refused_beforehand(family: str) -> None:
    """With nothing but a `ValueError`; those that run say how many stay, and what they read of the tower."""
    runs = set()
    for name in vtokens.strategies():
        with contextlib.suppress(ValueError):
            chooser = Chooser(empty(family), name)
            runs.add(name)
            assert 0 < chooser.kept(64) <= 64, name
            assert all("Saliency" in str(one) or "Tower" in str(one) for one in chooser.signals)
    assert runs >= {"cls", "divprune", "hiprune", "random", "scope", "uniform", "visionzip", "vispruner"}
    assert not runs & {"fastv", "vaf", "m3id", "cdpruner", "mmtok", "todre", "apet", "prumerge", "dymu", "census"}


REFUSED = {
    "fastv": "'fastv' drops tokens inside the decoder, but a sequence has one slot of the cache for each token",
    "todre": r"inside the decoder.*; 'todre\(exit_threshold=None\)' can run",
    "apet": r"; 'apet\(layer=0\)' can run",
    "vaf": "'vaf' acts inside the attention of the decoder",
    "m3id": "'m3id' compares logits with those of a second prompt",
    "fade": "'fade' adds to states inside the decoder",
    "shortv": "lets visual tokens pass decoder layers",
    "flowcut": "merges tokens inside the vision tower, which is code of the engine",
    "pixelprune": "pixels are prepared, and room for their tokens reserved, before",
    "cdpruner": "'cdpruner' reads Relevance: tokens are chosen before the prompt is known",
    "mmtok": "'mmtok'.* reads the prompt's text: .*tokens are chosen before the prompt is known",
    "zoo": "'zoo' reads Sensitivity: the projector is code of the engine",
    "census": "has attention count kept tokens for several",
    "prumerge": "decides itself how many tokens stay.*give it a keep",
    "vidcom2": "acts on videos",
    "cls(keep=0.5, budget=global)": "shares one budget among the pictures.*budget='per_image' is allowed",
    "clss": "Did you mean 'cls'",
    "cls(keep=2.0)": "keep=2.0 is out of range",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[spec]):
        Chooser(empty("qwen2_5_vl"), spec)


def test_blocks_that_the_engine_does_not_load_are_refused() -> None:
    """vLLM's LLaVA has the tower's blocks up to the one that makes the features."""
    adapter = empty("llava")
    blocks = adapter.tower.feature_block + 1
    assert blocks < len(adapter.tower.blocks)
    with pytest.raises(ValueError, match=rf"reads block {blocks} of the vision tower.*0 to {blocks - 1} is allowed"):
        Chooser(adapter, "todre(exit_threshold=None)", blocks)
    Chooser(adapter, "todre(exit_threshold=None)")
    Chooser(adapter, "visionzip", blocks)


def test_a_count_above_the_tokens_of_a_picture_is_refused_when_it_comes() -> None:
    chooser = Chooser(empty("llava"), "divprune(keep=100)")
    assert chooser.kept(100) == 100
    with pytest.raises(ValueError, match="keep=100 asks for more than the 64 visual tokens"):
        chooser.kept(64)


def test_nothing_asked_keeps_all() -> None:
    for spec in ("none", "divprune(keep=1.0)"):
        chooser = Chooser(empty("llava"), spec)
        assert (chooser.kept(64), chooser.signals) == (64, frozenset())
