"""Whose the keyword arguments of `vtokens.load` are: the strategy's, transformers', or the model's config's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from vtokens.adapters import models
from vtokens.core.budget import Keep
from vtokens.core.errors import nearest
from vtokens.strategies import Spec, list_strategies
from vtokens.strategies.options import StrategyOptions
from vtokens.strategies.spec import field_names


class HubOptions(TypedDict, total=False):
    """Where files of a model come from; config, processor and saved strategy are asked for with these too."""

    cache_dir: str | Path | None
    force_download: bool
    local_files_only: bool
    revision: str
    subfolder: str
    token: str | bool | None
    trust_remote_code: bool


class TransformersOptions(HubOptions, total=False):
    """What transformers' `from_pretrained` takes by name, in the releases supported."""

    adapter_kwargs: Mapping[str, Any] | None
    adapter_name: str | None
    allow_all_kernels: bool
    attn_implementation: str | Mapping[str, str] | None
    code_revision: str | None
    config: Any
    device_map: Any
    device_mesh: Any
    disable_mmap: bool | None
    distributed_config: Any
    dtype: Any
    experts_implementation: Any
    fusion_config: Any
    generation_config: Any
    gguf_file: str | None
    ignore_mismatched_sizes: bool
    kernel_config: Any
    key_mapping: Mapping[str, str] | None
    max_memory: Mapping[Any, Any] | None
    offload_buffers: bool
    offload_folder: str | Path | None
    offload_state_dict: bool
    proxies: Mapping[str, str] | None
    quantization_config: Any
    state_dict: Mapping[str, Any] | None
    torch_dtype: Any
    tp_plan: Any
    tp_size: int | None
    tqdm_class: Any
    use_kernels: bool
    use_safetensors: bool | None
    variant: str | None
    weights_only: bool


class LoadOptions(StrategyOptions, TransformersOptions, total=False):
    """The keyword arguments of `vtokens.load`: fields of a single strategy, and what transformers takes.

    Fields of the model's config are taken too, and are too many to be written here: a checker lets them pass where they
    come as `**config`, a `dict[str, Any]`.
    """


class FilterOptions(LoadOptions, total=False):
    """What a filter of a model given by name takes: all arguments of `vtokens.load`."""

    strategy: Spec | None
    keep: Keep | None


HUB = tuple(HubOptions.__annotations__)
"""What config, processor and saved strategy are asked for with too."""

_READ_NO_MORE = ("_commit_hash", "_fast_init", "from_flax", "from_tf", "low_cpu_mem_usage", "mirror")
"""What transformers accepts still."""


def split(
    spec: Spec, options: Mapping[str, Any], config: PretrainedConfig | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are fields of the strategy, and those that transformers is given.

    Args:
        spec: the strategy, as in `vtokens.attach`; None if it is not known yet.
        options: what was given.
        config: of the model; None if it is not known yet, so that it may be of any family.

    Raises:
        ValueError: an option that nobody takes; names the nearest and says what is allowed.
    """
    if not options:
        return {}, {}
    # Without a strategy, an option may be that of any: it is then said what is missing.
    fields = field_names(spec) if spec is not None else set().union(*map(field_names, list_strategies()))
    passed = {name: value for name, value in options.items() if name in from_pretrained_names()}
    rest = {name: value for name, value in options.items() if name not in passed}
    mine = {name: value for name, value in rest.items() if name in fields}
    known = _config_fields(config) if rest.keys() - mine else set()
    for name in rest.keys() - mine:
        if name not in known:
            near = nearest(name, [*fields, *from_pretrained_names(), *known])
            whose = "" if spec is None else f" ({', '.join(sorted(fields)) or 'it has none'})"
            raise ValueError(
                f"unknown option {name!r} of vtokens.load.{near} Allowed: fields of the strategy{whose}, arguments of "
                "transformers' from_pretrained (dtype, device_map, attn_implementation, revision, ...) and fields of "
                "the model's config"
            )
        passed[name] = rest[name]
    return mine, passed


def from_pretrained_names() -> set[str]:
    """The keyword arguments of transformers' `from_pretrained`."""
    signature = inspect.signature(PreTrainedModel.from_pretrained).parameters.values()
    return {
        *TransformersOptions.__annotations__,
        *_READ_NO_MORE,
        *(parameter.name for parameter in signature if parameter.kind is parameter.KEYWORD_ONLY),
    }


def _config_fields(config: PretrainedConfig | None) -> set[str]:
    """What a config lets `from_pretrained` set; of all families, and of their decoders, if it is not known yet."""
    if config is None:
        # A family that another package brings may have a config of its own, which transformers learns with its import.
        families = [CONFIG_MAPPING[family]() for family in models() if family in CONFIG_MAPPING]
        # A checkpoint's config has more than the family's default: token ids, which decoders' configs know.
        configs = [*families, *(family.get_text_config() for family in families)]
    else:
        configs = [config]
    names = {name for one in configs for name in {*vars(one), *one.attribute_map, *_settable(type(one))}}
    return {name for name in names if not name.startswith("_")}


def _settable(kind: type) -> set[str]:
    return {name for name, value in inspect.getmembers_static(kind) if isinstance(value, property) and value.fset}
