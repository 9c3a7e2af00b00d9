"""Plans of batches whose rows run programs of their own, made once where the same ones come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.engine.plan import Plan
from vtokens.strategies import Strategy

_MOST = 128  # that are remembered

Programs = Sequence[tuple[Strategy, ...]]


class Plans:
    """The plans that were made last of one model; a copy starts without any."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[tuple[int, ...], ...], tuple[Programs, Plan]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Plans], tuple[()]]:
        return Plans, ()

    def of(self, adapter: Adapter, programs: Programs) -> Plan:
        """The plan of a program for each row, of these very strategies: `Handle.runs` asks which objects run.

        Raises:
            TypeError, ValueError: as `Plan`.
        """
        key = tuple(tuple(map(id, program)) for program in programs)
        found = self._known.get(key)
        if found is None:  # with the strategies, whose numbers would be given to others if they were let go
            found = self._known[key] = programs, Plan(adapter, programs=programs)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return found[1]
