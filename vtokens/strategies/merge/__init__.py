"""Strategies that merge visual tokens."""
