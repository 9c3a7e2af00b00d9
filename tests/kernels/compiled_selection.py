"""Compiles the Triton kernels that choose and merge tokens, as `compiled.py` does; run by a test."""

import sys

from tests.kernels.compiled import compiled
from vtokens.kernels._triton import bipartite_merge, farthest_point
from vtokens.kernels.bipartite_merge import TIE


def main(file: str) -> None:
    """Print a line for every variant."""
    types = {"gram": "*fp32", "scale": "*fp32", "valid": "*u8", "start": "*i64", "count": "*i32", "chosen": "*i8"}
    for block in (1024, 4096, 16384):
        options = {"num_warps": farthest_point.settings(block)}
        print(compiled(farthest_point._walk, types, {"BLOCK": block, "KCENTER": block == 4096}, options, file))
    types |= {"cost": "*fp32", "low": "*fp32", "place": "*i32"}
    for short in ("*bf16", "*fp32"):
        constants = {"DIM": 3584, "BLOCK_M": 32, "BLOCK_D": 128, "TILES": 1024, "KCENTER": True}
        print(compiled(farthest_point._choose, types | {"states": short}, constants, {"num_warps": 4}, file))
    types = {"scale": "*fp32", "source": "*i64", "target": "*i64", "open_": "*u8", "score": "*fp32", "best": "*i64"}
    for short, dim in (("*bf16", 64), ("*fp16", 80), ("*fp32", 64)):
        constants = {"TIE": TIE, "DIM": dim, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_D": 64, "UPCAST": False}
        options = {"num_warps": 4, "num_stages": 2}
        print(compiled(bipartite_merge._match, types | {"metric": short}, constants, options, file))
    types = {"weight": "*fp32", "order": "*i64", "begin": "*i64", "end": "*i64"}
    for short in ("*bf16", "*fp32"):
        shaped = types | {"hidden": short, "mean": short}
        print(compiled(bipartite_merge._mean, shaped, {"BLOCK": 256}, {"num_warps": 4}, file))


if __name__ == "__main__":
    main(sys.argv[1])
