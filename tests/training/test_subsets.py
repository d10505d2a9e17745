from pathlib import Path

import numpy as np
import pytest

from export.config import EvaluateConfig
from export.evaluate import run as evaluate_run
from tests.training.data_sets import pixels, striped, write_npz
from tests.training.runs import interrupt_after, rows, settings
from training import checkpoint
from training.classify import train
from training.config import DataConfig, TrainConfig
from training.data import load
from training.errors import ConfigError
from training.splits import ArrayPictures, Split, split_of
from training.subsets import class_counts, describe, draw, long_tail, proportional, thin


def split(*counts: int) -> Split:
    """That many pictures of every class, in mixed order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    mixed = np.random.default_rng(1).permutation(labels)
    return split_of(ArrayPictures(pixels(len(mixed), size=2)), mixed)


def thinned(whole: Split, classes: int, **options: object) -> Split:
    return thin(whole, classes, DataConfig(**options))


def by_class(part: Split, classes: int) -> list[int]:
    return class_counts(part.labels, classes)


# how many


def test_long_tail_of_cifar10_has_the_papers_counts():
    found = long_tail([5000] * 10, 100)
    assert found == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.mark.parametrize(
    ("classes", "largest", "factor"), [(10, 5000, 100), (10, 5000, 10), (100, 500, 100), (2, 60, 3)]
)
def test_long_tail_ends_at_the_largest_class_over_the_factor(
    classes: int, largest: int, factor: int
):
    found = long_tail([largest] * classes, factor)
    assert (found[0], found[-1]) == (largest, largest // factor)
    assert found == sorted(found, reverse=True)


def test_long_tail_keeps_one_image_of_every_class_and_no_more_than_there_are():
    assert long_tail([20, 20, 20], 1e6) == [20, 1, 1]
    assert long_tail([3, 100, 100, 2], 8) == [3, 50, 25, 2]


def test_factor_of_one_leaves_every_class_as_it_is():
    assert long_tail([7, 3, 9], 1.0) == [7, 3, 9]


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ([50, 50], 10, [5, 5]),
        ([90, 10], 10, [9, 1]),
        ([60, 30, 10], 100, [60, 30, 10]),
        ([10, 10, 10], 4, [2, 1, 1]),
        ([997, 1, 1, 1], 4, [1, 1, 1, 1]),
        ([997, 1, 1, 1], 10, [7, 1, 1, 1]),
    ],
)
def test_share_of_every_class_is_in_proportion_and_at_least_one(
    counts: list[int], total: int, expected: list[int]
):
    assert proportional(counts, total) == expected


def test_shares_add_up_and_are_there_for_any_counts_and_total():
    generator = np.random.default_rng(0)
    for _ in range(200):
        counts = generator.integers(1, 30, generator.integers(2, 9)).tolist()
        total = int(generator.integers(len(counts), sum(counts) + 1))
        found = proportional(counts, total)
        assert sum(found) == total
        assert all(1 <= one <= there for one, there in zip(found, counts, strict=True))


def test_more_images_than_there_are_or_fewer_than_classes_are_refused():
    with pytest.raises(ConfigError, match=r"^--train-images is 101; there are 100 images"):
        proportional([50, 50], 101)
    with pytest.raises(ConfigError, match=r"^--train-images is 2; it must be at least 3"):
        proportional([50, 50, 1], 2)


# which


def test_drawn_images_are_some_of_the_split_in_their_order_with_their_labels():
    whole = split(30, 20, 10)
    part = draw(whole, [3, 20, 1], seed=0)
    assert by_class(part, 3) == [3, 20, 1]
    assert (np.diff(part.index) > 0).all()
    np.testing.assert_array_equal(part.labels, whole.labels[part.index])


def test_same_split_seed_draws_the_same_images_and_another_others():
    first, again, other = (
        thinned(split(50, 50), 2, train_images=40, split_seed=seed).index.tolist()
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_a_larger_number_of_images_contains_a_smaller_one():
    small, large = (thinned(split(50, 50), 2, train_images=n).index for n in (10, 40))
    assert set(small) < set(large)


def test_tail_is_made_of_what_the_number_leaves():
    part = thinned(split(100, 100), 2, train_images=40, imbalance=4.0)
    assert by_class(part, 2) == [20, 5]
    assert set(part.index) < set(thinned(split(100, 100), 2, train_images=40).index)


def test_all_images_stay_by_default():
    whole = split(5, 4)
    assert thinned(whole, 2).index.tolist() == whole.index.tolist()


def test_validation_and_test_stay_as_they_are(tmp_path: Path):
    data = f"npz:{write_npz(tmp_path / 'set.npz')}"
    whole = load(DataConfig(data=data))
    for options in ({"train_images": 10}, {"imbalance": 6.0}):
        found = load(DataConfig(data=data, **options))
        assert set(found.train.index) < set(whole.train.index)
        assert found.val.index.tolist() == whole.val.index.tolist()
        assert found.test.index.tolist() == whole.test.index.tolist()
    assert by_class(found.train, 2) == [18, 3]  # of 18 and 18


# in a run


def test_run_keeps_its_subset_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    images, labels = striped(80)
    path = write_npz(tmp_path / "set.npz", train_images=images, train_labels=labels)
    data = DataConfig(data=f"npz:{path}", workers=1, train_images=40, imbalance=2.0)
    whole = train(settings(tmp_path, data=data, out=tmp_path / "whole"))
    assert "training images by class: 0 20, 1 10" in capsys.readouterr().out
    assert whole.problem.counts == (30, 8, 20)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        train(settings(tmp_path, data=data))
    run = train(TrainConfig(resume=tmp_path / "run"))
    assert rows(run.folder) == rows(whole.folder)
    assert checkpoint.open_run(run.folder).config.data.train_images == 40


def test_evaluation_sees_the_subset_of_a_run_but_all_of_other_data(tmp_path: Path):
    config = settings(tmp_path, epochs=1)
    data = DataConfig(data=config.data.data, workers=1, train_images=12)
    folder = train(settings(tmp_path, epochs=1, data=data)).folder
    found = evaluate_run(EvaluateConfig((folder,), split="train", device="cpu"))
    assert found["modes"]["distilled"]["n"] == 12
    other = write_npz(tmp_path / "other.npz")
    found = evaluate_run(
        EvaluateConfig((folder,), split="train", device="cpu", data=f"npz:{other}")
    )
    assert found["modes"]["distilled"]["n"] == 36


def test_counts_are_named_one_by_one_or_by_their_ends():
    assert (
        describe([0] * 1200 + [1] * 3, ["cat", "dog"])
        == "training images by class: cat 1,200, dog 3"
    )
    labels = np.repeat(np.arange(20), np.arange(20, 0, -1)).tolist()
    many = describe(labels, [f"c{n}" for n in range(20)])
    assert many == "training images by class: from 20 (c0) to 1 (c19)"
