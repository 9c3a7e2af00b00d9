"""Float32 master weights behind a fast working copy, with Muon for hidden matrices and AdamW for the rest."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


def working_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where a quick trial finds it faster than float32 (CUDA; CPUs with bfloat16 units), else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    spent = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(4096, 128, dtype=dtype), torch.ones(128, 512, dtype=dtype)
        a @ b
        start = time.perf_counter()
        for _ in range(8):
            a @ b
        spent[dtype] = time.perf_counter() - start
    return min(spent, key=lambda d: spent[d])


def _orthogonal(g: Tensor, dtype: torch.dtype) -> Tensor:
    """Newton-Schulz iteration (Jordan et al., Muon, 2024) on a stack (n, rows, columns): singular values to about 1.

    dtype: what the iteration computes in; bfloat16 is enough for it.
    """
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    turned = x.shape[-2] > x.shape[-1]
    x = (x.mT if turned else x).to(dtype)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if turned else x).float()


class Masters:
    """Trains `model` (float32) by way of `work`, a copy in the working dtype that computes losses and gradients.

    `trained` selects parameters by a list of name prefixes; the others stay as they are. `dtype` is the working one, by
    default what is fastest here.
    """

    def __init__(
        self, model: Any, trained: list[str], lr: float, decay: float = 0.01, dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.lr, self.decay = model, lr, decay
        device = next(model.parameters()).device
        self.dtype = dtype or working_dtype(device)
        self.work: Any = copy.deepcopy(model).to(self.dtype).train()
        names = [n for n, _ in model.named_parameters() if any(n.startswith(t) for t in trained)]
        mine, theirs = dict(model.named_parameters()), dict(self.work.named_parameters())
        for name, parameter in theirs.items():
            parameter.requires_grad_(name in names)
        self.pairs = [(mine[n], theirs[n]) for n in names]
        self.matrices: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        rest: list[Tensor] = []
        for name in names:
            p = mine[name]
            hidden = p.ndim == 2 and not any(w in name for w in ("embed", "lm_head", "head."))
            (self.matrices[tuple(p.shape)] if hidden else rest).append(p)
        self.momenta = {s: torch.zeros(len(ps), *s, device=device) for s, ps in self.matrices.items()}
        self.adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)

    @torch.no_grad()
    def step(self, loss: Tensor, share: float) -> float:
        """Back-propagate and step with the learning rate times `share`; returns the gradient's norm."""
        with torch.enable_grad():
            loss.backward()
        for mine, theirs in self.pairs:
            mine.grad = torch.zeros_like(mine) if theirs.grad is None else theirs.grad.float()
            theirs.grad = None
        norm = nn.utils.clip_grad_norm_([m for m, _ in self.pairs], 1.0, foreach=True)
        for group in self.adam.param_groups:
            group["lr"] = self.lr * share
        self.adam.step()
        for shape, ps in self.matrices.items():
            g = torch.stack([p.grad for p in ps if p.grad is not None])
            m = self.momenta[shape].lerp_(g, 0.05)
            # Nesterov's look-ahead; the factor matches the size of AdamW's steps (Liu et al., 2025).
            update = _orthogonal(g.lerp(m, 0.95), self.dtype) * (0.2 * math.sqrt(max(shape)))
            for p, u in zip(ps, update, strict=True):
                p.mul_(1 - self.lr * share * self.decay).add_(u, alpha=-self.lr * share)
        torch._foreach_copy_([t for _, t in self.pairs], [m for m, _ in self.pairs])
        return float(norm)
