"""The recipe that trained scenes-qwen; run it with `python -m vtokens.scenes.train qwen --out DIR --seed 0`."""
