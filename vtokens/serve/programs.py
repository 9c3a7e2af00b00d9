"""Which strategies a request runs: by the name of its model, a preset, or what it asks for itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vtokens.core.errors import nearest, shorten
from vtokens.filter import ACTIONS
from vtokens.serve.asked import ChatRequest, FilterAsked
from vtokens.serve.checked import wrong
from vtokens.serve.errors import Refused
from vtokens.serve.settings import Settings
from vtokens.serve.trusted import check_trusted
from vtokens.strategies import Strategy, format_spec, parse


@dataclass(frozen=True)
class Wish:
    """What a request runs.

    Attributes:
        model: the id that it named.
        strategy: as text; of the server's own as it was written.
        program: the same, read; () for none.
        filter: what the filter does; None for nothing.
        kept: whether to tell which tokens were kept.
    """

    model: str
    strategy: str
    program: tuple[Strategy, ...]
    filter: FilterAsked | None
    kept: bool

    @property
    def label(self) -> str:
        """Their names alone, of which there are few, for metrics."""
        return "+".join(one.name for one in self.program) or "none"


class Programs:
    """The models that /v1/models lists, and what each runs.

    Args:
        settings: of the server.

    Raises:
        TypeError, ValueError: a strategy that cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._trust, self._filtering = settings.trust, settings.filter != "none"
        self.base = settings.shown
        self._specs: dict[str, Any] = {self.base: settings.strategy}
        self._specs |= {f"{self.base}:{name}": spec for name, spec in settings.presets.items()}
        self.programs = {
            model: parse(spec, settings.keep if model == self.base else None) for model, spec in self._specs.items()
        }
        self._told = {model: str(spec) for model, spec in self._specs.items()}
        if settings.strategy is None or settings.keep is not None:
            self._told[self.base] = format_spec(self.programs[self.base])
        self._presets = {name: f"{self.base}:{name}" for name in settings.presets}
        self._always: FilterAsked | None = None
        if settings.action is not None:
            if settings.action not in ACTIONS:
                raise ValueError(f"unknown action {shorten(settings.action)}.{nearest(settings.action, ACTIONS)}")
            self._always = FilterAsked.model_validate(
                {"action": settings.action, "risk": settings.risk, "threshold": settings.threshold}
            )

    @property
    def presets(self) -> Iterable[str]:
        """Their names."""
        return self._presets

    def spec(self, model: str) -> str:
        """What a listed model runs, as it was written: a reader need not know defaults."""
        return self._told[model]

    def wish(self, asked: ChatRequest) -> Wish:
        """What a request runs.

        Raises:
            Refused: 404 for a model that is not here, 400 for a strategy that is none, or that is not let in.
        """
        model, more = asked.model or self.base, asked.vtokens
        if model not in self.programs:
            near, known = nearest(model, self.programs), ", ".join(self.programs)
            message = f"the model {shorten(model)} is not here.{near} Allowed: {known}"
            raise Refused(404, message, code="model_not_found", param="model")
        if more is None:
            return Wish(model, self.spec(model), self.programs[model], self._always, False)
        filtered = more.filter or self._always
        if filtered is not None and not self._filtering:
            raise wrong("this server has no filter (it was started with --filter none)", "vtokens.filter", "no_filter")
        text, program = self._program(model, more.strategy, more.keep)
        return Wish(model, text, program, filtered, bool(more.kept))

    def _program(self, model: str, strategy: str | None, keep: Any) -> tuple[str, tuple[Strategy, ...]]:
        if strategy is None and keep is None:
            return self.spec(model), self.programs[model]
        if strategy is not None and model != self.base:
            message = f"the model {model!r} names a preset, and vtokens.strategy={shorten(strategy)} another: give one"
            raise wrong(message, "vtokens.strategy")
        if keep is None and strategy in self._presets:
            return self.spec(self._presets[strategy]), self.programs[self._presets[strategy]]
        if not self._trust:
            param = "vtokens.strategy" if strategy is not None else "vtokens.keep"
            presets = ", ".join(self._presets) or "none"
            near = nearest(strategy, self._presets) if strategy is not None else ""
            given = shorten(keep if strategy is None else strategy)
            message = (
                f"{param}={given} is not let in: this server runs presets (--trust-request-strategy lets in others)."
            )
            raise wrong(f"{message}{near} Presets: {presets}", param, "strategy_not_allowed")
        spec = self._specs[model] if strategy is None else self._specs.get(self._presets.get(strategy, ""), strategy)
        try:
            program = parse(spec, keep)
            if spec is strategy:
                check_trusted(program)
        except (TypeError, ValueError) as error:
            raise wrong(str(error), "vtokens.strategy" if strategy is not None else "vtokens.keep") from None
        return format_spec(program), program
