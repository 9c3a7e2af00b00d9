"""What a recipe by name is: a frozen dataclass whose fields are its settings, and which answers one question."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack, cast

from PIL import Image
from transformers import GenerationConfig, PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.errors import shorten, unknown
from vtokens.core.facts import Facts
from vtokens.engine.attach import without
from vtokens.recipes.looking.asking import Asking, Box, Said
from vtokens.strategies import Strategy
from vtokens.strategies.fields import checked
from vtokens.strategies.stages import STAGES

if TYPE_CHECKING:
    from vtokens.core.generate_options import GenerateOptions
    from vtokens.recipes.options import RecipeOptions


@dataclass(frozen=True)
class Looked:
    """The answer of a recipe, and how it came about.

    Attributes:
        text: the answer.
        recipe: the recipe with its settings, as `--recipe` takes it.
        passes: how often a prompt was read; the new tokens of each answer come on top.
        boxes: (left, top, right, bottom), the pixels of the picture that were shown again; none if none were.
        images: what the prompt that was answered shows, in its order.
        said: that prompt, its tokens and its answer's (`Said`).
        notes: what else the recipe tells, by name: maps of attention, captions of parts, neighbours.
        flops, flops_full: decoder FLOPs of all the prompts that were read, as run and without pruning.
    """

    text: str
    recipe: str
    passes: int
    boxes: tuple[Box, ...]
    images: tuple[Image.Image, ...]
    said: Said
    notes: Mapping[str, Any] = field(default_factory=dict)
    flops: int = 0
    flops_full: int = 0

    def told(self) -> str:
        """What the command line says of the answer."""
        where = ", ".join(f"({', '.join(map(str, box))})" for box in self.boxes)
        passes = f"{self.passes} {'pass' if self.passes == 1 else 'passes'}"
        return f"{self.recipe}: {passes}{f', shown again: {where}' if where else ''}"

    def facts(self) -> dict[str, Any]:
        """What `vtokens run --json` tells of the answer."""
        return {"recipe": self.recipe, "passes": self.passes, "boxes": [list(box) for box in self.boxes]}


@dataclass(frozen=True)
class Recipe(ABC):
    """Base of the recipes that are known by name (`vtokens.recipes.looking.registry.recipe`).

    Subclasses write `answer`, and `watches` if they look with strategies of their own. Passes that look are those of
    the plain model, whatever is attached to it: a pruner would leave nothing to look at where it dropped tokens. What
    is attached acts in the passes that answer.

    Attributes:
        name, paper, venue, evidence, shown: what `recipe` was given, as strategies' are.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    venue: ClassVar[str] = ""
    evidence: ClassVar[str] = ""
    shown: ClassVar[str] = ""

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in checked(type(self), given).items():
            object.__setattr__(self, name, value)

    @abstractmethod
    def answer(self, asking: Asking) -> Looked:
        """Look, and answer the question of `asking`."""

    def watches(self, facts: Facts) -> tuple[Strategy, ...]:
        """The strategies with which this recipe looks at a model; a model that takes none of them is refused."""
        return ()

    def check(self, model: PreTrainedModel) -> None:
        """Raise `ValueError` if this recipe cannot be carried out on `model`: settings, or what the family is."""
        watching = self.watches(adapter_for(model).facts)
        try:
            with without(model, STAGES, *watching):
                pass
        except ValueError as error:
            raise ValueError(f"the recipe {self.name!r} cannot look at this model: {error}") from error

    def __str__(self) -> str:
        """The recipe as `--recipe` takes it; only settings that differ from their defaults are written."""
        pairs = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        changed = [f"{name}={value!r}" for name, value, default in pairs if value != default]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def __call__(
        self,
        model: PreTrainedModel,
        processor: Any,
        image: Image.Image,
        question: str,
        **options: Unpack[GenerateOptions],
    ) -> Looked:
        """Answer one question about one picture.

        Args:
            model: of a supported family; what is attached to it acts in the passes that answer.
            processor: the model's.
            image: the picture.
            question: the plain question; the chat around it is the model's own.
            options: of `generate`, for the passes that answer; greedy decoding of 64 tokens unless they say otherwise.

        Raises:
            TypeError: several pictures or questions, which are asked one by one, or something else in their place.
            ValueError: a family that the recipe cannot look at, or an option that `generate` does not have.
        """
        for value, kind, what in ((image, Image.Image, "picture"), (question, str, "question")):
            if not isinstance(value, kind):
                raise TypeError(
                    f"the recipe {self.name!r} answers one question about one picture, and was given "
                    f"{shorten(type(value).__name__)} for the {what}: call it for each of several"
                )
        known = vars(GenerationConfig())
        for name in options:
            if name not in known and name not in ("stopping_criteria", "logits_processor", "streamer"):
                raise unknown(f"option of the recipe {self.name!r} or of generate:", name, [*known, *self._settings()])
        self.check(model)
        return self.answer(Asking(model, processor, image, question, options))

    def _settings(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self)]

    def looked(self, asking: Asking, said: Said, boxes: tuple[Box, ...] = (), **notes: Any) -> Looked:
        """The outcome whose answer is `said`."""
        more = {"flops": asking.flops, "flops_full": asking.flops_full}
        return Looked(said.text, str(self), asking.passes, boxes, said.images, said, notes, **more)


class RecipeFunction(Protocol):
    """What `function` makes of a recipe."""

    def __call__(
        self,
        model: PreTrainedModel,
        processor: Any,
        image: Image.Image,
        question: str,
        **options: Unpack[RecipeOptions],
    ) -> Looked:
        """As `Recipe.__call__`, with the recipe's settings among the options."""


def function(cls: type[Recipe]) -> RecipeFunction:
    """The function of a recipe: `crop(model, processor, image, question, **settings and options of generate)`."""
    names = {f.name for f in dataclasses.fields(cls)}

    def call(model: PreTrainedModel, processor: Any, image: Image.Image, question: str, **options: Any) -> Looked:
        own = {name: value for name, value in options.items() if name in names}
        rest = {name: value for name, value in options.items() if name not in names}
        return cls(**own)(model, processor, image, question, **rest)

    call.__name__ = call.__qualname__ = cls.name
    call.__module__ = cls.__module__
    call.__doc__ = f"{cls.__doc__}\n\nArguments and errors as in `Recipe.__call__`; settings are given by name."
    return cast(RecipeFunction, call)
