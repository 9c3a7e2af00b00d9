"""What generated pages are made with: the page itself, and the tables under benchmarks/results."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.page import Page
from benchmarks.tables import ROOT, interval, markdown, read

__all__ = ["COMMAND", "ROOT", "Page", "interval", "markdown", "read"]
COMMAND = "python tools/readme.py"
