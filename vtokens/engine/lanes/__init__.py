"""Sequences that run beside the prompt: the negative prompt of a contrast, and the prompt's text by itself."""
