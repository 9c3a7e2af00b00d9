"""The recipe that trained the embedded model, from nothing, on the scenes alone: `python -m vtokens.scenes.train`."""
