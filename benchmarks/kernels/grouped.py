"""Attention by groups of keys: python benchmarks/kernels/grouped.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
