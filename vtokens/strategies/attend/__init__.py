"""Strategies that change attention."""
