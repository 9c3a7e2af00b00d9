"""vLLM's processors with fewer placeholders a picture: as many as strategies keep of its tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import BaseProcessingInfo, InputProcessingContext

from vtokens.core.errors import shorten
from vtokens.core.picture import Picture
from vtokens.integrations.vllm.choosers import KEY, Choosers, default_of, written

_STARTED = (
    'vtokens: this server was started without it: start it with --mm-processor-kwargs \'{"vtokens": '
    '{"strategy": "none"}}\', or with a strategy for requests that name none'
)


class Context(InputProcessingContext):
    """A context whose kwargs for transformers' processors lack what is ours."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **options: Any) -> dict[str, Any]:
        """The kwargs of the server and of a request, without ours."""
        merged: dict[str, Any] = super().get_merged_mm_kwargs(_rest(kwargs), **options)
        merged.pop(KEY, None)
        return merged


class Info(BaseProcessingInfo):
    """Part of a family's processing info, in front of vLLM's class."""

    ctx: Any

    def __init__(self, ctx: Any) -> None:
        given = {field.name: getattr(ctx, field.name) for field in dataclasses.fields(ctx) if field.init}
        super().__init__(Context(**given))


class Processor:
    """Part of a family's processor, in front of vLLM's class."""

    info: Any

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)  # type: ignore[call-arg]
        self._default = default_of(info.ctx.get_mm_config().mm_processor_kwargs)
        self._choosers = None if self._default is None else self.choosers(info.get_hf_config(), self._default)

    def choosers(self, config: Any, default: Any) -> Choosers:
        """What the model can be asked for."""
        return Choosers(config, default)

    def pictures(self, number: int, items: Any) -> Picture:
        """Picture `number` of a prompt.

        Args:
            items: vLLM's items of modality "image", as transformers' processor made them.
        """
        raise NotImplementedError

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """What memory is reserved for: pictures with all their tokens, as a request may ask for them."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        if self._choosers is not None:
            inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, KEY: {"strategy": "none"}}
        return inputs

    def _chooser(self, kwargs: Mapping[str, object]) -> Any:
        own = kwargs.get(KEY)
        if self._choosers is None:
            if own is not None:
                raise ValueError(_STARTED)
            return None
        return self._choosers.asked(own)

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Process a prompt; what cannot be asked for is refused before anything is cached."""
        chooser = self._chooser(inputs.hf_processor_mm_kwargs)
        if chooser is not None and chooser.text != "none":
            self._check_items(inputs.mm_data_items, chooser)
        return super().apply(inputs, *args, **kwargs)  # type: ignore[misc]

    def _check_items(self, items: Any, chooser: Any) -> None:
        from vllm.multimodal.parse import ImageEmbeddingItems

        text = chooser.text
        if chooser.signals and self.info.ctx.get_mm_config().mm_encoder_tp_mode == "data":
            raise ValueError(
                f"vtokens: {text!r} reads the vision tower, and mm_encoder_tp_mode='data' spreads pictures over ranks: "
                "'weights' is allowed, or a strategy that reads features alone"
            )
        if isinstance(items.get("image"), ImageEmbeddingItems):
            raise ValueError(
                f"vtokens: {text!r} chooses behind the vision tower, and embeddings were given: give images"
            )
        if items.get_count("video", strict=False):
            raise ValueError(f"vtokens: {text!r} chooses among tokens of images, and a video was given: ask for 'none'")

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Mapping[str, object]:
        found = super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached)  # type: ignore[misc]
        own = inputs.hf_processor_mm_kwargs
        return {**found, KEY: own[KEY]} if KEY in own else dict(found)  # a family may have made them anew, without ours

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        processed = super()._apply_hf_processor_main(mm_items=mm_items, hf_kwargs=_rest(hf_kwargs))  # type: ignore[misc]
        chooser, count = self._chooser(hf_kwargs), mm_items.get_count("image", strict=False)
        if chooser is not None and count:
            processed[KEY] = [written(chooser.text)] * count
        return processed

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, _rest(hf_processor_mm_kwargs)))  # type: ignore[misc]
        if KEY in hf_inputs:
            fields[KEY] = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items=mm_items, hf_processor_mm_kwargs=_rest(hf_processor_mm_kwargs), out_mm_kwargs=out_mm_kwargs
        )
        chooser = self._chooser(hf_processor_mm_kwargs)
        if chooser is None or chooser.text == "none":
            return list(updates)

        def fewer(number: int, whole: Any) -> Any:
            """The placeholders of one picture."""
            tokens = whole(number) if callable(whole) else whole
            picture = self.pictures(number, out_mm_kwargs["image"])
            if len(picture) != len(tokens):
                raise ValueError(
                    f"vtokens: {shorten(picture)} has {len(picture)} positions, and vLLM reserves {len(tokens)} for it"
                )
            return tokens[: len(picture) - picture.tokens + chooser.kept(picture.tokens)]

        return [
            dataclasses.replace(update, replacement=functools.partial(fewer, whole=update.replacement))
            if update.modality == "image"
            else update
            for update in updates
        ]


def _rest(kwargs: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in kwargs.items() if name != KEY}
