"""Compiles the block-sparse Triton kernels for a GPU without one, as `compiled.py` does; run by a test."""

import sys

import torch

from tests.kernels.compiled import compiled
from vtokens.kernels._triton import attention_sums, block_sparse, rows

INDICES = {"q_slot": "*i32", "k_slot": "*i32", "ids": "*i32", "start": "*i64", "count": "*i32", "full": "*i32"}
INDICES |= {"heads": "*i32", "work": "*i32", "shares": "*i32", "parts": "*fp32", "part_lse": "*fp32", "lse": "*fp32"}


def main(file: str) -> None:
    """Print a line for every variant."""
    for dtype, short, dim, block in (
        (torch.bfloat16, "*bf16", 128, (128, 64)),
        (torch.bfloat16, "*bf16", 128, (128, 128)),
        (torch.bfloat16, "*bf16", 64, (128, 64)),
        (torch.float16, "*fp16", 80, (64, 64)),
        (torch.float32, "*fp32", 128, (128, 64)),
    ):
        wide = 128 if dim > 64 else 64
        options = block_sparse.settings(dtype, dim, block[0])
        sizes = {"WIDE": dim, "BLOCK_M": block[0], "BLOCK_W": wide}
        constants = {"DIM": dim, "BLOCK_N": block[1], "BLOCK_D": wide, "CAUSAL": True, "UPCAST": False, **sizes}
        types = INDICES | dict.fromkeys(("query", "key", "value", "output"), short) | {"scale": "fp32"}
        print(dim, block, compiled(block_sparse._attend, types, constants, options, file))
        print(dim, block, compiled(block_sparse._merge, types, sizes, {"num_warps": 4}, file))
    for groups in (1, 2):
        options = rows.settings(torch.bfloat16, 128, 64)
        del options["BLOCK_N"]
        constants = {"DIM": 128, "BLOCK_D": 128, "GROUPS": groups, "UPCAST": False, "BLOCK_M": options.pop("BLOCK_M")}
        types = {"query": "*bf16", "key": "*bf16", "group": "*i64", "position": "*i64", "lse": "*fp32"}
        types |= {"column": "*fp32", "parts": "*fp32", "scale": "fp32"}
        print(groups, compiled(attention_sums._sums, types, constants, options, file))


if __name__ == "__main__":
    main(sys.argv[1])
