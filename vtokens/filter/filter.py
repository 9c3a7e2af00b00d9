"""The hallucination filter: check what a model says about a picture, and act on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from torch import nn
from transformers import PreTrainedModel

from vtokens.adapters.wrappers import unwrapped
from vtokens.core.errors import shorten
from vtokens.core.weights import doubts
from vtokens.filter.actions.action import Outcome, apply, check_action
from vtokens.filter.actions.regenerate import RETRIES, JudgedResponse, check_retries, regenerate
from vtokens.filter.actions.stream import Event, live
from vtokens.filter.calibrators.calibrator import CalibrationWarning
from vtokens.filter.calls import Calls
from vtokens.filter.chats import Chat, is_chat
from vtokens.filter.gate import Gate
from vtokens.filter.guarantees.risk import Risk
from vtokens.filter.guarantees.setting import attached_strategy, fingerprint
from vtokens.filter.mentions import Extractor
from vtokens.filter.report import ResponseReport
from vtokens.filter.saved import find, read_filter, ships_for
from vtokens.filter.signals import Signal
from vtokens.scenes.embedded import is_embedded

if TYPE_CHECKING:
    from vtokens.core.generate_options import GenerateOptions
    from vtokens.loading.options import FilterOptions


class HallucinationFilter(Calls):
    """Says which parts of an answer the image does not support, and acts on it.

    The model is used as it is: strategies attached to it run as in `generate`, and nothing is left behind.

    Attributes:
        model, processor: what answers.
        judge: signals, extractor and calibrator.
        calibration: the responses that thresholds are calibrated on; None if there are none.
        batch_size: samples in one pass.
    """

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module | str | Path,
        processor: Any = None,
        signals: str | Sequence[str | Signal] | None = None,
        extractor: str | Extractor | None = None,
        calibrator: str | Path | None = "auto",
        batch_size: int = 16,
        **load_kwargs: Unpack[FilterOptions],
    ) -> HallucinationFilter:
        """A filter for a model.

        Args:
            model: a loaded model, with any strategies attached, or what `vtokens.load` takes.
            processor: the model's; not needed for a model given by name.
            signals: "fast" (they cost no pass beyond the one that writes or reads the response), "full", or a list of
                names; None for those of the calibrator, or "fast".
            extractor: what finds mentions, by name (`vtokens.filter.mentions.extractors()`); None for the calibrator's,
                else "scenes" for a model that ships with us, and "chunks" for others.
            calibrator: a saved filter: a file, a folder, or "owner/name" on the hub; "auto" for the one that ships with
                the model, if one does; None for none, and then scores only rank.
            batch_size: samples in one pass.
            load_kwargs: as of `vtokens.load`: `strategy`, `keep`, `dtype`, ...

        Raises:
            TypeError: a loaded model without its processor.
            ValueError: an unknown name, a calibrator of another model or with other signals, or strategies on the model
                beside which nothing can be recorded, as tokens that count for several (`census`, and `auto` for it).
            OSError: no such file or model.
        """
        if isinstance(model, str | Path):
            from vtokens.loading.load import load

            model, loaded = load(model, **load_kwargs)
            model.eval()
            processor = loaded if processor is None else processor
        elif not hasattr(model, "named_parameters"):
            raise TypeError(f"model={shorten(model)} is neither a model nor the name of one")
        elif processor is None or load_kwargs:
            what = "its processor is needed too" if processor is None else f"{sorted(load_kwargs)} come too late"
            raise TypeError(f"this model is loaded already: {what}")
        model = cast(PreTrainedModel, unwrapped(model))
        saved = find(fingerprint(model), attached_strategy(model)) if calibrator == "auto" else None
        if saved is None and calibrator == "auto":
            _say_if_unknown(model)
        if calibrator is not None and calibrator != "auto":
            saved = read_filter(calibrator)
        if saved is None:
            finds = extractor or ("scenes" if is_embedded(model.name_or_path or "") else "chunks")
            return cls(model, processor, signals or "fast", finds, batch_size=batch_size)
        return cls(
            model, processor, signals or saved.signals, extractor or saved.extractor, saved.calibrator,
            saved.calibration, batch_size,
        )  # fmt: skip

    @overload
    def check(
        self,
        images: Any,
        prompt: str | Chat,
        response: Any,
        *,
        risk: Risk | float | None = ...,
        threshold: float | None = ...,
    ) -> ResponseReport: ...

    @overload
    def check(
        self,
        images: Any,
        prompt: Sequence[str] | Sequence[Chat],
        response: Any,
        *,
        risk: Risk | float | None = ...,
        threshold: float | None = ...,
    ) -> list[ResponseReport]: ...

    def check(
        self,
        images: Any,
        prompt: str | Chat | Sequence[str] | Sequence[Chat],
        response: Any,
        *,
        risk: Risk | float | None = None,
        threshold: float | None = None,
    ) -> ResponseReport | list[ResponseReport]:
        """Judge a response that is there already: one pass of the model that reads it.

        Args:
            images: a picture, or a list of those the prompt is about; for a batch, a list of these. A picture is a PIL
                image, a path, or a uint8 array or tensor; it is turned as its EXIF orientation says
                (`vtokens.core.images.as_image`). A video is a `vtokens.video.Clip`, as `vtokens.video.read` gives it.
            prompt: what was asked, as text or as a chat (turns {"role": ..., "content": ...}, as `apply_chat_template`
                takes them, with their pictures, or with places for `images`); for a batch, a list.
            response: text, or the token ids that the model generated; for a batch, a list of these.
            risk: flag so much that this is kept (`certificate`).
            threshold: flag mentions with a probability above it; 0.5 if neither is given.

        Returns:
            A `ResponseReport`, or a list of them for a batch.

        Raises:
            TypeError: what is no picture, no prompt or no response.
            OSError: a picture that cannot be read.
            ValueError: a sample without picture, a response longer than the model's context, a risk that cannot be
                guaranteed, a threshold outside [0, 1].

        Warns:
            CalibrationWarning: videos, or several pictures, and a calibrator that ships with a model. That was fitted
                on single pictures, so that such responses are judged without it (`ResponseReport.calibrated`).
        """
        single, reports = self._read(images, prompt, response, "flag", risk, threshold)
        return reports[0] if single else reports

    def act(
        self,
        images: Any,
        prompt: str | Chat | Sequence[str] | Sequence[Chat],
        response: Any,
        action: str = "flag",
        *,
        risk: Risk | float | None = None,
        threshold: float | None = None,
    ) -> Outcome | list[Outcome]:
        """Act on responses that are there already, by the threshold that belongs to the action.

        Args:
            images, prompt, response: as in `check`.
            action: "flag", "redact" or "abstain", as in `generate`.
            risk, threshold: as in `generate`.

        Raises:
            ValueError: as `check` and `generate`; "regenerate", which would make other responses.
        """
        if check_action(action) == "regenerate":
            raise ValueError("action='regenerate' writes responses: generate does it, from the prompt on")
        single, reports = self._read(images, prompt, response, action, risk, threshold)
        outcomes = [apply(report, action) for report in reports]
        return outcomes[0] if single else outcomes

    @overload
    def generate(
        self,
        images: Any,
        prompt: str | Chat,
        action: str = ...,
        *,
        risk: Risk | float | None = ...,
        threshold: float | None = ...,
        retries: Sequence[str] = ...,
        gate: Gate | None = ...,
        **generate_kwargs: Unpack[GenerateOptions],
    ) -> Outcome: ...

    @overload
    def generate(
        self,
        images: Any,
        prompt: Sequence[str] | Sequence[Chat],
        action: str = ...,
        *,
        risk: Risk | float | None = ...,
        threshold: float | None = ...,
        retries: Sequence[str] = ...,
        gate: Gate | None = ...,
        **generate_kwargs: Unpack[GenerateOptions],
    ) -> list[Outcome]: ...

    def generate(
        self,
        images: Any,
        prompt: str | Chat | Sequence[str] | Sequence[Chat],
        action: str = "flag",
        *,
        risk: Risk | float | None = None,
        threshold: float | None = None,
        retries: Sequence[str] = RETRIES,
        gate: Gate | None = None,
        **generate_kwargs: Unpack[GenerateOptions],
    ) -> Outcome | list[Outcome]:
        """Let the model answer, and act on what it should not have said.

        Args:
            images, prompt: as in `check`.
            action: "flag" marks, "redact" drops the sentence, "regenerate" writes it again and drops it if that does
                not help, "abstain" says nothing at all.
            risk: what may remain, as in `certificate`; None for the one that was calibrated for. What is written again
                is outside the guarantee; `calibrate_policy` makes one for it.
            threshold: a probability to use in place of a calibrated threshold; nothing is guaranteed then. "flag" takes
                0.5 if neither is given.
            retries: ways to write again: "ban", "resample" or strategies (`filter.regenerate`).
            gate: lets answers through unchecked of whose first token the model was sure (`ResponseReport.checked`); a
                batch is recorded unless all of it is let through.
            generate_kwargs: as of `model.generate`.

        Returns:
            An `Outcome`, or a list of them for a batch.

        Raises:
            ValueError: an unknown action, no threshold to go by, a risk that cannot be guaranteed, or several returned
                sequences.
        """
        check_action(action)
        single, shown, asked = self._samples(images, prompt)
        if action == "regenerate":
            check_retries(retries)
        if generate_kwargs.get("num_return_sequences", 1) != 1:
            raise ValueError(
                f"num_return_sequences={generate_kwargs['num_return_sequences']} is not allowed: an answer is filtered "
                "at a time, so 1 is"
            )
        generation = self._generation(shown, action, risk, threshold, generate_kwargs)
        if gate is not None and generation.guaranteed:
            raise ValueError(
                "a gate lets answers through unchecked, of which no risk is known: give threshold=, or no gate"
            )
        drafts = generation.draft(shown, asked, gate, **generate_kwargs)
        if action == "regenerate":
            outcomes = regenerate(self.model, generation, drafts, shown, asked, retries, **generate_kwargs)
        else:
            outcomes = [apply(draft.report, action) for draft in drafts]
        return outcomes[0] if single else outcomes

    def stream(
        self,
        images: Any,
        prompt: str | Chat,
        action: str = "flag",
        *,
        risk: Risk | float | None = None,
        threshold: float | None = None,
        retries: Sequence[str] = RETRIES,
        **generate_kwargs: Unpack[GenerateOptions],
    ) -> Iterator[Event]:
        """As `generate`, one sentence at a time: each is held back until it is judged, while the model writes on.

        The texts of the events, joined, are the text that `generate` would give; only "abstain" differs, since what was
        shown cannot be taken back: it ends the answer at the first flagged sentence. With "regenerate" the model stops
        there, and goes on with the sentence written again. The model is busy until the iterator is exhausted or closed.

        Raises:
            ValueError: as `generate`; also for a batch, and for signals that cost passes of their own.
        """
        check_action(action)
        ways = check_retries(retries)
        if not isinstance(prompt, str) and not is_chat(prompt):
            raise ValueError("stream() answers one prompt at a time: generate() takes a batch")
        _, [shown], [prompt] = self._samples(images, prompt)
        generation = self._generation([shown], action, risk, threshold, generate_kwargs)

        def write(heard: Callable[[JudgedResponse, int], bool]) -> JudgedResponse:
            return generation.listen(shown, prompt, heard, **generate_kwargs)

        def finish(written: JudgedResponse, stopped: bool) -> Outcome:
            if stopped:
                written = generation.read(
                    [shown], [prompt], generation.write([shown], [prompt], [written.ids], **generate_kwargs)
                )[0]
            return regenerate(self.model, generation, [written], [shown], [prompt], ways, **generate_kwargs)[0]

        return live(write, finish, action)


def _say_if_unknown(model: PreTrainedModel) -> None:
    """Warn where it cannot be told whether a calibrator that ships fits."""
    why = doubts(model)
    if why is not None and ships_for(model.config.model_type):
        warnings.warn(
            f"whether the calibrator that ships for a {model.config.model_type} model fits this one is not known, "
            f"since its weights {why}: none is used, and scores only rank. Fit one on this model, or give its file",
            CalibrationWarning,
            stacklevel=3,
        )
