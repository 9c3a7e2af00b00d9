"""Operations on plain tensors; they know nothing of models."""

from vtokens.kernels.attention_rows import attention_colmean, attention_rows
from vtokens.kernels.farthest_point import farthest_point
from vtokens.kernels.grouped_attention import group_weights, grouped_attention, reweigh

__all__ = [
    "attention_colmean",
    "attention_rows",
    "farthest_point",
    "group_weights",
    "grouped_attention",
    "reweigh",
]
