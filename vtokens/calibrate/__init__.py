"""Measuring the tables of a live model: sinks, thresholds, patterns."""
