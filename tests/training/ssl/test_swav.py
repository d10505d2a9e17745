import math

import pytest
import torch
from torch import nn

from tests.training.ssl import oracles
from tests.training.ssl.problems import ask, pictures, rows, small_method, tiny_backbone
from tests.training.ssl.processes import one_and_two
from training.ssl.cosine import unit
from training.ssl.swav import SwAV, sinkhorn, swav_loss

SIZES = [(5, 4), (2, 3), (1, 2), (3, 8)]  # B, K


def scores(b: int, k: int, seed: int = 0) -> torch.Tensor:
    """Random cosines."""
    return unit(rows(b, 6, seed=seed)) @ unit(rows(k, 6, seed=9)).T


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize(("b", "k"), SIZES)
def test_sinkhorn_matches_the_loop(b: int, k: int, steps: int):
    expected = torch.tensor(oracles.sinkhorn(scores(b, k), 0.05, steps), dtype=torch.float64)
    found = sinkhorn(scores(b, k), epsilon=0.05, steps=steps)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_codes_of_uniform_scores_are_uniform():
    found = sinkhorn(torch.full((6, 4), 0.3), epsilon=0.05, steps=1)
    torch.testing.assert_close(found, torch.full((6, 4), 0.25))


@pytest.mark.parametrize(("b", "k"), SIZES)
def test_codes_of_an_image_sum_to_one_after_any_steps(b: int, k: int):
    for steps in (1, 3):
        found = sinkhorn(scores(b, k), epsilon=0.05, steps=steps)
        torch.testing.assert_close(found.sum(1), torch.ones(b, dtype=torch.float64))


def test_codes_are_doubly_stochastic_in_the_end():
    found = sinkhorn(scores(12, 4), epsilon=0.2, steps=200)
    torch.testing.assert_close(found.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=torch.float64))


def test_more_steps_spread_more_evenly():
    uneven = [
        (sinkhorn(scores(12, 4), epsilon=0.05, steps=n).sum(0) - 3).abs().max() for n in (1, 3, 9)
    ]
    assert uneven[0] > uneven[1] > uneven[2]


def test_a_prototype_that_all_prefer_gets_no_more_than_its_share():
    preferred = scores(12, 4) + torch.tensor([5.0, 0, 0, 0], dtype=torch.float64)
    found = sinkhorn(preferred, epsilon=0.2, steps=200)
    torch.testing.assert_close(found, sinkhorn(scores(12, 4), epsilon=0.2, steps=200))


def test_assignments_of_a_small_epsilon_are_hard():
    chosen = torch.eye(4).repeat(3, 1)
    torch.testing.assert_close(sinkhorn(chosen, epsilon=0.01, steps=3), chosen)


@pytest.mark.parametrize("lonely", ["no prototype", "a prototype", "an image"])
@pytest.mark.parametrize("epsilon", [1e-4, 1e4])
def test_no_epsilon_overflows_or_divides_zero_by_zero(epsilon: float, lonely: str):
    near = scores(6, 4).float()
    if lonely == "a prototype":  # exponentials of -10,000 are all zero
        near[:, 3] = -1
    if lonely == "an image":
        near[3] = -1
    found = sinkhorn(near, epsilon=epsilon, steps=3)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(6))


@pytest.mark.parametrize(("b", "k"), SIZES)
def test_loss_matches_the_loop(b: int, k: int):
    pair = scores(b, k, 1), scores(b, k, 2)
    expected = oracles.swav(*pair, 0.1, 0.05, 3)
    found = swav_loss(pair, temperature=0.1, epsilon=0.05, sinkhorn_steps=3)
    assert found.item() == pytest.approx(expected, abs=1e-11)


def test_loss_is_the_cross_entropy_of_each_view_with_the_others_code():
    first, second = scores(5, 4, 1), scores(5, 4, 2)
    codes = [sinkhorn(s, epsilon=0.05, steps=3) for s in (first, second)]
    cross_entropy = nn.functional.cross_entropy
    expected = cross_entropy(first / 0.1, codes[1]) + cross_entropy(second / 0.1, codes[0])
    found = swav_loss((first, second), temperature=0.1, epsilon=0.05, sinkhorn_steps=3)
    torch.testing.assert_close(found, expected)


def test_loss_of_a_collapsed_network_is_twice_the_logarithm_of_the_prototypes():
    same = torch.full((6, 4), 0.7)
    found = swav_loss((same, same), temperature=0.1, epsilon=0.05, sinkhorn_steps=3)
    assert found.item() == pytest.approx(2 * math.log(4), abs=1e-6)


def test_loss_does_not_change_when_views_images_or_prototypes_change_places():
    settings = {"temperature": 0.1, "epsilon": 0.05, "sinkhorn_steps": 3}
    first, second = scores(5, 4, 1), scores(5, 4, 2)
    expected = swav_loss((first, second), **settings)
    torch.testing.assert_close(swav_loss((second, first), **settings), expected)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(swav_loss((first[order], second[order]), **settings), expected)
    order = torch.tensor([3, 1, 0, 2])
    permuted = first[:, order], second[:, order]
    torch.testing.assert_close(swav_loss(permuted, **settings), expected)


def test_no_gradient_flows_through_the_codes():
    pair = scores(5, 4, 1).requires_grad_(), scores(5, 4, 2).requires_grad_()
    swav_loss(pair, temperature=0.1, epsilon=0.05, sinkhorn_steps=3).backward()
    for own, other in (pair, pair[::-1]):
        code = sinkhorn(other.detach(), epsilon=0.05, steps=3)
        expected = ((own / 0.1).softmax(1) - code) / 0.1 / 5
        torch.testing.assert_close(own.grad, expected.detach())


def test_two_processes_learn_what_one_does():
    backbone = tiny_backbone(norm=False)
    method = small_method("swav", backbone).eval()  # BatchNorm by its running statistics
    views, labels = pictures(6)
    (loss, gradients), (two, averaged), _ = one_and_two(method, backbone, views, labels)
    torch.testing.assert_close(two, loss)
    for found, expected in zip(averaged, gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_prototypes_are_of_length_one_at_first_and_after_every_update():
    method = SwAV(16, hidden=8, projection=4, prototypes=5)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        method.prototypes.mul_(torch.arange(1.0, 6.0)[:, None]).add_(0.1)
    expected = unit(method.prototypes.detach().clone())
    method.update(tiny_backbone(), 0, 10)
    torch.testing.assert_close(method.prototypes.detach(), expected)


def test_prototypes_are_frozen_in_the_first_steps_alone():
    method = SwAV(16, hidden=8, projection=4, prototypes=5, freeze_steps=3)
    assert [len(method.frozen(step)) for step in range(5)] == [1, 1, 1, 0, 0]
    assert method.frozen(0)[0] is method.prototypes
    assert SwAV(16, hidden=8, projection=4, freeze_steps=0).frozen(0) == []


def test_gradient_reaches_backbone_projector_and_prototypes():
    backbone = tiny_backbone()
    method = small_method("swav", backbone)
    views, labels = pictures()
    ask(method, backbone, views, labels).backward()
    learnt = [*backbone.parameters(), *method.parameters()]
    assert all(p.grad is not None for p in learnt)
    assert method.prototypes.grad.abs().any()
    assert backbone[1].weight.grad.abs().any()


def test_scores_are_cosines():
    backbone = tiny_backbone()
    method = small_method("swav", backbone).eval()
    views, labels = pictures(8)
    found = ask(method, backbone, views, labels)
    with torch.no_grad():
        method.projector[-1].weight.mul_(10)
        method.projector[-1].bias.mul_(10)
    torch.testing.assert_close(ask(method, backbone, views, labels), found)
