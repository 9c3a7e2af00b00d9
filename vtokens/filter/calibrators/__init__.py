"""From signals to probabilities: labelled records, fits, shipped calibrators."""
