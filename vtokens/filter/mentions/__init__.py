"""Mentions and extractors: `get_extractor("coco")("A dog on a bench.")` gives the spans that can be right or wrong."""

from __future__ import annotations

from .base import KINDS, Extractor, Mention, Span, Splitter
from .registry import extractors, get_extractor

__all__ = ["KINDS", "Extractor", "Mention", "Span", "Splitter", "extractors", "get_extractor"]
