"""Compiles the Triton kernels for a GPU (compute capability 9.0) without one; run by `test_triton_compiles.py`."""

import re
import subprocess
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vtokens.kernels._triton import attend, group_mean, recycled, rows, unfold, unmerge_rows


def compiled(
    kernel: triton.JITFunction, types: dict, constants: dict, options: dict, file: str, ones: tuple[str, ...] = ()
) -> str:
    """Compile one variant; arguments that `types` does not name are int32, `ones` are 1, pointers and strides aligned.

    Returns:
        One line: the kernel, its registers, spilled bytes (LOCAL) and shared memory.
    """
    # Integers that are 1 are compiled into the kernel, as constants without the methods of a tensor.
    constants = constants | dict.fromkeys(ones, 1)
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    aligned = [name for name in names if signature[name].startswith("*") or name[1:2] == "_"]
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    out = triton.compile(ASTSource(kernel, signature, fixed, hints), target=GPUTarget("cuda", 90, 32), options=options)
    with open(file, "wb") as cubin:
        cubin.write(out.asm["cubin"])
    tool = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file]
    usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    return " ".join([kernel.fn.__name__, *re.findall(r"(?:REG|LOCAL):\d+", usage), f"SHARED:{out.metadata.shared}"])


def attention(file: str) -> None:
    """Print a line for every variant of the kernel that attends."""
    for dtype, short, dim, count, ones, kind in (
        (torch.bfloat16, "*bf16", 128, 4, ("batches", "shared", "joint", "rows", "g_row", "p_row"), "GROUPED"),
        (torch.bfloat16, "*bf16", 128, 400, (), "GROUPED"),
        (torch.float16, "*fp16", 80, 28, ("rows",), "GROUPED"),
        (torch.float32, "*fp32", 128, 400, (), "GROUPED"),
        (torch.bfloat16, "*bf16", 128, 400, ("groups",), "LISTED"),
        (torch.float16, "*fp16", 80, 16, ("groups", "joint", "listed"), "LISTED"),
        (torch.bfloat16, "*bf16", 128, 7, ("groups", "rows", "l_head"), "LENGTHS"),
        (torch.float32, "*fp32", 96, 1, ("groups", "rows", "joint", "shared"), "LENGTHS"),
    ):
        options = attend.settings(dtype, dim, count)
        constants = {name: options.pop(name) for name in ("BLOCK_M", "BLOCK_N")}
        constants |= {"DIM": dim, "WIDE": dim, "BLOCK_D": 128, "BLOCK_W": 128, "CAUSAL": True, "UPCAST": False}
        constants |= {name: name == kind for name in ("GROUPED", "LISTED", "LENGTHS")}
        constants["SKIP"] = kind == "LISTED" or (kind == "GROUPED" and count >= constants["BLOCK_M"])
        types = {"query": short, "key": short, "value": short, "group": "*i64", "position": "*i64"}
        integer = "*i64" if dtype == torch.bfloat16 else "*i32"
        types |= {"index": integer, "length": integer, "output": "*fp32", "lse": "*fp32", "scale": "fp32"}
        print(kind, compiled(attend._attend, types, constants, options, file, ones))


def others(file: str) -> None:
    """Print a line for every variant of the rest."""
    apart = "batches", "joint", "splits", "p_row"
    for count, ones in ((4, ("batches", "shared", "joint", "rows", "splits", "p_row")), (400, ()), (64, apart)):
        options = rows.settings(torch.bfloat16, 128, count)
        constants = {name: options.pop(name) for name in ("BLOCK_M", "BLOCK_N")}
        constants |= {"DIM": 128, "BLOCK_D": 128, "BIASED": True, "CAUSAL": True, "UPCAST": False}
        types = {"query": "*bf16", "key": "*bf16", "bias": "*fp32", "position": "*i64", "scale": "fp32"}
        types |= {"lse": "*fp32", "weight": "*fp32", "received": "*fp32"}
        for kernel in (rows._normalise, rows._receive):
            print(compiled(kernel, types, constants, options, file, tuple(n for n in ones if n in kernel.arg_names)))
    for half, block, short in ((64, 64, "*bf16"), (40, 64, "*fp16")):
        types = dict.fromkeys(("states", "cos", "sin", "out"), short) | {"member": "*i64"}
        constants = {"HALF": half, "BLOCK_N": 32, "BLOCK_H": block, "UPCAST": False}
        print(compiled(unfold._unfold, types, constants, {"num_warps": 4}, file))
        types = {"states": short, "out": short, "order": "*i64", "bounds": "*i64"}
        constants = {"DIM": 2 * half, "BLOCK_C": 1024, "UPCAST": False}
        print(compiled(group_mean._mean, types, constants, {"num_warps": 4}, file))
    types = dict.fromkeys(("query", "key", "value"), "*bf16") | {"member": "*i64", "angle": "*fp32", "valid": "*i1"}
    types |= {"output": "*fp32", "lse": "*fp32", "scale": "fp32"}
    constants = {"HALF": 64, "WIDE": 128, "BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_H": 64, "BLOCK_W": 128, "PADDED": True}
    for ones in (("rows", "shared", "batches"), ("rows",)):
        print(compiled(unmerge_rows._rows, types, constants, {"num_warps": 8, "num_stages": 2}, file, ones))
    blocks = {"WIDE": 128, "BLOCK_R": 16, "BLOCK_W": 128}
    floats = dict.fromkeys(("parts", "part_lse", "output", "lse", "weights"), "*fp32")
    floats |= dict.fromkeys(("fraction", "min_share", "min_ratio"), "fp32")
    for ones in ((), ("rows", "splits")):
        print(compiled(attend._merge, floats, blocks, {"num_warps": 4}, file, ones))
        print(compiled(recycled._recycle, floats, blocks, {"num_warps": 4}, file, ones))


if __name__ == "__main__":
    {"attention": attention, "others": others}[sys.argv[1]](sys.argv[2])
