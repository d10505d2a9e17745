"""The perceptrons that stand on a backbone while it is pretrained: projectors and predictors."""

import itertools
from collections.abc import Sequence

from torch import nn


def mlp(widths: Sequence[int], *, norm: bool = True, last_bias: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them, and BatchNorm before every ReLU if norm is set. The last is bare.

    widths: of the input, of every hidden layer, of the output. A layer before a BatchNorm has no bias; last_bias:
    whether the last has one. Maps (b, widths[0]) to (b, widths[-1]).
    """
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(width_in, width, bias=not norm))
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=last_bias))
