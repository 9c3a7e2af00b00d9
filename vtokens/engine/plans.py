"""Plans of batches whose rows run programs of their own, made once where the same ones come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.engine.plan import Plan
from vtokens.strategies import Spec, Strategy, parse

_MOST = 128  # that are remembered


class Plans:
    """The plans that were made last of one model; a copy starts without any."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[tuple[int, ...], ...], tuple[list[Spec], Plan]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Plans], tuple[()]]:
        return Plans, ()

    def of(self, adapter: Adapter, specs: Sequence[Spec]) -> Plan:
        """The plan of a program for each row; one that was made is found again by tuples of the same strategies.

        Raises:
            TypeError, ValueError: as `parse` and `Plan`.
        """
        if not all(isinstance(one, tuple) and all(isinstance(part, Strategy) for part in one) for one in specs):
            return Plan(adapter, programs=[parse(one) for one in specs])
        key = tuple(tuple(map(id, one)) for one in specs if isinstance(one, tuple))
        found = self._known.get(key)
        if found is None:  # with the strategies, whose numbers would be given to others if they were let go
            found = self._known[key] = [*specs], Plan(adapter, programs=[parse(one) for one in specs])
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return found[1]
