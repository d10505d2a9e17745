"""The benchmark of what is fitted to frozen features."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import logistic, tables
from tests.training.data_sets import striped, write_npz
from tests.training.pretraining import pretraining
from training.logistic import GRID
from training.pretrain import pretrain

SMALL = logistic.Size(
    fit=200,
    choose=100,
    features=64,
    classes=6,
    few=3,
    weights=(1.0, 10.0),
    episodes=20,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder of 64 features, whose data are 160 images."""
    folder = tmp_path_factory.mktemp("encoder")
    images, labels = striped(160)
    write_npz(folder / "set.npz", train_images=images, train_labels=labels)
    return pretrain(pretraining(folder, epochs=1)).folder


def test_every_task_is_timed_in_every_turn_and_the_table_shows_it(run: Path):
    found = logistic.measure(SMALL, 2, run)
    assert list(found["rows"]) == [
        "2 fits and the last, an encoder's features",
        "2 fits and the last, drawn features",
        "2 fits and the last, redundant features",
        "20 episodes, 5-way 1-shot",
        "20 episodes, 5-way 5-shot",
    ]
    for row in found["rows"].values():
        for seconds in row.values():
            assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert found["unconverged"] == []
    lines = tables.TABLES["logistic"](found).splitlines()
    assert lines[2].startswith("| 2 fits and the last, an encoder's features | ")
    assert "of 2 turns" in lines[-1]
    assert "200 images to fit, 100 to choose on, 64 features, 6 classes" in lines[-1]
    assert "The encoder: resnet8 by simsiam, 1 epochs of 144 images" in lines[-1]
    assert str(run.parent) not in str(found)


def test_images_and_mirror_images_are_what_an_encoder_is_asked_about(run: Path):
    (features, labels), _ = logistic.features_of_images(SMALL, run)
    assert (features.shape, labels.unique().tolist()) == ((300, 64), [0, 1])
    again, _ = logistic.features_of_images(SMALL, run)
    assert torch.equal(features, again[0])
    for wrong, said in (
        ({"fit": 221}, "321 images .* are needed, and there are 320"),
        ({"features": 8}, "64 features"),
    ):
        with pytest.raises(SystemExit, match=said):
            logistic.features_of_images(dataclasses.replace(SMALL, **wrong), run)


def test_what_is_fitted_is_a_probe_of_the_papers_grid_and_the_same_at_every_call():
    assert logistic.Size().weights == GRID
    (features, labels), (again, _) = logistic.drawn(SMALL), logistic.drawn(SMALL)
    assert features.shape == (300, 64)
    assert labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(features, again)


def test_redundant_features_are_worse_conditioned():
    (plain, _), (redundant, _) = (logistic.drawn(SMALL, redundant=it) for it in (False, True))
    assert redundant.shape == plain.shape
    weakest = [torch.linalg.svdvals(f - f.mean(0))[[0, -1]] for f in (plain, redundant)]
    ratios = [(least / most).item() for most, least in weakest]
    assert 0 < 2 * ratios[1] < ratios[0]
