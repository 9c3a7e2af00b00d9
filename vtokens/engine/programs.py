"""A plan in which each row of a batch runs its own strategies.

handle.using(["cls(keep=0.25)", "none", "cls(keep=0.25)+vhr"])

row 0   cls         at_prompt: cls on rows 0, 2
row 1               at_attend: vhr on row 2
row 2   cls, vhr
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from vtokens.adapters import Adapter
from vtokens.engine.plan import Acting, Contrast, Plan, watched
from vtokens.strategies import Strategy, format_spec

Rows = tuple[int, ...]
K = TypeVar("K")


def by_row(adapter: Adapter, programs: Sequence[Sequence[Strategy]]) -> Plan:
    """The plan of a batch whose row i runs `programs[i]`.

    Raises:
        TypeError, ValueError: what one row cannot run on this model, or what rows cannot run beside each other.
    """
    if not programs:
        raise ValueError("no programs: one for each row of the batch is needed, 'none' for a row that is left alone")
    found: list[tuple[tuple[Strategy, ...], list[int]]] = []
    for row, program in enumerate(map(tuple, programs)):
        same = next((rows for other, rows in found if other == program), None)
        found.append((program, [row])) if same is None else same.append(row)
    plans = [(Plan(adapter, program), tuple(rows)) for program, rows in found]
    if len(plans) == 1:
        whole = plans[0][0]
    else:
        _check_beside(plans)
        whole = _spread(adapter, plans)
        if whole.contrast is not None:
            whole.contrast.plan.programs = tuple(map(tuple, programs))
    whole.programs = tuple(map(tuple, programs))
    return whole


def _check_beside(plans: Sequence[tuple[Plan, Rows]]) -> None:
    """Raise `ValueError` if rows of one batch cannot run under these plans beside each other."""
    for plan, _ in plans:
        if plan.at_encode or plan.unmerges:
            raise ValueError(
                f"{format_spec(plan.strategies)!r} merges tokens, which cannot be done for some rows of a batch only: "
                "the vision tower runs before it is known which row a picture belongs to. Give it to all rows, or run "
                "them in batches of their own"
            )
    contrasts = [plan.contrast for plan, _ in plans if plan.contrast is not None]
    if any(other.strategy != contrasts[0].strategy for other in contrasts):
        names = " and ".join(sorted({repr(format_spec([contrast.strategy])) for contrast in contrasts}))
        raise ValueError(
            f"rows of one batch would be contrasted with different negative prompts, {names}: one contrast for the "
            "rows that have any is allowed"
        )


def _spread(adapter: Adapter, plans: Sequence[tuple[Plan, Rows]]) -> Plan:
    """One plan, of plans for some rows each."""
    whole = Plan(adapter, ())
    whole.strategies = tuple(strategy for plan, _ in plans for strategy in plan.strategies)
    contrasts = [(plan.contrast, rows) for plan, rows in plans if plan.contrast is not None]
    for plan, rows in plans:
        whole.text_lane |= plan.text_lane
        whole.sizes |= plan.sizes
        whole.compact |= plan.compact
        whole.at_prompt += [replace(acting, rows=rows) for acting in plan.at_prompt]
        whole.at_logits += [replace(acting, rows=rows) for acting in plan.at_logits]
        _add(whole.at_layer, plan.at_layer, rows)
        for index, there in plan.at_attend.items():
            _extend(whole.at_attend.setdefault(index, []), there, rows)
        _add(whole.at_cache, plan.at_cache, rows)
        _add(whole.at_states, plan.at_states, rows)
        for index, signals in plan.observed.items():
            whole.observed.setdefault(index, set()).update(signals)
        for index, keys in plan.observed_keys.items():
            whole.observed_keys.setdefault(index, set()).update(keys)
        whole.relevances |= plan.relevances
        whole.blocks = sorted({*whole.blocks, *plan.blocks})
        whole.key_blocks |= plan.key_blocks
    for there in whole.at_attend.values():
        there.sort(key=lambda acting: acting.needs.watches)  # they look at what all others made of it
    whole.watched = watched(whole.at_attend)
    if contrasts:
        first, contrasted = contrasts[0][0], sorted(row for _, share in contrasts for row in share)
        under = _spread(adapter, [(contrast.plan, share) for contrast, share in contrasts])
        whole.contrast = Contrast(first.strategy, first.kind, under, tuple(contrasted))
    return whole


def _add(whole: dict[K, list[Acting]], part: Mapping[K, Sequence[Acting]], rows: Rows) -> None:
    """Add what acts on some rows to what acts on others at the same places."""
    for place, there in part.items():
        whole.setdefault(place, []).extend(replace(acting, rows=rows) for acting in there)


def _extend(acting: list[Acting], more: Sequence[Acting], rows: Rows) -> None:
    """Add what acts in the attention of a layer on some rows; what only watches looks at all rows, once."""
    for one in more:
        if not one.needs.watches:
            acting.append(replace(one, rows=rows))
        elif not any(other.strategy is one.strategy for other in acting):
            acting.append(one)
