"""Which strategies run on which families, told from what both declare and without a model."""

from __future__ import annotations

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.registry import adapter_class, models
from vtokens.core.errors import unknown
from vtokens.core.facts import Facts
from vtokens.strategies import Relevance, Saliency, Sensitivity, VideoPruner, get
from vtokens.strategies.base import Strategy, needs_of
from vtokens.strategies.signals import Neurons, OfTower

DEPTH, TOWER = 32, 24
"""Layers and blocks of a typical model, of which defaults are asked what they need."""
_COMPUTING = ("mminference",)
"""Strategies that compute attention in the model's place, causal as it is in most."""
_IN_THE_TOWER = ("flowcut",)
"""Strategies that drop patches inside the tower, by what its class token says of them."""
_TURNED = ("aya_vision", "cohere2_vision", "glm46v", "glm4v", "llama4", "minicpmv4_6", "qwen3_5", "qwen3_5_moe")
"""Families whose rotary embeddings cannot be undone."""
_MIXED = ("lfm2_vl", "llama4", "qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe")
"""Families whose MLPs have no neurons that can be told, being mixtures of experts, or of other names."""
_BUILT_OTHERWISE = (
    "aya_vision", "cohere2_vision", "gemma3", "gemma4", "glm46v", "glm4v", "lfm2_vl", "llama4", "minicpmv4_6",
    "qwen3_5", "qwen3_5_moe",
)  # fmt: skip
"""Families whose layers have other parts than attention, an MLP and a norm before each, or gate what heads put out."""
_NOTES = {
    **{("dymu", family): "with `unmerge=False` (calibrated)" for family in _TURNED},
    **{(name, family): "with `rotary=True`" for name in ("dynamic_llava", "feather") for family in _TURNED},
    **{("sparsevlm_plus", family): "with `level=False`" for family in (*_TURNED, "kimi_k25")},
    **{(name, "vipllava"): "no (features of several tower blocks)" for name in ("dymu", "flowcut")},
}
"""Where defaults are refused: with what a strategy runs, or why not; tests/engine/test_combinations.py shows it."""


def fit(name: str, family: str) -> str:
    """How a strategy runs on a family: "yes", "yes ([CLS])", "no (sees no videos)", "before the decoder alone", ...

    In brackets are where the tower's scores come from that it asks for, or that it has to be calibrated. A checkpoint
    may refuse more than its family does: a tower of another kind, tables that do not ship.

    Raises:
        ValueError: no such strategy, or no such family; names the nearest.
    """
    strategy, known = get(name), models()
    if family not in known:
        raise unknown("family", family, known)
    if (strategy.name, family) in _NOTES:
        return _NOTES[strategy.name, family]
    anatomy, stages = adapter_class(family).anatomy, {*strategy.stages()}
    if issubclass(strategy, VideoPruner) and not anatomy.sees_frames:
        return "no (clips are one frame each)" if anatomy.apart else "no (sees no videos)"
    missing = stages - anatomy.stages
    if missing and not (missing == {"layer"} and "prompt" in stages):
        return _without(anatomy)
    linear = tuple(layer for layer in range(DEPTH) if layer % 4 != 3) if "linear" in anatomy.kinds else ()
    if strategy.name in _COMPUTING and anatomy.visibility is not None:
        return "no (pictures see themselves both ways)"
    if strategy.name in _COMPUTING and linear:
        return "no (layers without attention)"
    tower = anatomy.towers["image"]
    if strategy.name in _IN_THE_TOWER and (tower.merging is None or "[CLS]" not in tower.saliency):
        return "no (nothing is dropped inside its tower)" if "[CLS]" in tower.saliency else "no (no class token)"
    has_cls = tower.class_token is not None
    facts = Facts(family, depth=DEPTH, tower_depth=TOWER, has_cls=has_cls, linear=linear)
    if strategy.prepare is Strategy.prepare:  # others refuse what they have no numbers for, whatever the family
        try:
            strategy().check(facts)
        except ValueError as error:
            return f"no ({error})"
    try:
        needs = needs_of(strategy(), facts)
    except ValueError:  # of a model that nothing is known of
        return "yes (calibrated)"
    if needs.pixels and any(needs.pixels not in tower.fewer for tower in anatomy.towers.values()):
        return "no (the tower is shown whole pictures)"
    if linear and (needs.unmerges or needs.sizes):
        return "no (layers without attention)"
    if needs.computes and anatomy.visibility is not None:
        return "no (pictures see themselves both ways)"
    if needs.moves and (linear or anatomy.latent or family in _TURNED):
        return "no (layers without attention)" if linear else "no (its rotary embeddings cannot be undone)"
    reads_text = any(isinstance(signal, Relevance) for signal in needs.signals)
    if anatomy.cross is not None and (needs.unmerges or needs.sizes or needs.blends or reads_text):
        return "no (tokens outside the sequence)"
    if anatomy.latent and any(not getattr(signal, "rotary", True) for signal in needs.signals):
        return "no (latent attention)"
    looks_inside = any(isinstance(signal, OfTower) for signal in needs.signals)
    if looks_inside and tower.blocks is None:
        return "no (nothing of the tower is seen)"
    if family in _MIXED and any(isinstance(signal, Neurons) for signal in needs.signals):
        return "no (no neurons of its MLPs are seen)"
    if family in _BUILT_OTHERWISE and needs.shortcut:
        return "no (its layers are built otherwise)"
    pushes = any(isinstance(signal, Sensitivity) for signal in needs.signals)
    if pushes and any(tower.projector is None for tower in anatomy.towers.values()):
        return "no (no projector is named)"
    reads = {getattr(signal, "layer", None) for signal in needs.signals} & {*linear}
    answer = "before the decoder alone" if missing else "at layers with attention" if reads else "yes"
    asked = [signal for signal in needs.signals if isinstance(signal, Saliency)]
    every = all(signal.rows == "all" for signal in asked)  # of all rows, whether there is a class token or not
    return f"{answer} ({'mean attention' if every else tower_scores(family)})" if asked else answer


def refusal(name: str, family: str) -> str:
    """Why a family refuses a strategy whatever its settings are; "" if it does not."""
    answer = fit(name, family)
    return answer.removeprefix("no (").removesuffix(")") if answer.startswith("no (") else ""


def tower_scores(family: str) -> str:
    """Where the scores of a family's tower come from."""
    tower = adapter_class(family).anatomy.towers["image"]
    return "none" if tower.blocks is None else tower.saliency


def _without(anatomy: Anatomy) -> str:
    if anatomy.latent:
        return "no (latent attention)"
    return "no (no such stage)" if anatomy.cross is None else "no (tokens outside the sequence)"
