"""Triton versions of the kernels; imported where they run only. They are written for triton 3.5 and later."""
