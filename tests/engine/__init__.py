"""Tests of the engine: pruned equals masked, generation, life cycle, errors."""
