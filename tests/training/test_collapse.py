import math

import pytest
import torch
from torch import Tensor

from training.collapse import LEAST_STD, collapse_warning, collapsed, effective_rank, feature_std


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def std_by_loops(features: Tensor) -> float:
    rows = [[x / math.hypot(*row) for x in row] for row in features.tolist()]
    n, d = features.shape
    total = 0.0
    for channel in range(d):
        values = [row[channel] for row in rows]
        mean = sum(values) / n
        total += math.sqrt(sum((value - mean) ** 2 for value in values) / n)
    return math.sqrt(d) * total / d


def test_std_matches_the_loop():
    features = gaussian(20, 5) * torch.arange(1.0, 6) + 1
    assert feature_std(features) == pytest.approx(std_by_loops(features), abs=1e-6)


@pytest.mark.parametrize("d", [2, 8, 256])
def test_std_of_a_gaussian_is_1(d: int):
    # a standard deviation of n draws errs by 1 / √(2 n), less over many channels; 5 standard errors
    assert feature_std(gaussian(4000, d)) == pytest.approx(1, abs=5 / math.sqrt(2 * 4000))


def test_std_of_constant_features_is_0_whatever_their_length():
    features = gaussian(1, 16) * torch.linspace(0.1, 9, 10)[:, None]
    assert feature_std(features) == pytest.approx(0, abs=1e-6)
    assert feature_std(torch.zeros(10, 16)) == 0
    assert feature_std(gaussian(1, 16)) == 0


def test_std_of_evenly_used_corners_is_the_closed_form():
    # unit vectors, each of d: a channel is 1 in one image of d, so its variance is 1/d - 1/d²
    d = 7
    assert feature_std(torch.eye(d)) == pytest.approx(math.sqrt(1 - 1 / d))


def test_std_falls_with_what_all_images_share():
    noise, shared = gaussian(200, 32), torch.ones(32)
    found = [feature_std(noise + share * shared) for share in (0, 1, 3, 10, 30)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.9
    assert found[-1] < 0.05


def test_neither_sign_depends_on_the_scale():
    features = gaussian(50, 8)
    assert feature_std(features * 1000) == pytest.approx(feature_std(features), rel=1e-5)
    assert feature_std(features * torch.linspace(0.1, 9, 50)[:, None]) == pytest.approx(
        feature_std(features), rel=1e-5
    )
    assert effective_rank(features * 1000) == pytest.approx(effective_rank(features), rel=1e-5)


def test_rank_matches_the_loop_over_singular_values():
    features = gaussian(30, 6).double() * torch.arange(1, 7)
    values = [math.sqrt(value) for value in torch.linalg.eigvalsh(features.T @ features).tolist()]
    shares = [value / sum(values) for value in values]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rank_of_equally_used_directions_is_their_number(rank: int):
    features = torch.zeros(40, 16)
    features[torch.arange(40), torch.arange(40) % rank] = torch.where(
        torch.arange(40) < 40 - 40 % rank, 2.0, 0.0
    )
    assert effective_rank(features) == pytest.approx(rank, rel=1e-6)


def test_rank_sees_the_single_direction_that_the_std_does_not():
    features = gaussian(500, 1) @ gaussian(1, 64, seed=1)
    assert effective_rank(features) == pytest.approx(1, abs=1e-3)
    assert not collapsed(feature_std(features))


def test_rank_is_at_most_the_images_and_0_of_nothing():
    assert 1 < effective_rank(gaussian(4, 100)) <= 4 + 1e-9
    assert effective_rank(torch.zeros(5, 3)) == 0


@pytest.mark.parametrize(
    ("std", "expected"),
    [(0.0, True), (0.01, True), (LEAST_STD, False), (1.0, False), (math.nan, True)],
)
def test_collapsed_is_below_the_threshold(std: float, expected: bool):
    assert collapsed(std) is expected


def test_the_threshold_is_a_mean_cosine_of_99_hundredths():
    features = gaussian(400, 64)
    mixed = features / features.norm(dim=1, keepdim=True) * 0.1 + torch.ones(64) / 8
    unit = mixed / mixed.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(400, dtype=torch.bool)]
    assert cosines.mean().item() == pytest.approx(0.99, abs=1e-3)
    assert feature_std(mixed) == pytest.approx(LEAST_STD, rel=0.02)


def test_the_warning_says_the_number_and_the_threshold():
    assert "standard deviation 0.012" in collapse_warning(0.0123)
    assert "below 0.1 " in collapse_warning(0.0123)


def test_features_are_not_changed():
    features = gaussian(5, 4)
    before = features.clone()
    feature_std(features)
    effective_rank(features)
    assert torch.equal(features, before)
