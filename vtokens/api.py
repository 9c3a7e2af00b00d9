"""`vtokens.load`: a model and its processor, with strategies attached, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from vtokens import processors
from vtokens._errors import unknown
from vtokens.adapters import adapter_class
from vtokens.budget import Keep
from vtokens.engine import attach
from vtokens.hub import check_reachable
from vtokens.saved import read
from vtokens.strategies import Spec, parse

_HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)


def load(
    name_or_path: str | Path, strategy: Spec | None = None, keep: Keep | None = None, **from_pretrained_kwargs: Any
) -> tuple[PreTrainedModel, Any]:
    """Load a vision-language model and its processor, with a strategy attached.

    Args:
        name_or_path: an embedded model ("scenes-llava"), a local folder or a hub id.
        strategy: as in `vtokens.attach`. None takes the strategy saved beside the model, if there is one;
            "none" attaches nothing.
        keep: the `keep` of the strategy that takes it; goes before a saved one.
        from_pretrained_kwargs: passed to transformers: `dtype`, `device_map`, `attn_implementation`, ...

    Returns:
        (model, processor): the genuine transformers classes. `vtokens.attachment(model)` gives the handle,
        `vtokens.detach(model)` takes the strategy off.

    Raises:
        TypeError, ValueError: an unknown strategy or family, a setting out of range.
        OSError: no such folder or hub id, or a hub that cannot be reached.
    """
    drafted = None if strategy is None else parse(strategy, keep)  # before anything is downloaded
    source, hub = _locate(name_or_path), {k: v for k, v in from_pretrained_kwargs.items() if k in _HUB_OPTIONS}
    check_reachable(source, **hub)
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except OSError as error:  # offline, transformers does not say which model it looked for
        raise OSError(f"cannot load the model {source!r}: {error}") from error
    adapter_class(config.model_type)
    saved = read(source, **hub) if strategy is None else None
    if saved is not None and keep is not None:  # what is asked for now goes before what was saved
        saved = [{field: value for field, value in entry.items() if field != "keep"} for entry in saved]
    strategies = drafted if drafted is not None else parse(saved, keep)
    model = AutoModelForImageTextToText.from_pretrained(source, **from_pretrained_kwargs)
    processor = processors.load(source, config, **hub)
    if strategies:
        attach(model, strategies)
    return model, processor


def _locate(name_or_path: str | Path) -> str:
    from vtokens.scenes import embedded_models, embedded_path

    name = str(name_or_path)
    if name in embedded_models():
        return str(embedded_path(name))
    if Path(name).exists() or "/" in name:
        return name
    raise unknown("model (no embedded model or local folder; hub ids look like 'owner/name'):", name, embedded_models())
