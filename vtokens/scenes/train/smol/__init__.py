"""The recipe of scenes-smol, from installed packages to the shipped files: `python -m vtokens.scenes.train smol`."""
