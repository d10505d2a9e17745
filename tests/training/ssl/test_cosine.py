import torch

from tests.training.ssl.problems import rows
from training.ssl.cosine import inner_products, paired_cosines, unit


def test_bf16_is_widened_before_it_is_normalised_and_float64_is_kept():
    found = unit(rows(4, 300).bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4), atol=1e-6, rtol=0)
    assert unit(rows(4, 3)).dtype == torch.float64


def test_products_are_not_rounded_under_autocast():
    left, right = unit(rows(4, 30, seed=1).float()), unit(rows(5, 30, seed=2).float())
    expected = left @ right.T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ right.T).dtype == torch.bfloat16
        torch.testing.assert_close(inner_products(left, right), expected, atol=0, rtol=0)


def test_paired_cosines_are_the_diagonal_of_all():
    left, right = rows(4, 3, seed=1), rows(4, 3, seed=2)
    expected = inner_products(unit(left), unit(right)).diagonal()
    torch.testing.assert_close(paired_cosines(7 * left, right), expected)
