"""Operations on plain tensors; they know nothing of models."""

from vtokens.kernels._precision import TIE, first_most
from vtokens.kernels.attention_colmax import attention_colmax
from vtokens.kernels.attention_colsum import attention_colmean, attention_colsum
from vtokens.kernels.attention_rows import attention_rows
from vtokens.kernels.attention_sums import attention_sums
from vtokens.kernels.bipartite_merge import (
    Edges,
    Merged,
    bipartite_merge,
    compact,
    match,
    merge,
    pooled_threshold,
    unmerged_first,
)
from vtokens.kernels.block_sparse import block_sparse_attention
from vtokens.kernels.coverage import coverage
from vtokens.kernels.decode_attention import decode_attention
from vtokens.kernels.density_peaks import density_peaks, nearest_centre
from vtokens.kernels.determinantal import determinantal
from vtokens.kernels.farthest_point import farthest_point
from vtokens.kernels.gathered_attention import gathered_attention
from vtokens.kernels.greedy_walk import greedy_walk
from vtokens.kernels.group_mean import group_mean
from vtokens.kernels.grouped_attention import group_weights, grouped_attention, reweigh, reweighed_attention
from vtokens.kernels.recycling import Recycling
from vtokens.kernels.rescaled_attention import rescaled_attention
from vtokens.kernels.scaled import scaled
from vtokens.kernels.single_linkage import Tree, linked, spanning_tree
from vtokens.kernels.tiles import Tiles, in_order
from vtokens.kernels.unfold import rotate, unfold
from vtokens.kernels.unmerge import first_equal, unmerge_attention
from vtokens.kernels.unmerge_rows import unmerge_rows

__all__ = [
    "TIE",
    "Edges",
    "Merged",
    "Recycling",
    "Tiles",
    "Tree",
    "attention_colmax",
    "attention_colmean",
    "attention_colsum",
    "attention_rows",
    "attention_sums",
    "bipartite_merge",
    "block_sparse_attention",
    "compact",
    "coverage",
    "decode_attention",
    "density_peaks",
    "determinantal",
    "farthest_point",
    "first_equal",
    "first_most",
    "gathered_attention",
    "greedy_walk",
    "group_mean",
    "group_weights",
    "grouped_attention",
    "in_order",
    "linked",
    "match",
    "merge",
    "nearest_centre",
    "pooled_threshold",
    "rescaled_attention",
    "reweigh",
    "reweighed_attention",
    "rotate",
    "scaled",
    "spanning_tree",
    "unfold",
    "unmerge_attention",
    "unmerge_rows",
    "unmerged_first",
]
