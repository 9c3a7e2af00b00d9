"""What the scripts of this folder share: each runs `vtokens bench kernels` for the kernel it is named after.

The cases are in `vtokens/bench/kernels/`; see benchmarks/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vtokens.cli import main as vtokens  # noqa: E402


def main(script: str) -> None:
    """Measure the kernel that `script` is named after; the options are those of `vtokens bench kernels`."""
    vtokens(["bench", "kernels", "--kernel", Path(script).stem, *sys.argv[1:]])
