"""Strategies that contrast logits with those of a negative prompt."""
