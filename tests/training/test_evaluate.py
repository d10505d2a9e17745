import math

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from serving.images import ImageSpec
from tests import oracles
from training.batches import ResidentBatches
from training.evaluate import (
    MODES,
    calibration_error,
    confidence_bins,
    evaluate,
    images_at_once,
    metrics,
    probabilities,
    wilson_interval,
)
from training.network import Network
from training.objectives import Logits, objective
from training.transformations import transformation_set


def answers(n: int = 200, classes: int = 4, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Random probabilities (n, N) float32 and labels (n,)."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(n, classes, generator=generator)
    return logits.softmax(1), torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("n", [1, 7, 500])
def test_metrics_match_the_loops(n: int, classes: int):
    given, labels = answers(n, classes)
    found = metrics(given, labels)
    assert found.top1 == pytest.approx(oracles.top1(given, labels), abs=1e-12)
    assert found.nll == pytest.approx(oracles.nll(given, labels), abs=1e-6)
    assert found.ece == pytest.approx(oracles.calibration_error(given, labels), abs=1e-9)
    assert found.n == n
    expected = oracles.top_k(given, labels, 5) if classes > 5 else None
    assert found.top5 == (None if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize(("classes", "there"), [(2, False), (5, False), (6, True)])
def test_top5_is_there_where_it_can_be_wrong(classes: int, there: bool):
    given, labels = answers(50, classes, scale=0.1)
    found = metrics(given, labels).top5
    assert (found is not None) == there
    assert found is None or found < 1


def test_top5_of_equal_probabilities_is_no_gift_and_never_below_top1():
    given = torch.full((8, 8), 1 / 8)
    found = metrics(given, torch.arange(8))
    assert (found.top1, found.top5) == (1 / 8, 5 / 8)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 10), (355, 359)])
def test_wilson_interval_solves_its_equation(correct: int, n: int):
    """Its ends are the shares p that lie 1.96 of their own standard deviations √(p (1 - p) / n) from what was seen."""
    for bound in wilson_interval(correct, n):
        distance = 1.959963984540054 * math.sqrt(bound * (1 - bound) / n)
        assert abs(correct / n - bound) == pytest.approx(distance, abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 9), (9, 9), (81, 263), (9_412, 10_000)])
def test_wilson_interval_is_that_of_scipy(correct: int, n: int):
    expected = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_by_hand():
    # 0 of n: from 0 to z² / (n + z²); all of n: the mirror image of it
    assert wilson_interval(0, 10) == pytest.approx((0, 3.841459 / 13.841459), abs=1e-7)
    assert wilson_interval(10, 10) == pytest.approx((10 / 13.841459, 1), abs=1e-7)


def test_interval_of_metrics_is_that_of_the_images_that_were_right():
    given, labels = answers(200)
    correct = int((given.argmax(1) == labels).sum())
    assert metrics(given, labels).top1_interval == wilson_interval(correct, 200)


def test_confidence_bins_hold_every_image_once_and_their_upper_end():
    given = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    bins = confidence_bins(given, torch.tensor([0, 1, 0]))
    assert bins.images.tolist() == [0.0] * 7 + [1.0] + [0.0] * 3 + [1.0] + [0.0] * 2 + [1.0]
    assert bins.confidence.sum().item() == pytest.approx(2.3)
    assert bins.correct.nonzero().flatten().tolist() == [7, 14]


def test_confidences_of_exactly_one_share_the_last_bin():
    given = torch.tensor([[1.0, 0.0], [0.95, 0.05]])
    labels = torch.tensor(
        [1, 0]
    )  # in one bin: accuracy 0.5, confidence 0.975; in two the error is 0.525
    expected = oracles.calibration_error(given, labels)
    assert calibration_error(given, labels).item() == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(0.475, abs=1e-7)


def test_calibration_error_of_the_always_right_and_sure_is_zero_and_of_the_wrong_is_one():
    given = torch.eye(3)
    assert calibration_error(given, torch.tensor([0, 1, 2])).item() == 0
    assert calibration_error(given, torch.tensor([1, 2, 0])).item() == 1


def test_calibration_error_lets_opposite_errors_cancel_in_a_bin_only():
    given = torch.tensor([[0.75, 0.25]] * 4)
    assert calibration_error(given, torch.tensor([0, 0, 0, 1])).item() == 0


def test_nll_of_an_impossible_answer_is_finite():
    found = metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert 80 < found.nll < 100


class FirstPixel(torch.nn.Module):
    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0]


def network(name: str = "sla-sd") -> Network:
    torch.manual_seed(0)
    return Network(
        FirstPixel(), objective(name), num_classes=5, transformations=transformation_set("rotation")
    )


def batches(n: int = 23) -> ResidentBatches:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 4, 4, 3), generator=generator).to(torch.uint8)
    return ResidentBatches(images, torch.randint(5, (n,), generator=generator))


@pytest.mark.parametrize("batch_size", [1, 10, 23, 256])
def test_probabilities_are_in_order_whatever_the_batch(batch_size: int):
    data, modes = batches(), objective("sla-sd").modes
    found, labels = probabilities(dict.fromkeys(modes, network()), data, batch_size=batch_size)
    assert labels.tolist() == data.labels.tolist()
    whole = network()(data.images)
    expected = {
        "distilled": whole.single.softmax(1),
        "single": oracles.conditional(whole.joint).float(),
        "aggregated": oracles.aggregated(whole.joint).softmax(1).float(),
    }
    for mode in modes:
        torch.testing.assert_close(found[mode], expected[mode].detach(), atol=1e-6, rtol=0)


def test_evaluation_leaves_the_network_in_evaluation_mode_and_without_gradients():
    found = network("baseline").train()
    given, _ = probabilities({"plain": found}, batches(), batch_size=8)
    assert not found.training
    assert not given["plain"].requires_grad


def test_every_mode_is_answered_by_its_own_network():
    torch.manual_seed(1)
    folded = Network(
        FirstPixel(),
        objective("distill"),
        num_classes=5,
        transformations=transformation_set("flip"),
    )
    data = batches()
    networks = {"distilled": folded, "aggregated": network("sla")}
    found, _ = probabilities(networks, data, batch_size=8)
    single = folded(data.images).single.softmax(1)
    joint = network("sla")(data.images).joint
    torch.testing.assert_close(found["distilled"], single.detach(), atol=1e-6, rtol=0)
    expected = oracles.aggregated(joint).softmax(1).float().detach()
    torch.testing.assert_close(found["aggregated"], expected, atol=1e-6, rtol=0)


def test_evaluate_measures_every_mode():
    data = batches()
    found = evaluate(dict.fromkeys(("single", "aggregated"), network()), data, batch_size=8)
    assert list(found) == ["single", "aggregated"]
    given = oracles.conditional(network()(data.images).joint)
    assert found["single"].top1 == pytest.approx(oracles.top1(given, data.labels), abs=1e-12)
    assert found["single"].n == 23


def test_plain_and_distilled_read_the_class_head():
    single = torch.randn(2, 3)
    assert MODES["plain"].logits(Logits(single, None)) is single
    assert MODES["distilled"].logits(Logits(single, None)) is single


def test_forward_passes_are_m_for_the_aggregate_and_one_for_others():
    assert {name: mode.forward_passes(4) for name, mode in MODES.items()} == {
        "plain": 1,
        "distilled": 1,
        "single": 1,
        "aggregated": 4,
    }


@pytest.mark.parametrize(
    ("side", "copies", "expected"), [(32, 4, 256), (224, 4, 19), (224, 24, 3), (4000, 4, 1)]
)
def test_fewer_images_at_once_the_larger_they_are(side: int, copies: int, expected: int):
    assert images_at_once(ImageSpec(side, side), copies) == expected
