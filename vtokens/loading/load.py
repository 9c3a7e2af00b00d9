"""`vtokens.load`: a model and its processor, with strategies attached, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from vtokens.adapters import adapter_class, models
from vtokens.core.budget import Keep
from vtokens.engine import attach
from vtokens.loading import processors
from vtokens.loading.hub import check_reachable, locate
from vtokens.loading.options import HUB, LoadOptions, split
from vtokens.loading.saved import read
from vtokens.strategies import Spec, parse

_SHOWN = 4  # names in a message

if TYPE_CHECKING:

    class VisionLanguageModel(PreTrainedModel):
        """What `load` returns: of transformers' own class, of which checkers need to know that it can generate."""

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            """As transformers' `generate`."""

else:
    VisionLanguageModel = PreTrainedModel


def load(
    name_or_path: str | Path, strategy: Spec | None = None, keep: Keep | None = None, **options: Unpack[LoadOptions]
) -> tuple[VisionLanguageModel, Any]:
    """Load a vision-language model and its processor, with a strategy attached.

    Args:
        name_or_path: an embedded model ("scenes-llava"), a local folder or a hub id.
        strategy: as in `vtokens.attach`. None takes the strategy saved beside the model, if there is one;
            "none" attaches nothing.
        keep: the `keep` of the strategy that takes it; goes before a saved one.
        options: further fields of a single strategy, as in `vtokens.attach`; all others are passed to transformers:
            `dtype`, `device_map`, `attn_implementation`, ..., and fields of the model's config.

    Returns:
        (model, processor): the genuine transformers classes; of an omni model, its thinker. `vtokens.attachment(model)`
        gives the handle, `vtokens.detach(model)` takes the strategy off.

    Raises:
        TypeError, ValueError: an unknown strategy, option or family, a setting out of range, a checkpoint in which
            weights are missing.
        OSError: no such folder or hub id, or a hub that cannot be reached.
    """
    fields, _ = split(strategy, options)  # before anything is downloaded
    drafted = None if strategy is None else parse(strategy, keep, **fields)
    hub = {name: value for name, value in options.items() if name in HUB}
    source = locate(name_or_path, **hub)
    check_reachable(source, **hub)
    try:
        whole = AutoConfig.from_pretrained(source, **hub)
    except OSError as error:  # offline, transformers does not say which model it looked for
        raise OSError(f"cannot load the model {source!r}: {error}") from error
    config = _seeing(whole)
    adapter_class(config.model_type)
    saved = read(source, **hub) if strategy is None else None
    if saved is not None and keep is not None:  # what is asked for now goes before what was saved
        saved = [{field: value for field, value in entry.items() if field != "keep"} for entry in saved]
    fields, passed = split((saved or "none") if strategy is None else strategy, options, config)
    strategies = drafted if drafted is not None else parse(saved, keep, **fields)
    if config is not whole:
        passed["config"] = config
    loaded: Any = AutoModelForImageTextToText.from_pretrained(source, output_loading_info=True, **passed)
    model, found = loaded
    _check_complete(source, found)
    processor = processors.load(source, whole, **hub)
    if strategies:
        attach(model, strategies)
    return model, processor


def _seeing(config: Any) -> Any:
    """The config of the model that is loaded: the whole one, or that of the part that sees, of an omni model."""
    known = models()
    if config.model_type in known:
        return config
    parts = (getattr(config, name, None) for name in getattr(config, "sub_configs", ()))
    return next((part for part in parts if getattr(part, "model_type", None) in known), config)


def _check_complete(source: str, found: Any) -> None:
    """Raise `ValueError` where transformers made up weights that the checkpoint has not; tied ones are not missing."""
    missing = sorted(found["missing_keys"])
    if missing:
        names = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise ValueError(
            f"{len(missing)} of the weights of {source!r} are missing from its checkpoint ({names}): answers would "
            "come from random numbers. Get all of its files, or, if these weights are of no importance, load it with "
            "transformers and use vtokens.attach(model, strategy)"
        )
