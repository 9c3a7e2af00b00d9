"""Tests of the patterns of attention heads."""
