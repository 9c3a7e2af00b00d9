"""Benchmarks of the kernels on the machine at hand; `vtokens bench kernels` prints them."""
