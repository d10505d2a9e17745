import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.images import ImageSpec
from tests.training.data_sets import array_split, write_pictures
from training.batches import (
    Batches,
    ResidentBatches,
    StreamedBatches,
    epoch_order,
    in_order,
    prepare,
    step_seed,
)
from training.config import DataConfig
from training.data import load
from training.errors import DataError
from training.progress import Progress
from training.splits import Split

CPU = torch.device("cpu")
SPEC = ImageSpec(8, 8)
RESIDENT = DataConfig(workers=1)
STREAMED = DataConfig(workers=0, resident_gib=0.0)


def prepared(
    split: Split, config: DataConfig = RESIDENT, spec: ImageSpec = SPEC
) -> tuple[Split, Batches]:
    return prepare(split, "train", spec, config, CPU, Progress())


def folder_split(path: Path) -> Split:
    """A split of 16 readable pictures, file by file."""
    write_pictures(path / "cat", 10, colour=250)
    write_pictures(path / "dog", 10)
    return load(DataConfig(data=f"folder:{path}", test_fraction=0.1)).train


def test_resident_batches_hold_the_pictures_in_order():
    split = array_split()
    _, batches = prepared(split)
    assert isinstance(batches, ResidentBatches)
    expected = np.stack([split.pixels(k, SPEC) for k in range(len(split))])
    np.testing.assert_array_equal(batches.images.numpy(), expected)
    assert batches.labels.tolist() == split.labels.tolist()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_batches_are_the_resident_ones(workers: int, tmp_path: Path):
    split = folder_split(tmp_path)
    _, resident = prepared(split)
    _, streamed = prepared(split, dataclasses.replace(STREAMED, workers=workers))
    assert isinstance(streamed, StreamedBatches)
    order = epoch_order(len(split), 4, seed=0, epoch=0)
    pairs = zip(resident.iterate(order), streamed.iterate(order), strict=True)
    for (images, labels), (other, other_labels) in pairs:
        assert torch.equal(images, other)
        assert torch.equal(labels, other_labels)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert len(resident) == len(streamed) == len(split)


def test_batches_can_be_asked_for_from_any_step_on():
    _, batches = prepared(array_split(12))
    order = epoch_order(12, 4, seed=0, epoch=0)
    last = list(batches.iterate(order))[-1]
    (again,) = batches.iterate(order[2:])
    assert torch.equal(last[0], again[0])


def test_split_larger_than_the_limit_is_streamed():
    split = array_split(10)
    size = 10 * 8 * 8 * 3 / 2**30
    _, fits = prepared(split, dataclasses.replace(RESIDENT, resident_gib=size))
    _, does_not = prepared(split, dataclasses.replace(RESIDENT, workers=0, resident_gib=size * 0.9))
    assert isinstance(fits, ResidentBatches)
    assert isinstance(does_not, StreamedBatches)


# files that cannot be read


def with_broken(path: Path, number: int) -> Split:
    """18 pictures less or more, the first `number` of which are text."""
    split = folder_split(path)
    for place in range(number):
        Path(split.name(place)).write_text("no picture")
    return split


@pytest.mark.parametrize("config", [RESIDENT, STREAMED])
def test_unreadable_files_are_counted_named_and_refused(config: DataConfig, tmp_path: Path):
    split = with_broken(tmp_path, 2)
    with pytest.raises(DataError) as caught:
        prepared(split, config)
    message = str(caught.value)
    assert f"2 of {len(split)} train images cannot be read" in message
    assert "--skip-unreadable" in message
    assert all(split.name(place) in message for place in (0, 1))
    assert split.name(2) not in message


def test_no_more_than_ten_unreadable_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="and 2 more") as caught:
        prepared(with_broken(tmp_path, 12))
    assert str(caught.value).count(".png:") == 10


@pytest.mark.parametrize("config", [RESIDENT, STREAMED])
def test_unreadable_files_are_left_out_where_the_flag_is_given(
    config: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    split = with_broken(tmp_path, 2)
    kept, batches = prepared(split, dataclasses.replace(config, skip_unreadable=True))
    assert len(kept) == len(batches) == len(split) - 2
    assert kept.name(0) == split.name(2)
    ((images, labels),) = batches.iterate([torch.arange(len(kept))])
    assert labels.tolist() == split.labels[2:].tolist()
    assert images[0].flatten().tolist() == split.pixels(2, SPEC).flatten().tolist()
    assert "are left out" in capsys.readouterr().out


def test_split_of_which_nothing_can_be_read_is_refused(tmp_path: Path):
    split = folder_split(tmp_path)
    with_broken(tmp_path, len(split))
    with pytest.raises(DataError, match=f"none of the {len(split)} train images"):
        prepared(split, dataclasses.replace(RESIDENT, skip_unreadable=True))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("workers", [0, 1])
def test_file_that_vanishes_while_training_is_named_in_one_line(workers: int, tmp_path: Path):
    split = folder_split(tmp_path)
    _, streamed = prepared(split, dataclasses.replace(STREAMED, workers=workers))
    Path(split.name(0)).unlink()
    with pytest.raises(DataError, match="can no longer be read") as caught:
        list(streamed.iterate([torch.tensor([0])]))
    assert str(caught.value).startswith(split.name(0))
    assert "\n" not in str(caught.value)


# the order


def test_epoch_order_names_every_place_at_most_once_and_drops_the_rest():
    order = epoch_order(23, 5, seed=0, epoch=0)
    assert [len(batch) for batch in order] == [5, 5, 5, 5]
    places = torch.cat(order).tolist()
    assert len(set(places)) == 20
    assert set(places) < set(range(23))


def test_epoch_order_of_whole_batches_is_a_permutation():
    places = torch.cat(epoch_order(20, 5, seed=0, epoch=0)).tolist()
    assert sorted(places) == list(range(20))
    assert places != list(range(20))


def test_split_smaller_than_a_batch_is_one_batch():
    (batch,) = epoch_order(3, 5, seed=0, epoch=0)
    assert sorted(batch.tolist()) == [0, 1, 2]


def test_epoch_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(epoch_order(50, 10, seed=seed, epoch=epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_in_order_is_everything_from_first_to_last():
    assert [batch.tolist() for batch in in_order(5, 2)] == [[0, 1], [2, 3], [4]]


def test_step_seeds_differ_by_seed_step_and_purpose_and_suit_torch():
    seeds = {
        step_seed(seed, step, purpose)
        for seed in (0, 1, 2**63 - 1)
        for step in range(20)
        for purpose in ("augment", "network", "order")
    }
    assert len(seeds) == 3 * 20 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_step_seed_is_the_same_on_every_machine():
    assert step_seed(7, 3, "augment") == 3679349137122538130
