"""Thresholds with bounded risk."""
