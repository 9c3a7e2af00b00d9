"""What a family does not declare is refused when strategies are attached, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import vtokens
from tests.engine.state import snapshot
from tests.families import FAMILIES, build
from vtokens.adapters import Adapter, adapter_class, adapter_for, register_adapter

SPECS = ("none", "uniform(keep=0.5)", "vcd")


@pytest.fixture
def family() -> Iterator[type[Adapter]]:
    """The adapter of LLaVA-OneVision, to be changed for the length of a test."""
    genuine = adapter_class("llava_onevision")

    class Other(genuine):  # type: ignore[misc, valid-type]
        pass

    register_adapter("llava_onevision")(Other)
    yield Other
    register_adapter("llava_onevision")(genuine)


def refused(model: Any, says: str, specs: tuple[str, ...] = SPECS) -> None:
    """Each of the strategies is refused with that reason, and nothing is left of it on the model."""
    before = snapshot(model)
    for spec in specs:
        with pytest.raises(ValueError, match=says):
            vtokens.attach(model, spec)
    assert snapshot(model) == before


def test_a_modality_that_is_not_declared_is_refused(family: Any) -> None:
    """Its tokens would pass for text."""
    family.anatomy = replace(family.anatomy, towers={"image": family.anatomy.towers["image"]})
    refused(build("llava_onevision")[0], r"LlavaOnevisionModel encodes video too, and its adapter declares image only")


@pytest.mark.parametrize("part", [{"class_token": "embeddings"}, {"blocks": ("encoder.layers",) * 2}])
def test_towers_that_differ_are_refused(family: Any, part: dict[str, Any]) -> None:
    """A strategy names a block of the tower without saying of which."""
    image = family.anatomy.towers["image"]
    family.anatomy = replace(family.anatomy, towers={"image": image, "video": replace(image, **part)})
    refused(build("llava_onevision")[0], "a tower for each of image, video, and they differ in their blocks or class")


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"at": ("visual", "eyes.left")}, "LlavaOnevisionModel has no vision tower at visual or eyes.left"),
        ({"blocks": "layers"}, "knows a Siglip.* as vision tower: those with their blocks at `layers`"),
        ({"attention": "attn"}, "a block of the Siglip.* has no attention where it is declared"),
    ],
)
def test_a_tower_that_is_built_otherwise_is_refused(family: Any, part: dict[str, Any], says: str) -> None:
    tower = replace(family.anatomy.towers["image"], **part)
    family.anatomy = replace(family.anatomy, towers={"image": tower, "video": tower})
    refused(build("llava_onevision")[0], says)


def test_a_kind_of_layer_that_is_not_declared_is_refused(family: Any) -> None:
    """A family says which kinds it was shown to be right with."""
    family.anatomy = replace(family.anatomy, kinds=frozenset(("full",)))
    window = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}
    model = build("llava_onevision", text_config=window)[0]
    refused(model, "a Qwen2Model as decoder is not supported: its config names layers of sliding_attention")


def test_a_stage_without_a_place_is_refused(family: Any) -> None:
    """Strategies of the stages that are left can be attached."""
    family.anatomy = replace(family.anatomy, stages=frozenset(("prompt",)))
    model = build("llava_onevision")[0]
    says = r"acts at (layer|attend|logits), for which a LlavaOnevisionFor\w+ has no place: .* act at prompt are"
    refused(model, says, ("fastv(keep=0.5, layer=1)", "uniform(keep=0.5)+vhr", "vcd"))
    vtokens.attach(model, "uniform(keep=0.5)").detach()


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_read_as_they_are_built(name: str) -> None:
    """Slots and kinds are those of the live modules."""
    adapter = adapter_for(build(name)[0])
    for spec, layer in zip(adapter.specs, adapter.layers, strict=True):
        assert spec.slot == layer.self_attn.layer_idx
        assert spec.window == getattr(layer.self_attn, "sliding_window", None)
        assert (spec.kind == "sliding") == (spec.window is not None)


def test_an_adapter_without_anatomy_is_refused() -> None:
    """As those written for 0.1, which had a property for each part."""
    with pytest.raises(TypeError, match=r"Old has no `anatomy`: .*docs/migrating.md"):
        register_adapter("old")(type("Old", (Adapter,), {}))
    with pytest.raises(ValueError, match="no adapter"):
        adapter_class("old")


def test_an_adapter_has_few_names() -> None:
    """What a contributor has to know; of the class alone, it was 25 before a family was one declaration."""
    assert len([name for name in {*dir(Adapter), *Adapter.__annotations__} if not name.startswith("_")]) <= 22
