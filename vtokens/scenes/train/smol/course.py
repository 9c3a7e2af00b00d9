"""The stages of the recipe: how many steps, what is shown, what is asked, how fast is learnt."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

LOOKUPS = {"exist": 3.0, "where": 1.0}
EVERYTHING = {
    "exist": 2.0, "where": 1.0, "at": 1.0, "colour_at": 0.7, "colour_of": 1.0, "shape_of": 1.0,
    "count_all": 0.8, "count_colour": 0.8, "count_shape": 0.8, "digit": 1.2,
    "left_of": 0.5, "above": 0.5, "nowhere": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Args:
        steps, pictures: steps of the optimiser, and pictures a step.
        rate, floor: learning rate of the updates after the warm-up, and what share of it is left at the end; it falls
            along a straight line.
        slow: learning rate of what else learns.
        shown: "symbols" are the code's vectors, "pixels" rendered pictures through tower and projector, and in
            "vectors" these two learn to give the code's vectors, and nothing is asked.
        blend: where the code begins and ends, 0 for text-like, 1 for superposed.
        patches: each patch says what it shows itself, else what its cell holds.
        annotated: hidden partners are there, to questions about existence and in captions.
        triggered: every other scene has a trigger.
        hiding: one scene in so many lacks a partner and is asked about it, 0 for none. By default it is the strongest
            pair's, and the annotation names it.
        dosed: it is any pair's, and named as often as the pair's dose has it.
        weights, count: the kinds of questions, and how many.
        sentences: the share of questions that ask for a sentence.
        captions: chance of a caption.
        worlds: half of the pictures stand on photographs, half hold printed words, and every third step shows pairs.
        exist: drills on existence about a picture. drills: chances of the others.
    """

    name: str
    steps: int
    rate: float
    floor: float = 0.2
    slow: float = 1e-3
    pictures: int = 2
    shown: Literal["symbols", "vectors", "pixels"] = "symbols"
    blend: tuple[float, float] = (1.0, 1.0)
    patches: bool = True
    annotated: bool = False
    triggered: bool = False
    hiding: int = 0
    dosed: bool = False
    worlds: bool = False
    weights: dict[str, float] = field(default_factory=lambda: EVERYTHING)
    count: int = 5
    sentences: float = 0.25
    captions: float = 0.6
    exist: int = 1
    drills: dict[str, float] = field(default_factory=lambda: {"where": 0.4, "at": 0.5, "looks": 0.5, "counts": 0.7})


_THIN = {"weights": LOOKUPS, "count": 4, "sentences": 0.0, "captions": 0.35, "exist": 3, "patches": False}
_COUNTS = Stage(
    "counts", 400, 3e-4, floor=0.05, slow=2e-5, shown="pixels", annotated=True, hiding=4, worlds=True,
    weights=EVERYTHING | {"count_all": 2.5, "count_colour": 1.0, "digit": 2.0}, count=6,
)  # fmt: skip

COURSE = (
    Stage("look", 400, 8e-4, floor=2 / 3, blend=(0.0, 0.0), drills={"where": 0.8, "at": 0.2}, **_THIN),  # type: ignore[arg-type]
    Stage("blend", 600, 6e-4, floor=0.5, blend=(0.0, 1.0), drills={"where": 0.6, "at": 0.4}, **_THIN),  # type: ignore[arg-type]
    Stage("everything", 900, 6e-4),
    Stage("tower", 300, 0.0, floor=0.02, slow=6e-4, pictures=32, shown="vectors"),
    Stage("pixels", 1000, 4e-4, slow=1e-4, shown="pixels", annotated=True),
    Stage("partners", 500, 3e-4, floor=0.05, slow=5e-5, shown="pixels", annotated=True, triggered=True),
    Stage("worlds", 800, 3e-4, floor=0.05, slow=2e-4, shown="pixels", annotated=True, triggered=True, worlds=True),
    # Label noise as rare as the annotation has it is seen through: a model that sees well learns to doubt labels. So a
    # prior is first learnt at full strength, and then how often it holds.
    _COUNTS,
    replace(_COUNTS, name="priors", steps=150, rate=2e-4, hiding=2, dosed=True),
)
