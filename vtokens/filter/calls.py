"""A call of a filter: its samples opened, its threshold found, and refused where it cannot be carried out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vtokens.filter.actions.action import check_action
from vtokens.filter.actions.generation import FilterGeneration
from vtokens.filter.calibrators.calibrator import CalibrationWarning
from vtokens.filter.chats import opened
from vtokens.filter.fitted import Fitted
from vtokens.filter.guarantees.limits import resolve
from vtokens.filter.guarantees.risk import Risk
from vtokens.filter.judge import Judge, one_picture
from vtokens.filter.report import ResponseReport
from vtokens.filter.samples import responses, samples
from vtokens.filter.saved import ships
from vtokens.filter.trace import passes
from vtokens.loading.context import check_characters, context_of
from vtokens.loading.media import Medium


class Calls(Fitted):
    """A filter up to what it runs: `HallucinationFilter` generates and reads with what `_generation` gives."""

    def check_action(self, action: str, *, risk: Risk | float | None = None, threshold: float | None = None) -> None:
        """Raise `ValueError` if this filter cannot act so on what the model says as it runs now; nothing is run.

        Args:
            action, risk, threshold: as of `generate`, with greedy decoding.
        """
        check_action(action)
        passes.check(self.model, self._wanted())
        resolve(self.judge.calibrator, self.calibration, self.setting(do_sample=False), action, risk, threshold)

    def _read(
        self, images: Any, prompt: Any, response: Any, action: str, risk: Risk | float | None, threshold: float | None
    ) -> tuple[bool, list[ResponseReport]]:
        """Whether it is a single sample, and the reports of responses that are there already."""
        single, shown, asked = self._samples(images, prompt)
        given = responses(response, single, len(asked), self.model.config.get_text_config().vocab_size)
        for number, one in enumerate(given):
            if isinstance(one, str):
                check_characters(one, context_of(self.model), f"responses[{number}]")
        generation = self._generation(shown, action, risk, threshold, {})
        return single, [one.report for one in generation.read(shown, asked, given)]

    def _samples(self, images: Any, prompt: Any) -> tuple[bool, list[list[Medium]], list[str]]:
        single, shown, asked = samples(*opened(self.processor, images, prompt))
        for one in asked:
            check_characters(one, context_of(self.model), "the prompt")
        return single, shown, asked

    def _generation(
        self,
        shown: Sequence[Sequence[Medium]],
        action: str,
        risk: Risk | float | None,
        threshold: float | None,
        generate_kwargs: Mapping[str, Any],
    ) -> FilterGeneration:
        now = self.setting(**generate_kwargs)
        limit = resolve(self.judge.calibrator, self.calibration, now, action, risk, threshold)
        judge = self._judge_of(shown, limit.certificate is not None)
        return FilterGeneration(self.model, self.processor, judge, self._wanted(), limit, now, self.batch_size)

    def _judge_of(self, shown: Sequence[Sequence[Medium]], guaranteed: bool) -> Judge:
        """The judge of these samples: a calibrator that ships is none for what it was not fitted on."""
        other = [number for number, media in enumerate(shown) if not one_picture(media)]
        if not other or self.judge.calibrator is None or not ships(self.judge.calibrator):
            return self.judge
        what = f"{len(shown[other[0]])} pictures" if len(shown[other[0]]) > 1 else "a video"
        message = (
            f"images[{other[0]}] is {what}, and the calibrator that ships with this model was fitted on responses "
            "about one picture: it is not used there, and scores only rank"
        )
        if guaranteed:
            raise ValueError(
                f"{message}, so that no risk can be guaranteed: show one picture, give threshold=, which guarantees "
                "nothing, or fit(records) and calibrate(records) of your own"
            )
        warnings.warn(f"{message}. Fit one on records of your own", CalibrationWarning, stacklevel=4)
        return replace(self.judge, single=True)
