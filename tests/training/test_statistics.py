import numpy as np
import pytest
import torch

from tests.training.data_sets import pixels
from training.batches import ResidentBatches
from training.errors import DataError
from training.progress import Progress
from training.statistics import channel_statistics, check_colours, evenly_spaced
from training.transformations import transformation_set


def resident(images: np.ndarray) -> ResidentBatches:
    return ResidentBatches(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.int64))


def test_channel_statistics_match_numpy():
    images = pixels(250)
    images[..., 1] //= 3
    mean, std = channel_statistics(resident(images))
    assert mean == pytest.approx(images.mean((0, 1, 2)), abs=1e-3)
    assert std == pytest.approx(images.astype(np.float64).std((0, 1, 2)), abs=1e-3)


def test_channel_without_contrast_gets_a_deviation_of_one():
    images = pixels(10)
    images[..., 2] = 40
    mean, std = channel_statistics(resident(images))
    assert mean[2] == 40
    assert std[2] == 1


def test_evenly_spaced_places_reach_from_end_to_end():
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(3, 64).tolist() == [0, 1, 2]
    assert len(evenly_spaced(1000, 64).unique()) == 64


def test_colours_of_grey_images_cannot_be_permuted():
    grey = np.repeat(pixels(20)[..., :1], 3, axis=3)
    with pytest.raises(DataError, match="all training images are grey"):
        check_colours(resident(grey), transformation_set("rotation*color3"), Progress())
    check_colours(resident(grey), transformation_set("rotation"), Progress())


def test_share_of_grey_images_is_said(capsys: pytest.CaptureFixture[str]):
    images = pixels(20)
    images[:5] = images[:5, ..., :1]
    check_colours(resident(images), transformation_set("color6"), Progress())
    assert "25.0 % of the training images are grey" in capsys.readouterr().out
    check_colours(resident(pixels(20)), transformation_set("color6"), Progress())
    assert capsys.readouterr().out == ""
