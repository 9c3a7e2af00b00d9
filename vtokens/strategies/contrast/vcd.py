"""VCD: what the model would say of a noised picture is held against what it says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.strategies.contrast.weighted import Weighted
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Pixels

SCHEDULE = 1000
"""Steps of the diffusion schedule."""


@register(
    "vcd",
    paper="VCD, arXiv:2311.16922",
    venue="CVPR 2024",
    evidence="text",
    shown="tests/strategies/test_contrast.py::test_noise_is_the_schedule_of_the_paper",
)
@dataclass(frozen=True)
class Vcd(Weighted):
    """Contrasts the answer with that to a noised picture.

    The logits become (1 + alpha) l - alpha l', where l' comes from the same prompt with pixels after `steps` steps of
    forward diffusion. Tokens less than `beta` times as probable as the favourite are ruled out.

    Attributes:
        alpha: weight of the contrast; 1 in the paper's scripts, 0.5 as default of its code.
        beta: 0 rules nothing out, 1 leaves the favourite alone.
        steps: diffusion steps, 0 to 999; 500 in the paper.
        seed: of the noise; pictures of one size get the same, so that a batch row is noised as it would be alone,
            and the frames of a video differ.
        branch: strategies under which the noised prompt runs, as "random(keep=0.1)"; None: the others of the spec.
    """

    steps: int = 500
    seed: int = 0
    branch: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("steps", SCHEDULE - 1), ("seed", 2**63 - 1)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"{name}={value} is out of range: 0 to {most} is allowed")

    def negative(self, facts: Facts) -> Pixels:
        return Pixels(self.noised, self.branch)

    def noised(self, pixels: Tensor) -> Tensor:
        """sqrt(a) x + sqrt(1 - a) e with the schedule of the released code; pixels as `Pixels.change` says."""
        betas = torch.linspace(-6, 6, SCHEDULE, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
        left = (1 - betas).cumprod(0)[self.steps].item()
        shape = pixels.shape[-3:] if pixels.dim() > 2 else pixels.shape
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        return (left**0.5 * pixels.float() + (1 - left) ** 0.5 * on_device(noise, pixels.device)).to(pixels.dtype)
