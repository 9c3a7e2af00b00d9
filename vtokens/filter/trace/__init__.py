"""Traces: the numbers of a forward pass over a response from which signals are computed, and how they are recorded."""
