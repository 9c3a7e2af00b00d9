"""Pictures that see each other across the text between them (Molmo 2): what is worked out for that, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.strategies import Needs, Strategy


def check_joined(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if a strategy acts inside of attention, where pictures see each other across text.

    Args:
        active: strategies that act on the model, and what they need.
    """
    visibility = adapter.anatomy.visibility
    if visibility is None or not visibility.joined:
        return
    for strategy, needs in active:
        what = "acts inside of attention" if needs.attend and not needs.watches else ""
        what = "runs the text by itself" if needs.text_lane else what
        if what:
            raise ValueError(
                f"{strategy.name!r} {what}, and in a {type(adapter.model).__name__} the pictures of a prompt see each "
                "other across the text between them, which is worked out where attention is read, not where it is "
                "changed: strategies that drop tokens are supported"
            )
