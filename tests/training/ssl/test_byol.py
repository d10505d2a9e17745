import math

import pytest
import torch

from tests.training.ssl import oracles
from tests.training.ssl.problems import ask, pictures, rows, small_method, tiny_backbone
from training.ssl.byol import BYOL, byol_loss, byol_momentum
from training.ssl.method import Pair


def pairs(b: int, d: int) -> tuple[Pair, Pair]:
    """Random predictions and targets."""
    return (rows(b, d, seed=1), rows(b, d, seed=2)), (rows(b, d, seed=3), rows(b, d, seed=4))


@pytest.mark.parametrize(("b", "d"), [(5, 4), (2, 3), (1, 2), (7, 1)])
def test_loss_matches_the_loop(b: int, d: int):
    prediction, target = pairs(b, d)
    expected = oracles.byol(*prediction, *target)
    assert byol_loss(prediction, target).item() == pytest.approx(expected, abs=1e-12)


def test_loss_runs_from_zero_to_eight():
    z = rows(5, 4)
    assert byol_loss((2 * z, z), (z, 3 * z)).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss((-z, -z), (z, z)).item() == pytest.approx(8, abs=1e-12)


def test_each_prediction_is_compared_with_the_other_view():
    one, two = torch.eye(2, dtype=torch.float64)[:, None]  # (1, 2) each, orthogonal
    assert byol_loss((one, two), (two, one)).item() == pytest.approx(0)
    assert byol_loss((one, two), (one, two)).item() == pytest.approx(4)


def test_loss_does_not_change_when_views_are_swapped_or_images_change_places():
    prediction, target = pairs(5, 4)
    expected = byol_loss(prediction, target)
    torch.testing.assert_close(byol_loss(prediction[::-1], target[::-1]), expected)
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = [(a[order], b[order]) for a, b in (prediction, target)]
    torch.testing.assert_close(byol_loss(*permuted), expected)


def test_no_gradient_flows_through_the_targets():
    prediction, target = pairs(5, 4)
    for tensor in (*prediction, *target):
        tensor.requires_grad_()
    byol_loss(prediction, target).backward()
    assert [z.grad for z in target] == [None, None]
    assert all(p.grad is not None and (p.grad.abs().sum(1) > 0).all() for p in prediction)


def test_momentum_rises_to_one_along_a_cosine():
    assert byol_momentum(0.996, 0, 100) == pytest.approx(0.996, abs=1e-15)
    assert byol_momentum(0.996, 50, 100) == pytest.approx(0.998, abs=1e-15)
    assert byol_momentum(0.996, 100, 100) == 1
    expected = 1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2
    assert byol_momentum(0.996, 25, 100) == pytest.approx(expected, abs=1e-15)


def test_update_moves_the_target_by_the_momentum_of_the_step():
    backbone = tiny_backbone()
    method = small_method("byol", backbone)
    assert isinstance(method, BYOL)
    before = method.target.backbone[1].weight.clone()
    with torch.no_grad():
        backbone[1].weight.add_(1)
    method.update(backbone, 5, 10)  # m: half of the way from 0.9 to 1
    torch.testing.assert_close(method.target.backbone[1].weight, before + 0.05)


def test_targets_are_of_the_target_network():
    backbone = tiny_backbone()
    method = small_method("byol", backbone)
    views, labels = pictures()
    before = ask(method, backbone, views, labels)
    with torch.no_grad():
        method.target.projector[-1].weight.neg_()
        method.target.projector[-1].bias.neg_()
    torch.testing.assert_close(ask(method, backbone, views, labels), 8 - before)


def test_each_views_target_is_of_that_view():
    backbone = tiny_backbone()
    method = small_method("byol", backbone)
    assert isinstance(method, BYOL)
    views, labels = pictures()
    prediction = [method.predictor(method.projector(backbone(view))) for view in views]
    expected = byol_loss(tuple(prediction), (method.target(views[0]), method.target(views[1])))
    torch.testing.assert_close(ask(method, backbone, views, labels), expected)


def test_target_network_takes_no_gradient_and_everything_else_does():
    backbone = tiny_backbone()
    method = small_method("byol", backbone)
    views, labels = pictures()
    ask(method, backbone, views, labels).backward()
    assert all(p.grad is None for p in method.target.parameters())
    learnt = [
        *backbone.parameters(),
        *method.projector.parameters(),
        *method.predictor.parameters(),
    ]
    assert all(p.grad is not None and p.grad.abs().any() for p in learnt)
