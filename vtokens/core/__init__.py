"""Plain data and helpers that import nothing else of the package."""
