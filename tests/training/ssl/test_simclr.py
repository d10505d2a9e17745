import math

import pytest
import torch
from torch import nn

from tests.training.ssl import oracles
from tests.training.ssl.problems import ask, pictures, rows, small_method, tiny_backbone
from tests.training.ssl.processes import one_and_two
from training.ssl.simclr import SimCLR, nt_xent


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize(("b", "d"), [(5, 4), (2, 3), (1, 2), (7, 1)])
def test_loss_matches_the_loop(b: int, d: int, temperature: float):
    z_1, z_2 = rows(b, d, seed=1), rows(b, d, seed=2)
    expected = oracles.nt_xent(z_1, z_2, temperature)
    assert nt_xent((z_1, z_2), temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_loss_is_the_cross_entropy_of_finding_the_other_view():
    z_1, z_2 = rows(5, 4, seed=1), rows(5, 4, seed=2)
    z = nn.functional.normalize(torch.cat([z_1, z_2]))
    scores = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
    partner = torch.arange(10).roll(5)
    expected = nn.functional.cross_entropy(scores, partner)
    torch.testing.assert_close(nt_xent((z_1, z_2), temperature=0.3), expected)


@pytest.mark.parametrize("b", [1, 2, 5])
def test_loss_of_a_collapsed_network_is_the_logarithm_of_the_number_of_others(b: int):
    z = torch.ones(b, 3)
    assert nt_xent((z, z), temperature=0.2).item() == pytest.approx(math.log(2 * b - 1), abs=1e-6)


def test_loss_of_perfect_and_orthogonal_projections_has_its_closed_form():
    z, temperature = torch.eye(4, dtype=torch.float64), 0.5
    expected = math.log(math.exp(1 / temperature) + 6) - 1 / temperature
    assert nt_xent((z, 2 * z), temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_loss_does_not_change_when_views_are_swapped_or_images_change_places():
    z_1, z_2 = rows(5, 4, seed=1), rows(5, 4, seed=2)
    expected = nt_xent((z_1, z_2), temperature=0.2)
    torch.testing.assert_close(nt_xent((z_2, z_1), temperature=0.2), expected)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(nt_xent((z_1[order], z_2[order]), temperature=0.2), expected)


def test_gradient_is_that_of_the_loss_by_differences():
    pair = (rows(3, 2, seed=1).requires_grad_(), rows(3, 2, seed=2).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: nt_xent((a, b), temperature=0.2), pair)


def test_loss_stays_finite_at_a_low_temperature():
    pair = (rows(5, 4, seed=1).float().requires_grad_(), rows(5, 4, seed=2).float())
    loss = nt_xent(pair, temperature=1e-3)  # scores to 1000: their exponentials overflow
    loss.backward()
    assert loss.isfinite()
    assert pair[0].grad.isfinite().all()


def test_two_processes_learn_what_one_does():
    backbone = tiny_backbone(norm=False)
    method = small_method("simclr", backbone).eval()  # BatchNorm by its running statistics
    views, labels = pictures(6)
    (loss, gradients), (two, averaged), _ = one_and_two(method, backbone, views, labels)
    torch.testing.assert_close(two, loss)
    for found, expected in zip(averaged, gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_one_half_of_the_rows_alone_would_learn_something_else():
    backbone = tiny_backbone(norm=False)
    method = small_method("simclr", backbone).eval()
    (first, second), labels = pictures(6)
    whole = ask(method, backbone, (first, second), labels)
    assert ask(method, backbone, (first[:3], second[:3]), labels) < whole - 0.1


def test_hidden_layer_is_as_wide_as_the_features_unless_told():
    shapes = [tuple(m.weight.shape) for m in SimCLR(64).modules() if isinstance(m, nn.Linear)]
    assert shapes == [(64, 64), (128, 64)]
    shapes = [
        tuple(m.weight.shape)
        for m in SimCLR(64, hidden=32, projection=8).modules()
        if isinstance(m, nn.Linear)
    ]
    assert shapes == [(32, 64), (8, 32)]
