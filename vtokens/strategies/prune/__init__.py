"""Strategies that drop visual tokens."""
