"""A plugin for pytest: torchvision's import is told that two of its operators exist, which come with CUDA alone.

Nothing in the tests calls them. It has to be read before transformers, which looks whether torchvision imports.
"""

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
