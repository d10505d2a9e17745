"""The benchmark of what is fitted to frozen features."""

import torch

from benchmarks import logistic, tables
from training.logistic import GRID

SMALL = logistic.Size(
    fit=200,
    choose=100,
    features=8,
    classes=6,
    few_directions=3,
    weights=(1.0, 10.0),
    episodes=20,
)


def test_every_task_is_timed_in_every_turn_and_the_table_shows_it():
    found = logistic.measure(SMALL, turns=2)
    assert list(found["rows"]) == [
        "2 fits and the last",
        "2 fits and the last, features of 3 directions",
        "20 episodes, 5-way 1-shot",
        "20 episodes, 5-way 5-shot",
    ]
    for row in found["rows"].values():
        for seconds in row.values():
            assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert found["unconverged"] == []
    lines = tables.TABLES["logistic"](found).splitlines()
    assert lines[2].startswith("| 2 fits and the last | ")
    assert "of 2 turns" in lines[-1]
    assert "200 images to fit, 100 to choose on, 8 features, 6 classes" in lines[-1]


def test_what_is_fitted_is_a_probe_of_the_papers_grid_and_the_same_at_every_call():
    assert logistic.Size().weights == GRID
    (features, labels), (again, _) = logistic.drawn(SMALL, 8), logistic.drawn(SMALL, 8)
    assert features.shape == (300, 8)
    assert labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(features, again)


def test_features_of_few_directions_are_no_plane_after_the_relu():
    features, _ = logistic.drawn(SMALL, 3)
    assert features.shape == (300, 8)
    assert torch.linalg.matrix_rank(features) > 3
