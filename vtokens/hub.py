"""Whether the hub can be asked at all, found out at once instead of after the retries of each file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

_SECONDS = 5.0


def check_reachable(source: str, **hub: Any) -> None:
    """Return if `source` is a folder, is in the cache, or the hub answers; one request without retries.

    Args:
        source: a local folder or a hub id.
        hub: as in `from_pretrained`; `revision` and `cache_dir` are read.

    Raises:
        OSError: the hub cannot be reached.
    """
    if Path(source).exists() or hub.get("local_files_only") or constants.HF_HUB_OFFLINE:
        return
    where = {name: hub[name] for name in ("revision", "cache_dir") if hub.get(name) is not None}
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(source, "config.json", **where), str):
            return
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except (HFValidationError, OfflineModeIsEnabled):
        return  # transformers says what is wrong with the name, or that the hub is switched off
    except Exception as error:  # which HTTP library raises differs between releases of huggingface_hub
        raise OSError(
            f"cannot load the model {source!r}: it is no local folder and not in the cache, and {constants.ENDPOINT} "
            f"cannot be reached ({error}). Check the name and the network, or give the path of a downloaded folder"
        ) from error
