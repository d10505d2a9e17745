"""What the parameters of two views differ by: AugSelf's targets ω_diff. Lee et al. 2021, section 3.

Pure functions of the parameters of both views, a row an image, on the CPU as they are. augself.py learns them.
"""

import torch
from torch import Tensor

from training.colour import UNCHANGED
from training.pretrain_config import ViewsConfig
from training.views import ViewParams, jitter_range


def crop_difference(first: ViewParams, second: ViewParams) -> Tensor:
    """ω_1 - ω_2 of centre y, centre x, height and width of the crops. Returns (B, 4) in [-1, 1].

    Fractions of the source as the view shows it: mirrored and turned with it, for what lies left in the source
    lies right in a mirrored view and no encoder could tell. The released code mirrors and does not turn.
    """
    return _as_shown(first) - _as_shown(second)


def _as_shown(params: ViewParams) -> Tensor:
    """The crop within the source, mirrored and turned as its view is. Returns (B, 4).

    A quarter turn counter-clockwise sends (y, x) to (1 - x, y), so the right edge to the top, and exchanges height
    and width.
    """
    y, x, height, width = params.crop.unbind(1)  # (B,) each
    x = torch.where(params.flip, 1 - x, x)
    turns = torch.stack(
        [
            torch.stack([y, x, height, width]),
            torch.stack([1 - x, y, width, height]),
            torch.stack([1 - y, 1 - x, height, width]),
            torch.stack([x, 1 - y, width, height]),
        ]
    )  # (4 turns, 4 values, B)
    return turns[params.quarter_turns, :, torch.arange(len(params))]  # (B, 4)


def flip_target(first: ViewParams, second: ViewParams) -> Tensor:
    """1[ω_1 = ω_2], whether both views are mirrored or neither is. Returns (B,) float32, 0 or 1."""
    return (first.flip == second.flip).float()


def color_difference(first: ViewParams, second: ViewParams, *, views: ViewsConfig) -> Tensor:
    """ω_1 - ω_2 of brightness, contrast, saturation and hue, each in [0, 1] of its range. Returns (B, 4) in [-1, 1].

    Where jitter was not drawn, ω is the identity's place in the range: 0.5 if that is symmetric. So are saturation
    and hue where a view is grey; the released code asks there for what was erased. But for a trace that the
    hue leaves in the luma, such a target is best answered by its mean, which is 0.5: the same minimiser, less noise.
    """
    low, high = jitter_range(views)
    span = torch.where(high > low, high - low, 1)  # no range, no difference

    def placed(params: ViewParams) -> Tensor:
        gone = torch.stack([torch.zeros_like(params.grey)] * 2 + [params.grey] * 2, dim=1)
        seen = torch.where(gone, torch.tensor(UNCHANGED), params.jitter)  # (B, 4)
        return (seen - low) / span

    return (placed(first) - placed(second)).float()


def blur_difference(first: ViewParams, second: ViewParams, *, views: ViewsConfig) -> Tensor:
    """(σ_1 - σ_2) / σ_max, σ 0 where not drawn. Returns (B, 1) in [-1, 1].

    The released code regresses the raw difference, up to ±2, by a tanh, which ends at ±1.
    """
    return (first.sigma_px - second.sigma_px)[:, None] / views.blur_sigma[1]


def rotation_target(first: ViewParams, second: ViewParams) -> Tensor:
    """(k_1 - k_2) mod 4, quarter turns counter-clockwise from the second view to the first. Returns (B,) int64."""
    return (first.quarter_turns - second.quarter_turns) % 4


def solarize_difference(first: ViewParams, second: ViewParams) -> Tensor:
    """t_1 - t_2, t 1 where not drawn. Returns (B, 1) in [-1, 1]."""
    return (first.threshold - second.threshold)[:, None]


def differs(target: Tensor) -> bool:
    """Whether there is anything to tell: not every pair of views has the same target. target: (B, …), B at least 1."""
    return bool((target != target[:1]).any())
