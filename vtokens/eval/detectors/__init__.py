"""How well a filter finds what is wrong: on labels of one's own, cross-validated, and on published benchmarks."""
