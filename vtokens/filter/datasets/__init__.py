"""Filtering caption data sets."""
