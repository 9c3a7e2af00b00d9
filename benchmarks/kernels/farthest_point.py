"""Greedy diverse subsets: python benchmarks/kernels/farthest_point.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
