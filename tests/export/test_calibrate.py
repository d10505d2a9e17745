import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from export import calibrate
from export.calibrate import fit_temperature, temperatures


def uncertain(n: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (n, 4) and labels drawn from them, the logits then made surer by a factor."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return scale * logits, labels


def calibrated() -> tuple[Tensor, Tensor]:
    """Of every ten images said to be (0.7, 0.3) seven are of the first class; and so for (0.1, 0.9)."""
    logits = torch.tensor([[0.7, 0.3]] * 10 + [[0.1, 0.9]] * 10, dtype=torch.float64).log()
    return logits, torch.tensor([0] * 7 + [1] * 3 + [0] + [1] * 9)


def test_calibrated_answers_keep_their_temperature():
    assert fit_temperature(*calibrated()) == pytest.approx(1, rel=2e-6)


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0, 15.0])
def test_logits_scaled_by_a_factor_get_it_as_temperature(factor: float):
    logits, labels = calibrated()
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=2e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_is_where_a_dense_grid_has_the_least_nll(scale: float):
    logits, labels = uncertain(200, scale)
    grid = torch.logspace(math.log10(0.05), math.log10(20), 2001, dtype=torch.float64)
    losses = torch.stack([cross_entropy(logits / t, labels) for t in grid])
    best = grid[losses.argmin()].item()
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(best, rel=0.004)  # a step of the grid is 0.3 %
    assert cross_entropy(logits / found, labels) <= losses.min()


def test_logits_of_any_offset_and_float32_give_the_same():
    logits, labels = uncertain(200, 2.0)
    expected = fit_temperature(logits, labels)
    assert expected is not None
    assert fit_temperature((logits + 100).float(), labels) == pytest.approx(expected, rel=1e-4)


def test_answers_that_are_all_right_have_no_best_temperature():
    logits, _ = uncertain(60)
    assert fit_temperature(logits, logits.argmax(1)) is None
    assert temperatures({"plain": logits}, logits.argmax(1)) == {"plain": 1.0}


def test_answers_worse_than_guessing_get_the_hottest():
    logits, _ = uncertain(60)
    assert fit_temperature(logits, logits.argmin(1)) == calibrate.HOTTEST


def test_few_images_fit_nothing():
    logits, labels = uncertain(calibrate.LEAST_IMAGES, 3.0)
    assert temperatures({"a": logits}, labels)["a"] > 2
    assert temperatures({"a": logits[1:]}, labels[1:]) == {"a": 1.0}
