"""Scores of keys: python benchmarks/kernels/attention_colsum.py [--device cuda] [--threads 2] [--csv FILE]."""

from common import main

main(__file__)
