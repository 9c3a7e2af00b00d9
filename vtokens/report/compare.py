"""Strategies side by side on one question: answers, tokens, times, and what each kept of the pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from PIL import Image

from vtokens.core.budget import Keep
from vtokens.core.errors import shorten
from vtokens.report.compared import Compared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vtokens.core.kept import SampleReport
    from vtokens.eval.cells import Cell

STRATEGIES = ("random", "uniform", "cls", "fastv", "todre")
"""What is compared unless somebody says otherwise."""
_ROUNDS = 3
_LONGEST = 768
"""Pixels of a picture's longer side on the page."""
_ENLARGED = 480
"""Up to so many pixels of its longer side a small picture is enlarged."""


@dataclass(frozen=True)
class Comparison:
    """Strategies on one question, the plain model first; a notebook shows it as a table with pictures.

    Attributes:
        question: what was asked.
        model: what answered: its hub id, the name of its folder, or its class.
        device: where it ran, with its dtype.
        rows: the plain model, then one for each strategy and keep.
    """

    question: str
    model: str
    device: str
    rows: tuple[Compared, ...]

    def html(self) -> str:
        """One page in HTML, complete in itself."""
        from vtokens.report.side_by_side import page

        return page(self.question, self._where, self.rows)

    def save(self, path: str | Path) -> None:
        """Write the page.

        Raises:
            OSError: it cannot be written; names it.
        """
        from vtokens.core.writing import write_text

        write_text(Path(path), self.html())

    def _repr_html_(self) -> str:
        from vtokens.report.side_by_side import body

        return body(self.question, self._where, self.rows)

    @property
    def _where(self) -> str:
        return f"{self.model} on {self.device}"

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows) - 1} row(s) with the plain model: {shorten(self.question)}>"

    def __str__(self) -> str:
        width = max(len(row.title) for row in self.rows)
        lines = [self.question]
        for row in self.rows:
            share = row.first_token / row.first_token_full
            costs = f"{row.tokens:7.1f} of {row.full} tokens  first token in {share:.2f} of the time"
            lines.append(f"  {row.title:<{width}}  {costs}  {row.answer}")
        return "\n".join(lines)


def compare(
    model: PreTrainedModel,
    processor: Any,
    images: Any,
    question: str,
    strategies: str | Sequence[str] | None = None,
    keep: Keep | Sequence[Keep] = 0.25,
    *,
    max_new_tokens: int = 64,
) -> Comparison:
    """Ask one question about pictures as the model is, and under each strategy with each keep.

    Args:
        model, processor: from `vtokens.load`, or transformers' own; strategies attached by name are in the way.
        images: a picture, or several: PIL images or paths.
        question: what to ask; a prompt that holds the processor's image tokens is taken as it is.
        strategies: names or specs; one string may hold several, separated by commas. None are those of `STRATEGIES`
            that the model does not refuse.
        keep: a share or a count per picture, or several; taken by the strategies that leave their `keep` open.
        max_new_tokens: the most tokens of an answer.

    Raises:
        TypeError, ValueError: what names no strategy, picture or keep; a strategy that the model refuses, before
            anything is asked; a prompt that does not fit; strategies that are attached already.
        OSError: a picture that cannot be read.
    """
    from vtokens.engine import attach, attachment
    from vtokens.eval.cells import cells, split

    if attached := attachment(model):
        raise ValueError(f"{attached.strategy!r} is attached to the model: detach it, and name it among the strategies")
    keeps = [keep] if isinstance(keep, int | float) else [*keep]
    if strategies is None:
        names = [name for name in STRATEGIES if _runs(model, name)]
    else:
        names = split(strategies) if isinstance(strategies, str) else [*strategies]
    wanted = [cell for cell in cells(names, keeps if _takes(names) else []) if cell.strategy != "none"]
    pictures = _pictures(images)
    for cell in wanted:  # what the model refuses is told before anything is asked
        attach(model, cell.strategy).detach()
    asked = _Asked(model.eval(), processor, pictures, question, max_new_tokens)
    plain = asked.of("none", "unpruned", None)
    rows = [plain, *(asked.of(cell.strategy, _titled(cell), plain) for cell in wanted)]
    where = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    where = Path(where).name if Path(where).is_absolute() else where
    return Comparison(question, where, f"{model.device}, {str(model.dtype).removeprefix('torch.')}", tuple(rows))


def _titled(cell: Cell) -> str:
    """As it was asked for: the full settings leave out what is a default, a keep of 0.25 for one."""
    return cell.name if cell.keep is None else f"{cell.name}, keep {cell.keep}"


def _runs(model: PreTrainedModel, name: str) -> bool:
    from vtokens.engine import attach

    try:
        attach(model, name).detach()
    except ValueError:
        return False
    return True


def _takes(names: Sequence[str]) -> bool:
    from vtokens.strategies.spec import open_keeps

    return any(open_keeps(name) for name in names)


def _pictures(images: Any) -> list[Image.Image]:
    from vtokens.core.images import open_image, upright

    given = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    if not given:
        raise ValueError("there is no picture: at least one is needed")
    found = []
    for one in given:
        if isinstance(one, Image.Image):
            found.append(upright(one))
        elif isinstance(one, str | Path):
            found.append(open_image(one))
        else:
            raise TypeError(f"{type(one).__name__} is no picture: a PIL image or a path is")
    return found


class _Asked:
    """One question, asked again and again."""

    def __init__(self, model: Any, processor: Any, pictures: list[Image.Image], question: str, most: int) -> None:
        from vtokens.core.overlay import seen_image
        from vtokens.core.prompts import question_prompt
        from vtokens.loading.context import check_characters, check_room, context_of
        from vtokens.loading.media import MediaPrompt, batch_inputs

        if not question.strip():
            raise ValueError("the question is empty")
        context = context_of(model)
        check_characters(question, context, "the question")
        text = question_prompt(processor, question, len(pictures))
        self.inputs = batch_inputs(processor, [MediaPrompt(text, pictures, [])]).to(model.device)
        check_room(self.inputs["input_ids"].shape[1], most, context)
        self.model, self.processor, self.most = model, processor, most
        self.seen = [_shown(seen_image(processor, one)) for one in pictures]

    def of(self, spec: str, title: str, plain: Compared | None) -> Compared:
        """The answer under a strategy, beside what the plain model did."""
        from vtokens.engine import attach

        with attach(self.model, spec) as handle:
            answer = self._answer()
            report = handle.report()
            seconds = median(self._first_token() for _ in range(_ROUNDS))
        [sample] = report.samples
        drawn, untold = self._drawn(sample)
        return Compared(
            strategy=spec,
            title=title,
            answer=answer,
            tokens=sample.average_tokens,
            full=sum(kept.picture.tokens for kept in sample.pictures),
            first_token=seconds,
            first_token_full=seconds if plain is None else plain.first_token,
            select_seconds=report.select_seconds,
            flops=report.flops,
            flops_full=report.flops_full,
            kv_bytes=report.kv_bytes,
            kv_bytes_full=report.kv_bytes_full,
            drawn=drawn,
            untold=untold,
        )

    def _answer(self) -> str:
        tokens = self.model.generate(**self.inputs, max_new_tokens=self.most, do_sample=False)
        size = self.inputs["input_ids"].shape[1]
        return str(self.processor.batch_decode(tokens[:, size:], skip_special_tokens=True)[0].strip())

    def _first_token(self) -> float:
        begin = time.perf_counter()
        self.model.generate(**self.inputs, max_new_tokens=1, do_sample=False).tolist()  # a device has to be done
        return time.perf_counter() - begin

    def _drawn(self, sample: SampleReport) -> tuple[tuple[Image.Image, ...], str]:
        from vtokens.core.overlay import overlay, whole_picture

        kept = sample.pictures
        try:
            if len(kept) != len(self.seen):
                whole_picture(kept)
                raise ValueError(f"the model was shown {len(kept)} pictures for {len(self.seen)}")
            for one in kept:
                one.picture.check_drawn()
        except ValueError as error:
            return tuple(self.seen), str(error)
        return tuple(overlay(*pair, scale=1) for pair in zip(self.seen, kept, strict=True)), ""


def _shown(image: Image.Image) -> Image.Image:
    """A picture as large as the page needs it; small ones by a whole factor, so that patches stay sharp."""
    longest = max(image.size)
    if longest > _LONGEST:
        size = [max(1, side * _LONGEST // longest) for side in image.size]
        return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    factor = max(1, _ENLARGED // longest)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
