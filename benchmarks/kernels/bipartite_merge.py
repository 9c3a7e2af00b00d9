"""Token merging: python benchmarks/kernels/bipartite_merge.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
