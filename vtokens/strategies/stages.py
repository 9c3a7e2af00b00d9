"""The stages of a pass, by name."""

from __future__ import annotations

STAGES = ("pixels", "encode", "prompt", "layer", "rows", "attend", "states", "cache", "logits")
"""Where a strategy can act, in order; a strategy acts at stage `s` by overriding `at_s`."""
