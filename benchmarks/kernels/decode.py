"""Decoding over unequal caches: python benchmarks/kernels/decode.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
