# ruff: noqa
"""Names that are not there and options that nothing takes: a line with `# bad` is one that a checker refuses."""

import vtokens
from vtokens import kernels, scenes
from vtokens import nothing  # bad
from vtokens.adapters import Adaptor  # bad
from vtokens.filter import Outcomes  # bad
from vtokens.recipes import crop, croup, opera, search_frames, zoom  # bad
from vtokens.strategies import Strategies, parse  # bad

model, processor = vtokens.load("scenes-llava", strategy="todre")
vtokens.load("scenes-llava", stratgy="todre")  # bad
vtokens.nope  # bad
scenes.exampels("test")  # bad
kernels.farthest_points  # bad
vtokens.strategies("fast*", staeg="layer")  # bad

vtokens.load("folder", "todre", kep=0.1)  # bad
vtokens.load("folder", "todre", keep="0.1")  # bad
vtokens.load("folder", devicemap="auto")  # bad
vtokens.load("folder", atn_implementation="sdpa")  # bad
vtokens.load("folder", "cls", position="compact")  # bad
vtokens.load("folder", "cls", positions="compacted")  # bad
vtokens.attach(model, "todre", kep=0.1)  # bad
vtokens.attach(model, "fastv", layers_=2)  # bad
vtokens.attach(model, "random", seed="one")  # bad
vtokens.attach("scenes-llava", "todre")  # bad
parse("vcd", alfa=0.5)  # bad
vtokens.from_pretrained("folder", revison="main")  # bad
vtokens.attach(model, "cls").reprot()  # bad

vtokens.HallucinationFilter.from_pretrained("scenes-llava", stratgy="cls")  # bad
hf = vtokens.HallucinationFilter.from_pretrained("scenes-llava")
hf.generate(None, "Describe the image.", treshold=0.5)  # bad
hf.stream(None, "Describe the image.", max_new_token=64)  # bad
hf.fit([], seeds=1)  # bad

crop(model, processor, scenes.examples()[0].image, "What?", metod="gradient")  # bad
crop(model, processor, scenes.examples()[0].image, "What?", method="gradients")  # bad
zoom(model, processor, str, scenes.examples()[0].image, shares=0.5)  # bad
opera(model, {}, num_beam=4)  # bad
search_frames("clip.mp4", "rain", lambda images, query: [], treshold=0.7)  # bad
