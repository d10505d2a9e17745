"""The benchmark of what is fitted to frozen features."""

import torch

from benchmarks import logistic, tables
from training.logistic import GRID

SMALL = logistic.Size(
    fit=200,
    choose=100,
    features=8,
    classes=6,
    few=3,
    weights=(1.0, 10.0),
    episodes=20,
)


def test_every_task_is_timed_in_every_turn_and_the_table_shows_it():
    found = logistic.measure(SMALL, turns=2)
    assert list(found["rows"]) == [
        "2 fits and the last",
        "2 fits and the last, redundant features",
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
    (features, labels), (again, _) = logistic.drawn(SMALL), logistic.drawn(SMALL)
    assert features.shape == (300, 8)
    assert labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(features, again)


def test_redundant_features_are_worse_conditioned():
    (plain, _), (redundant, _) = (logistic.drawn(SMALL, redundant=it) for it in (False, True))
    assert redundant.shape == plain.shape
    weakest = [torch.linalg.svdvals(f - f.mean(0))[[0, -1]] for f in (plain, redundant)]
    ratios = [(least / most).item() for most, least in weakest]
    assert 0 < 2 * ratios[1] < ratios[0]
