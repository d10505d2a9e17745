import pytest
import torch
from torch import Tensor

from serving.images import ImageSpec
from tests import oracles
from training.batches import ResidentBatches
from training.evaluate import (
    MODES,
    calibration_error,
    evaluate,
    images_at_once,
    metrics,
    probabilities,
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
    found, labels = probabilities(network(), data, modes, batch_size=batch_size)
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
    given, _ = probabilities(found, batches(), ("plain",), batch_size=8)
    assert not found.training
    assert not given["plain"].requires_grad


def test_evaluate_measures_every_mode():
    data = batches()
    found = evaluate(network(), data, ("single", "aggregated"), batch_size=8)
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
