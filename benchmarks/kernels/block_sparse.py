"""Block-sparse attention: python benchmarks/kernels/block_sparse.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
