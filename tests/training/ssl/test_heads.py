import torch
from torch import nn

from training.ssl.heads import mlp


def test_layers_are_linear_norm_relu_and_a_bare_one_at_the_end():
    kinds = [type(layer) for layer in mlp((3, 5, 7, 2))]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*hidden, *hidden, nn.Linear]
    assert [type(layer) for layer in mlp((3, 5, 2), norm=False)] == [nn.Linear, nn.ReLU, nn.Linear]


def test_a_layer_before_a_norm_has_no_bias():
    assert [layer.bias is None for layer in mlp((3, 5, 2)) if isinstance(layer, nn.Linear)] == [
        True,
        False,
    ]
    assert mlp((3, 5, 2), norm=False)[0].bias is not None
    assert mlp((3, 5, 2), last_bias=False)[-1].bias is None


def test_widths_are_as_given():
    assert mlp((3, 5, 7, 2))(torch.randn(4, 3)).shape == (4, 2)
    assert mlp((3, 2))(torch.randn(4, 3)).shape == (4, 2)
