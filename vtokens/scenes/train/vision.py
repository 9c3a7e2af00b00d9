"""The vision tower's training pass: what transformers' CLIP computes (a test compares), in a form that compiles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's normalisation


def normalised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 (B, 96, 96, 3) -> (B, 3, 96, 96) as the processor would give them."""
    mean, std = (torch.tensor(v, device=pixels.device) for v in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).to(dtype)


def _layer(x: Tensor, w: list[Tensor], heads: int, eps: float) -> Tensor:
    """One encoder layer; w: weights and biases of layer_norm1, q, k, v, out_proj, layer_norm2, fc1, fc2."""
    size, length, width = x.shape
    qkv, bias = torch.cat((w[2], w[4], w[6])), torch.cat((w[3], w[5], w[7]))
    mixed = F.linear(F.layer_norm(x, (width,), w[0], w[1], eps), qkv, bias)
    q, k, v = mixed.view(size, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    share = (torch.matmul(q * (width // heads) ** -0.5, k.mT)).softmax(-1)
    x = x + F.linear(torch.matmul(share, v).transpose(1, 2).reshape(size, length, width), w[8], w[9])
    inner = F.linear(F.layer_norm(x, (width,), w[10], w[11], eps), w[12], w[13])
    return x + F.linear(inner * torch.sigmoid(1.702 * inner), w[14], w[15])


run_layer = _layer


def vision_states(tower: Any, pixels: Tensor) -> list[Tensor]:
    """All hidden states of a CLIPVisionModel, as `output_hidden_states=True` gives them: 5 of (B, 145, 128).

    pixels: uint8 (B, 96, 96, 3).
    """
    tower = getattr(tower, "vision_model", tower)
    x = tower.pre_layrnorm(tower.embeddings(normalised(pixels, tower.embeddings.patch_embedding.weight.dtype)))
    states = [x]
    for layer in tower.encoder.layers:
        a = layer.self_attn
        parts = (
            layer.layer_norm1,
            a.q_proj,
            a.k_proj,
            a.v_proj,
            a.out_proj,
            layer.layer_norm2,
            layer.mlp.fc1,
            layer.mlp.fc2,
        )
        w = [t for p in parts for t in (p.weight, p.bias)]
        x = run_layer(x, w, a.num_heads, layer.layer_norm1.eps)
        states.append(x)
    return states


def presence_loss(near: Tensor, last: Tensor, presence: Tensor) -> Tensor:
    """How badly [CLS] tells which classes are present: logits (B, 36) at layers -2 and -1 against float32 (B, 36)."""
    return F.binary_cross_entropy_with_logits(near, presence) + F.binary_cross_entropy_with_logits(last, presence)


class Seer(nn.Module):
    """The tower with the heads of the first stage: what each patch shows, and from [CLS] which classes are present."""

    def __init__(self, tower: nn.Module, classes: int) -> None:
        super().__init__()
        self.tower = tower
        self.head = nn.ModuleDict(
            {"patch": nn.Linear(128, classes), "near": nn.Linear(128, 36), "last": nn.Linear(128, 36)}
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 144, classes) patch logits and (B, 36) presence logits at layers -2 and -1, float32."""
        *_, near, last = vision_states(self.tower, pixels)
        heads = self.head
        return heads["patch"](near[:, 1:]).float(), heads["near"](near[:, 0]).float(), heads["last"](last[:, 0]).float()
