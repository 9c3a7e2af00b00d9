"""Drawn cases for the property tests, and the models they run on, built once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

import vtokens
from tests.families import BLIND, EVERY, build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.strategies import Facts, Strategy, VideoPruner, parse
from vtokens.strategies.signals import OfTower

SIZES = ((100, 60), (60, 130), (84, 84), (30, 200), (57, 112), (170, 50))
TEXTS = (
    "",
    "a",
    "Is there a red square?",
    "<image> is what?",
    "Describe the picture in detail, then answer: <image>",
    "On the left <image> and on the right, how many blue circles are there in all of it?",
)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beam": {"do_sample": False, "num_beams": 3},
    "sample": {"do_sample": True, "top_k": 0, "temperature": 1.3},
}


@cache
def model(family: str, role: str, attention: str = "sdpa") -> Any:
    """A tiny model; the same weights for every `role` ("pruned" ones get strategies attached, "plain" ones never)."""
    return build(family, attn_implementation=attention)[0]


def share(of: int) -> int:
    """Examples of a costly property: all under `fuzz`, and one in `of` where the suite has to be done in minutes."""
    most = settings.default.max_examples
    return -(-most // of) if settings.default.derandomize else most


def examples(family: str) -> int:
    """Examples of a property that holds for every family; mechanisms are drawn from `EVERY`, so others have five."""
    if family not in EVERY and settings.default.derandomize:
        return 5
    return -(-settings.default.max_examples // len(EVERY))


@dataclass(frozen=True)
class Case:
    """What one example of the property test runs.

    Attributes:
        spec: the strategies.
        prompts, sizes: one prompt, and the (width, height) of its images, for each row.
        side: padding side.
        mode: a key of `MODES`.
        seed: of the images and of sampling.
        attention: of the pruned model and of the reference.
    """

    spec: str
    prompts: tuple[str, ...]
    sizes: tuple[tuple[tuple[int, int], ...], ...]
    side: str
    mode: str
    seed: int
    attention: tuple[str, str]

    def batch(self, family: str) -> dict[str, Any]:
        """The batch as the family's own processor makes it."""
        pictures = [
            [image(*size, seed=self.seed + 10 * row + number) for number, size in enumerate(group)]
            for row, group in enumerate(self.sizes)
        ]
        return dict(inputs(family, list(self.prompts), pictures, self.side))  # type: ignore[arg-type]


def mixed(family: str, case: Case) -> bool:
    """Whether transformers would give the beams of a case features of the wrong pictures: vtokens refuses it."""
    beams = MODES[case.mode].get("num_beams", 1) > 1 and max(map(len, case.sizes)) > 1
    return beams and adapter_for(model(family, "plain")).mixes_copies


@cache
def _masks(cls: type[Strategy]) -> bool:
    """Whether pruning with a strategy, and with all that it is composed of, is masking what it drops of images.

    What is merged is not masked. DART measures turned keys, whose length by absolute values depends on where they
    stand; a plain call numbers padding on the left, and `generate` does not.
    """
    if {"pixels", "rows", "attend", "states", "encode", "logits"} & {*cls.stages()} or issubclass(cls, VideoPruner):
        return False
    parts = parse(cls())
    merging = any(".merge." in type(part).__module__ or part.needs(FACTS).blends for part in parts)
    return not merging and all(part.name != "dart" for part in parts)


def refused(target: str | Any, spec: str) -> str | None:
    """Why one of the strategies of a spec is refused by itself, on a family or on a model; None if none is."""
    target = model(target, "branch") if isinstance(target, str) else target
    return next(filter(None, (_alone(target, strategy) for strategy in parse(spec))), None)


@cache
def _alone(target: Any, strategy: Strategy) -> str | None:
    try:
        with vtokens.attach(target, strategy):
            return None
    except ValueError as error:
        return str(error)


@cache
def replaced(target: Any, spec: str) -> bool:
    """Whether `auto` stands for something on a model, as it does by what was measured, that does more than mask."""
    with vtokens.attach(target, spec) as handle:
        return not all(_masks(type(strategy)) for strategy in handle.strategies)


def unseen(family: str, spec: str) -> bool:
    """Whether strategies ask for what nobody can see of the tower of a family: vtokens refuses them."""
    facts = Facts(family, depth=4, tower_depth=4, has_cls=True)
    signals = (
        [signal for strategy in parse(spec) for signal in strategy.needs(facts).signals] if family in BLIND else []
    )
    return any(isinstance(signal, OfTower) for signal in signals)


FACTS = Facts("llava", depth=4, tower_depth=4, has_cls=True)
SHARES = st.one_of(st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.floats(0.02, 0.99))
COUNTS = st.integers(1, 4)  # no family makes fewer than 4 tokens of an image
BLOCKS = st.lists(st.integers(-4, 3), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def terms(draw: st.DrawFn, counts: bool = True) -> str:
    """One strategy with drawn settings; `counts` allows `keep` to be a number of tokens."""
    keep = draw(st.one_of(SHARES, COUNTS) if counts else SHARES)
    # Whatever is registered and drops tokens of images, with drawn settings where we know them.
    name = draw(st.sampled_from([name for name in vtokens.strategies() if _masks(vtokens.strategies.get(name))]))
    fields: dict[str, Any] = {"keep": keep} if "keep" in vtokens.describe(name).fields else {}
    if name == "random":
        fields["seed"] = draw(st.integers(0, 3))
    elif name == "cls":
        fields["layers"] = draw(st.one_of(st.none(), BLOCKS))
    elif name == "fastv":
        fields["layer"] = draw(st.integers(1, 3))
        fields["query_scope"] = draw(st.sampled_from(["last", "all_text"]))
        fields["pool"] = draw(st.sampled_from(["image", "sample"]))
    elif name == "feather":  # a share, not a count; some decoders do not let their rotary embedding be undone
        fields["keep"], fields["rotary"] = draw(SHARES), True
    elif name == "auto":  # measured by shares
        fields["keep"] = draw(SHARES)
    elif name == "sparsevlm":
        fields["recycle"] = False
    elif name == "todre":
        fields["objective"] = draw(st.sampled_from(["maxsum", "kcenter"]))
        fields["exit_threshold"] = draw(st.sampled_from([None, 0.1, 0.5, 2.0]))  # nothing exceeds 2: a forced exit
        fields["exit_depth"] = draw(st.sampled_from([0.25, 0.5, 0.875]))
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"


@st.composite
def specs(draw: st.DrawFn) -> str:
    """One strategy, or now and then two or three composed; a later one may not count on tokens already gone."""
    more = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
    return "+".join([draw(terms(counts=more == 0)), *(draw(terms(counts=False)) for _ in range(more))])


@st.composite
def pictured(
    draw: st.DrawFn, rows: st.SearchStrategy[int]
) -> tuple[list[str], tuple[tuple[tuple[int, int], ...], ...]]:
    """Prompts, and the sizes of the 0 to 2 images of each: at least one in all."""
    count = draw(rows)
    groups = st.lists(st.sampled_from(SIZES), min_size=int(count == 1), max_size=2).map(tuple)
    sizes = draw(st.tuples(*[groups] * count).filter(any))
    texts = [draw(st.sampled_from(TEXTS)) for _ in sizes]
    return [
        text if group else text.replace("<image>", "it") or "hello" for text, group in zip(texts, sizes, strict=True)
    ], sizes


@st.composite
def batches(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """A ragged batch of a family: at most three rows of 0 to 2 images, at least one in all, padded on either side."""
    rows = draw(st.lists(st.lists(st.sampled_from(SIZES), max_size=2), min_size=1, max_size=3).filter(any))
    texts = [draw(st.sampled_from(TEXTS if len(row) == 2 else TEXTS[:4] if row else TEXTS[1:3])) for row in rows]
    seed = draw(st.integers(0, 99))
    pictures = [
        [image(*size, seed=seed + 9 * number + row) for number, size in enumerate(group)]
        for row, group in enumerate(rows)
    ]
    return dict(inputs(family, texts, pictures, draw(st.sampled_from(["left", "right"]))))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A whole case: at least one image in the batch, 0 to 2 in each row of a ragged one."""
    prompts, sizes = draw(pictured(st.sampled_from([1, 3])))
    return Case(
        spec=draw(specs()),
        prompts=tuple(prompts),
        sizes=sizes,
        side=draw(st.sampled_from(["left", "right"])),
        mode=draw(st.sampled_from(sorted(MODES))),
        seed=draw(st.integers(0, 99)),
        attention=draw(st.sampled_from([("sdpa", "eager"), ("eager", "eager"), ("sdpa", "sdpa"), ("eager", "sdpa")])),
    )
