"""Attention of merged tokens: python benchmarks/kernels/unmerge.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
