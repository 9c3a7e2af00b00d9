"""Tests of the strategies: their names and settings, and what each keeps on tiny genuine models."""
