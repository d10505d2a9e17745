import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from export.compare import comparison, lines, mean_and_sd
from training.config import DataConfig, OptimConfig, TrainConfig

SETTINGS = TrainConfig()


def measured(top1: float, top5: float | None = None, engine: str = "torch") -> dict[str, Any]:
    """What `viewfold evaluate` says of a run that answers in one mode."""
    values = {"top1": top1, "top5": top5, "nll": 1 - top1, "ece": 0.1, "n": 50, "forward_passes": 1}
    return {"split": "test", "classes": ["a", "b"], "engine": engine, "modes": {"plain": values}}


def seeded(seed: int, **changes: Any) -> TrainConfig:
    return dataclasses.replace(SETTINGS, seed=seed, out=Path(f"run-{seed}"), **changes)


def test_mean_and_sd_by_hand():
    # deviations from the mean 5: -3, -1, -1, -1, 0, 0, 2, 4, squares 32, over n - 1 = 7
    found = mean_and_sd([2, 4, 4, 4, 5, 5, 7, 9])
    assert found["mean"] == 5
    assert found["sd"] == pytest.approx((32 / 7) ** 0.5)


def test_a_single_value_has_no_deviation():
    assert mean_and_sd([0.5]) == {"mean": 0.5, "sd": None}


def test_runs_that_differ_in_seed_and_place_are_one_row():
    entries = [
        (seeded(0), measured(0.8)),
        (seeded(1, device="cpu"), measured(0.9)),
        (seeded(2, data=DataConfig(data_dir=Path("elsewhere"), workers=3)), measured(1.0)),
    ]
    (row,) = comparison(entries)["table"]
    assert (row["row"], row["runs"], row["seeds"], row["n"]) == ("sla-sd", 3, [0, 1, 2], 50)
    assert row["top1"] == pytest.approx({"mean": 0.9, "sd": 0.1})
    assert row["nll"] == pytest.approx({"mean": 0.1, "sd": 0.1})
    assert row["top5"] is None


def test_rows_are_named_by_what_differs():
    entries = [
        (seeded(0), measured(0.8)),
        (seeded(0, objective="baseline"), measured(0.7)),
        (seeded(0, objective="baseline", epochs=240), measured(0.75)),
        (seeded(0, optim=OptimConfig(lr=0.3)), measured(0.1)),
        (seeded(1), measured(0.8)),
    ]
    names = [row["row"] for row in comparison(entries)["table"]]
    assert names == [
        "sla-sd, epochs 60, optim.lr None",
        "baseline, epochs 60, optim.lr None",
        "baseline, epochs 240, optim.lr None",
        "sla-sd, epochs 60, optim.lr 0.3",
    ]


def test_other_data_and_another_split_are_another_row():
    entries = [(seeded(0, data=DataConfig(split_seed=seed)), measured(0.8)) for seed in (0, 1)]
    names = [row["row"] for row in comparison(entries)["table"]]
    assert names == ["sla-sd, split-seed 0", "sla-sd, split-seed 1"]


def test_folders_of_the_data_are_named_where_nothing_else_differs():
    places = ("folder:/one/birds", "folder:/two/birds")
    entries = [(seeded(0, data=DataConfig(data=place)), measured(0.8)) for place in places]
    names = [row["row"] for row in comparison(entries)["table"]]
    assert names == ["sla-sd, data folder:/one/birds", "sla-sd, data folder:/two/birds"]
    names = [row["row"] for row in comparison([*entries[:1], (seeded(0), measured(0.9))])["table"]]
    assert names == ["sla-sd, data folder:birds", "sla-sd, data digits"]


def test_table_is_printed_with_one_line_a_row_and_top5_where_there_is_one():
    entries = [(seeded(0), measured(0.8, 0.9)), (seeded(1), measured(0.9, 1.0))]
    about, header, row = lines(comparison(entries))
    assert "test split, 50 images" in about
    assert "top-5 %" in header
    assert re.split(" {2,}", row.strip()) == [
        *("sla-sd", "plain", "1", "2", "85.00 ± 7.07", "95.00 ± 7.07"),
        *("0.1500 ± 0.0707", "0.1000 ± 0.0000"),
    ]
    entries = [(seeded(0), measured(0.8)), (seeded(1, epochs=2), measured(0.9))]
    _, header, row, _ = lines(comparison(entries))
    assert "top-5" not in header
    assert "±" not in row
