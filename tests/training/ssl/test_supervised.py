import math

import pytest
import torch
from torch.nn import functional as F

from tests import oracles
from tests.training.ssl.problems import alone, rows
from training.ssl.supervised import Supervised, supervised_loss


@pytest.mark.parametrize(("b", "n"), [(5, 4), (2, 3), (1, 2)])
def test_loss_is_the_mean_of_both_views_cross_entropies(b: int, n: int):
    first, second = rows(b, n, seed=1), rows(b, n, seed=2)
    labels = torch.arange(b) % n
    expected = (oracles.cross_entropy(first, labels) + oracles.cross_entropy(second, labels)) / 2
    assert supervised_loss((first, second), labels).item() == pytest.approx(expected, abs=1e-12)


def test_loss_of_one_that_knows_nothing_is_the_logarithm_of_the_number_of_classes():
    zeros = torch.zeros(4, 7)
    found = supervised_loss((zeros, zeros), torch.arange(4)).item()
    assert found == pytest.approx(math.log(7), abs=1e-6)


def test_loss_does_not_change_when_views_are_swapped():
    first, second, labels = rows(5, 4, seed=1), rows(5, 4, seed=2), torch.arange(5) % 4
    torch.testing.assert_close(
        supervised_loss((first, second), labels), supervised_loss((second, first), labels)
    )


def test_method_asks_its_layer_about_both_views():
    method = Supervised(6, 3)
    features = rows(5, 6, seed=1).float(), rows(5, 6, seed=2).float()
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = method(features, features, labels, alone)
    expected = sum(F.cross_entropy(method.classes(f), labels) for f in features) / 2
    torch.testing.assert_close(found, expected)
