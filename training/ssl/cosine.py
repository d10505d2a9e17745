"""Directions and the cosines between them, which is all that the methods compare. In float32 also under autocast.

bf16 has 8 bits: cosines near 1, which the losses divide by a temperature, would be 0.004 apart. So bf16 is widened
here, before anything is normalised, and the products are taken with autocast off. float64 stays float64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def unit(rows: Tensor) -> Tensor:
    """The rows (n, d) at length 1, in float32 or wider."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Of all rows with all rows: the cosines of unit ones. left: (n, d), right: (m, d). Returns (n, m)."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T


def paired_cosines(left: Tensor, right: Tensor) -> Tensor:
    """Of every row of left with the same row of right, of any length. left, right: (b, d). Returns (b,)."""
    return (unit(left) * unit(right)).sum(1)
