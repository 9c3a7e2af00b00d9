"""Questions whose answer flipped against `none`, and the questions most worth showing."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import TypeVar

from vtokens.eval.metrics import mcnemar

from .answers import Answers, Question
from .results import Results, StrategyAtKeep, mean

Item = TypeVar("Item")


@dataclass(frozen=True)
class Flip:
    """A question on which `none` and a setting differ in being right."""

    question: Question
    setting: StrategyAtKeep
    gained: bool


@dataclass(frozen=True)
class Flips:
    """All flips of a setting among the `compared` questions that both answered, with McNemar's exact p-value."""

    setting: StrategyAtKeep
    compared: int
    lost: tuple[Flip, ...]
    gained: tuple[Flip, ...]
    p_value: float


def flips(results: Results, answers: Answers) -> list[Flips]:
    """For each setting, the questions it answers right and `none` wrong or the other way round; none without `none`."""
    base = results.baseline
    found = []
    for setting in results.settings if base else ():
        if base is None or setting.key == base.key:
            continue
        plain, pruned, changed = [], [], []
        for question in answers.questions:
            before, after = question.given.get(base.key), question.given.get(setting.key)
            if before and after and before.correct is not None and after.correct is not None:
                plain.append(before.correct)
                pruned.append(after.correct)
                if before.correct != after.correct:
                    changed.append(Flip(question, setting, after.correct))
        if plain:
            lost, gained = (tuple(f for f in changed if f.gained is way) for way in (False, True))
            found.append(Flips(setting, len(plain), lost, gained, mcnemar(plain, pruned).p_value))
    return found


def spread(groups: Iterable[Sequence[Item]], limit: int) -> list[Item]:
    """Up to `limit` items, the groups taking turns, so that no group crowds out another."""
    turns = (item for turn in zip_longest(*groups, fillvalue=None) for item in turn if item is not None)
    return list(islice(turns, limit))


def pick(answers: Answers, limit: int) -> list[Question]:
    """Questions with a picture on which the settings disagree most, the tasks taking turns.

    Most telling is a question that half of the settings get right.
    """
    by_task: dict[str, list[tuple[float, int, Question]]] = {}
    for place, question in enumerate(answers.questions):
        drawn = [g for g in question.given.values() if g.kept is not None]
        if drawn:
            right = mean(float(g.correct) for g in drawn if g.correct is not None)
            doubt = right * (1 - right) if right == right else 0.0
            by_task.setdefault(question.task, []).append((-doubt, place, question))
    for part in by_task.values():
        part.sort(key=lambda entry: entry[:2])
    return [question for *_, question in spread(by_task.values(), limit)]


def draw(flips_: Sequence[Flip], limit: int, pictured: bool = False) -> list[Flip]:
    """Up to `limit` flips, the settings taking turns and each setting's in random order, the same in every call."""
    groups: dict[str, list[Flip]] = {}
    for flip in flips_:
        if not pictured or (flip.question.picture and flip.question.given[flip.setting.key].kept is not None):
            groups.setdefault(flip.setting.key, []).append(flip)
    rng = random.Random(0)
    return spread([rng.sample(group, len(group)) for group in groups.values()], limit)
