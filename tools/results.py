"""What the pages' tables are made of: the tables under benchmarks/results."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tables import read

__all__ = ["read"]
