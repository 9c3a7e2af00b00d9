"""Tables of measured constants, model by model: sinks, merge thresholds, attention patterns."""
