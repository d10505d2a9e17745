import pytest
import torch
from torch import nn

from tests.training.ssl import oracles
from tests.training.ssl.problems import ask, pictures, rows, small_method, tiny_backbone
from training.ssl.method import Pair
from training.ssl.simsiam import SimSiam, simsiam_loss


def pairs(b: int, d: int) -> tuple[Pair, Pair]:
    """Random predictions and projections."""
    return (rows(b, d, seed=1), rows(b, d, seed=2)), (rows(b, d, seed=3), rows(b, d, seed=4))


@pytest.mark.parametrize(("b", "d"), [(5, 4), (2, 3), (1, 2), (7, 1)])
def test_loss_matches_the_loop(b: int, d: int):
    prediction, projection = pairs(b, d)
    expected = oracles.simsiam(*prediction, *projection)
    assert simsiam_loss(prediction, projection).item() == pytest.approx(expected, abs=1e-12)


def test_loss_is_half_the_squared_distance_of_directions_less_one():
    prediction, projection = pairs(5, 4)
    distance = sum(
        (nn.functional.normalize(p) - nn.functional.normalize(z)).square().sum(1).mean() / 4
        for p, z in zip(prediction, reversed(projection), strict=True)
    )
    torch.testing.assert_close(simsiam_loss(prediction, projection), distance - 1)


def test_loss_is_the_least_where_all_agree_and_the_greatest_where_all_are_opposed():
    z = rows(5, 4)
    assert simsiam_loss((3 * z, z), (z, 2 * z)).item() == pytest.approx(-1, abs=1e-12)
    assert simsiam_loss((-z, -z), (z, z)).item() == pytest.approx(1, abs=1e-12)


def test_each_prediction_is_compared_with_the_other_view():
    one, two = torch.eye(2, dtype=torch.float64)[:, None]  # (1, 2) each, orthogonal
    assert simsiam_loss((one, two), (two, one)).item() == pytest.approx(-1)
    assert simsiam_loss((one, two), (one, two)).item() == pytest.approx(0)


def test_loss_does_not_change_when_views_are_swapped_or_images_change_places():
    prediction, projection = pairs(5, 4)
    expected = simsiam_loss(prediction, projection)
    torch.testing.assert_close(simsiam_loss(prediction[::-1], projection[::-1]), expected)
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = [(a[order], b[order]) for a, b in (prediction, projection)]
    torch.testing.assert_close(simsiam_loss(*permuted), expected)


def test_no_gradient_flows_through_the_projections():
    prediction, projection = pairs(5, 4)
    for tensor in (*prediction, *projection):
        tensor.requires_grad_()
    simsiam_loss(prediction, projection).backward()
    assert [z.grad for z in projection] == [None, None]
    assert all(p.grad is not None and (p.grad.abs().sum(1) > 0).all() for p in prediction)


def test_widths_are_the_papers():
    method = SimSiam(64)
    shapes = [tuple(m.weight.shape) for m in method.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(2048, 64), (2048, 2048), (2048, 2048), (512, 2048), (2048, 512)]
    assert [name for name, _ in method.projector.named_parameters() if name.startswith("1.")] == []


def test_projections_have_the_deviation_one_in_every_channel():
    method = SimSiam(8, hidden=16, projection=4)
    projected = method.projector(rows(32, 8).float())
    torch.testing.assert_close(projected.std(0, correction=0), torch.ones(4), atol=1e-2, rtol=0)


def test_gradient_reaches_the_backbone_through_the_predictor_alone():
    backbone = tiny_backbone()
    method = small_method("simsiam", backbone)
    views, labels = pictures()
    with torch.no_grad():
        for parameter in method.predictor.parameters():
            parameter.zero_()
        method.predictor[-1].bias.fill_(1.0)  # a constant prediction
    ask(method, backbone, views, labels).backward()
    assert all(not p.grad.abs().any() for p in backbone.parameters())
    assert method.predictor[-1].bias.grad.abs().any()


def test_rate_of_the_predictor_is_steady():
    method = SimSiam(8, hidden=16, projection=4)
    assert method.steady() == list(method.predictor.parameters())
    assert method.frozen(0) == []
