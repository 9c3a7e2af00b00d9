"""The model that lmms-eval finds under the name `vtokens`, through the entry-point group `lmms_eval.models`."""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """What lmms-eval registers: one name, a chat class and a simple class. Imports no model code."""
    from lmms_eval.models.registry_v2 import ModelManifest

    home = "vtokens.eval.lmms.model"
    return [ModelManifest("vtokens", f"{home}.VTokensSimple", f"{home}.VTokens")]
