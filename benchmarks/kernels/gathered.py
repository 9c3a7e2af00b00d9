"""Attention over listed keys: python benchmarks/kernels/gathered.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
