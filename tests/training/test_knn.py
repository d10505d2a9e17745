import math

import pytest
import torch
from torch import Tensor

from training import knn
from training.errors import ConfigError
from training.knn import knn_accuracy


def blobs(n: int, *, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes; a centre each, the same for every seed."""
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(n) % classes
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return centres[labels] + 2 * noise, labels


def accuracy_by_loops(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    k: int,
    temperature: float,
) -> float:
    known, right = list(zip(train[0].tolist(), train[1].tolist(), strict=True)), 0
    for image, truth in zip(test[0].tolist(), test[1].tolist(), strict=True):
        cosines = [
            (
                sum(a * b for a, b in zip(image, other, strict=True))
                / math.hypot(*image)
                / math.hypot(*other),
                label,
            )
            for other, label in known
        ]
        votes = [0.0] * classes
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] += math.exp(cosine / temperature)
        right += votes.index(max(votes)) == truth
    return right / len(test[1])


@pytest.mark.parametrize("k", [1, 5, 50, 1000])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_accuracy_matches_the_loop(k: int, temperature: float):
    train, test = blobs(60), blobs(45, seed=1)
    found = knn_accuracy(*train, *test, num_classes=3, k=k, temperature=temperature)
    assert found == accuracy_by_loops(train, test, 3, k, temperature)
    assert 0.3 < found < 1


def test_a_near_neighbour_outvotes_two_that_are_less_near_only_when_cold():
    # cosines 1 of class 0 and 0.9 twice of class 1: e^(1/τ) against 2 e^(0.9/τ), even at τ = 0.1 / log 2
    angle = math.acos(0.9)
    near, apart = [1.0, 0.0], [math.cos(angle), math.sin(angle)]
    other = [math.cos(angle), -math.sin(angle)]
    train = torch.tensor([near, apart, other]), torch.tensor([0, 1, 1])
    image, even = torch.tensor([[1.0, 0.0]]), 0.1 / math.log(2)
    for temperature, winner in ((even * 0.99, 0), (even * 1.01, 1)):
        for label in (0, 1):
            found = knn_accuracy(
                *train, image, torch.tensor([label]), num_classes=2, k=3, temperature=temperature
            )
            assert found == (label == winner)


def test_an_image_is_its_own_nearest_neighbour():
    images = blobs(30)
    assert knn_accuracy(*images, *images, num_classes=3, k=1) == 1


def test_neighbours_are_by_angle_and_not_by_length():
    train, test = blobs(60), blobs(45, seed=1)
    lengths = torch.rand(60, 1, generator=torch.Generator().manual_seed(2)) * 10 + 0.1
    plain = knn_accuracy(*train, *test, num_classes=3, k=7)
    assert knn_accuracy(train[0] * lengths, train[1], *test, num_classes=3, k=7) == plain
    assert knn_accuracy(*train, test[0] * 0.01, test[1], num_classes=3, k=7) == plain


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch):
    train, test = blobs(60), blobs(45, seed=1)
    whole = knn_accuracy(*train, *test, num_classes=3, k=7)
    for held in (1, 60, 60 * 7):
        monkeypatch.setattr(knn, "MOST_SIMILARITIES", held)
        assert knn_accuracy(*train, *test, num_classes=3, k=7) == whole


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_no_temperature_overflows(temperature: float):
    train, test = blobs(60), blobs(45, seed=1)
    cold = temperature < 1
    found = knn_accuracy(*train, *test, num_classes=3, k=60, temperature=temperature)
    if cold:  # the nearest alone decides
        assert found == knn_accuracy(*train, *test, num_classes=3, k=1)
    else:  # every class has 20 votes of almost the same weight
        assert 0 < found < 1


def test_more_neighbours_than_images_are_all_of_them():
    train, test = blobs(9), blobs(45, seed=1)
    everyone = knn_accuracy(*train, *test, num_classes=3, k=9)
    assert knn_accuracy(*train, *test, num_classes=3, k=200) == everyone


def test_a_single_training_image_decides():
    found = knn_accuracy(
        torch.ones(1, 2),
        torch.tensor([1]),
        torch.randn(4, 2),
        torch.tensor([1, 1, 0, 1]),
        num_classes=2,
    )
    assert found == 0.75


@pytest.mark.parametrize(
    ("k", "temperature", "words"), [(0, 1, "k is 0"), (1, 0, "is 0"), (1, -1, "is -1")]
)
def test_settings_that_cannot_vote_are_refused(k: int, temperature: float, words: str):
    images = blobs(6)
    with pytest.raises(ConfigError, match=words):
        knn_accuracy(*images, *images, num_classes=3, k=k, temperature=temperature)
