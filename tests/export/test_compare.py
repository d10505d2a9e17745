import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from export.compare import Entry, comparison, lines, mean_and_sd
from export.lineage import of_config
from training.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, TrainConfig

SETTINGS = TrainConfig()


def measured(top1: float, top5: float | None = None, engine: str = "torch") -> dict[str, Any]:
    """What `viewfold evaluate` says of a run that answers in one mode."""
    values = {"top1": top1, "top5": top5, "nll": 1 - top1, "ece": 0.1, "n": 50, "forward_passes": 1}
    return {"split": "test", "classes": ["a", "b"], "engine": engine, "modes": {"plain": values}}


def seeded(seed: int, **changes: Any) -> TrainConfig:
    return dataclasses.replace(SETTINGS, seed=seed, out=Path(f"run-{seed}"), **changes)


def entry(config: TrainConfig, result: dict[str, Any]) -> Entry:
    return Entry(config, of_config(config, None), result)


def distilled(seed: int, teacher: dict[str, str] | None = None, **changes: Any) -> Entry:
    """A run that learnt from a run of `sla`, or from what is given of it by flag."""
    config = seeded(seed, objective="distill", teacher=f"/runs/sla-{seed}", **changes)
    found = entry(config, measured(0.8))
    both = {
        "distilled": found.result["modes"]["plain"],
        "aggregated": measured(0.9)["modes"]["plain"],
    }
    lineage = {**found.lineage, "teacher": "sla", **(teacher or {})}
    return Entry(config, lineage, found.result | {"modes": both})


def names(entries: list[Entry]) -> list[str]:
    """Of the rows, each once."""
    return list(dict.fromkeys(row["row"] for row in comparison(entries)["table"]))


def test_mean_and_sd_by_hand():
    # deviations from the mean 5: -3, -1, -1, -1, 0, 0, 2, 4, squares 32, over n - 1 = 7
    found = mean_and_sd([2, 4, 4, 4, 5, 5, 7, 9])
    assert found["mean"] == 5
    assert found["sd"] == pytest.approx((32 / 7) ** 0.5)


def test_a_single_value_has_no_deviation():
    assert mean_and_sd([0.5]) == {"mean": 0.5, "sd": None}


def test_runs_that_differ_in_seed_and_place_are_one_row():
    entries = [
        entry(seeded(0), measured(0.8)),
        entry(seeded(1, device="cpu"), measured(0.9)),
        entry(seeded(2, data=DataConfig(data_dir=Path("elsewhere"), workers=3)), measured(1.0)),
    ]
    (row,) = comparison(entries)["table"]
    assert (row["row"], row["runs"], row["seeds"], row["n"]) == ("sla-sd", 3, [0, 1, 2], 50)
    assert row["top1"] == pytest.approx({"mean": 0.9, "sd": 0.1})
    assert row["nll"] == pytest.approx({"mean": 0.1, "sd": 0.1})
    assert row["top5"] is None


COMPUTED: dict[str, Any] = {
    "devices": 2,
    "compile": "on",
    "channels_last": False,
    "device": "cpu",
    "resume": Path("elsewhere"),
    "data": DataConfig(workers=3, resident_gib=1.0, download=True),
}


@pytest.mark.parametrize("setting", COMPUTED)
def test_how_it_was_computed_makes_no_row(setting: str):
    changed = seeded(1, **{setting: COMPUTED[setting]})
    assert names([entry(seeded(0), measured(0.8)), entry(changed, measured(0.9))]) == ["sla-sd"]


def test_nested_settings_are_named_by_the_flags_that_differ():
    entries = [
        entry(seeded(0), measured(0.8)),
        entry(seeded(0, augment=AugmentConfig(cutmix=1.0)), measured(0.9)),
        entry(seeded(0, loss=LossConfig(temperature=2.0)), measured(0.9)),
    ]
    assert names(entries) == [
        "sla-sd",
        "sla-sd, cutmix 1",
        "sla-sd, temperature 2",
    ]


def test_a_row_is_named_by_what_it_has_and_not_by_what_only_others_have():
    changes: list[dict[str, Any]] = [
        {"epochs": 10}, {"epochs": 20, "augment": AugmentConfig(cutout=0.5)}, {"batch_size": 32}
    ]  # fmt: skip
    entries = [entry(seeded(0, **change), measured(0.8)) for change in changes]
    assert names(entries) == [
        "sla-sd, epochs 10",
        "sla-sd, cutout 0.5, epochs 20",
        "sla-sd, batch-size 32",
    ]


def test_folds_of_several_seeds_with_their_own_teachers_are_one_row():
    table = comparison([distilled(0), distilled(1), distilled(2)])["table"]
    assert [(row["row"], row["mode"], row["runs"]) for row in table] == [
        ("distill", "distilled", 3),
        ("distill", "aggregated", 3),
    ]
    assert all(row["top1"]["sd"] is not None for row in table)


def test_a_teacher_is_named_where_not_every_row_has_one():
    mixed = {"augment": AugmentConfig(cutmix=1.0)}
    entries = [distilled(0, {"teacher.epochs": "80"}, **mixed), entry(seeded(0), measured(0.8))]
    assert names(entries) == ["distill, cutmix 1, teacher sla", "sla-sd"]


def test_teachers_are_told_apart_by_their_own_flags():
    entries = [distilled(0, {"teacher.cutmix": value}) for value in "01"]
    assert names(entries) == ["distill", "distill, teacher.cutmix 1"]


def test_answers_of_a_teacher_are_marked_where_they_are_printed_alone():
    entries = [distilled(0), entry(seeded(0), measured(0.8))]
    assert {row["mode"] for row in comparison(entries)["table"]} == {
        "distilled",
        "aggregated",
        "plain",
    }
    printed = [re.split(" {2,}", line.strip())[1] for line in lines(entries)[2:]]
    assert printed == ["distilled", "aggregated (teacher)", "plain"]


def test_an_aggregated_answer_of_its_own_is_not_marked():
    result = measured(0.8)
    result["modes"] = {"aggregated": result["modes"]["plain"]}
    assert "teacher)" not in "".join(lines([entry(seeded(0), result), entry(seeded(1), result)]))


def test_rows_are_named_by_what_differs():
    entries = [
        entry(seeded(0), measured(0.8)),
        entry(seeded(0, objective="baseline"), measured(0.7)),
        entry(seeded(0, objective="baseline", epochs=240), measured(0.75)),
        entry(seeded(0, optim=OptimConfig(lr=0.3)), measured(0.1)),
        entry(seeded(1), measured(0.8)),
    ]
    assert names(entries) == [
        "sla-sd",
        "baseline",
        "baseline, epochs 240",
        "sla-sd, optim.lr 0.3",
    ]


def test_other_data_and_another_split_are_another_row():
    entries = [entry(seeded(0, data=DataConfig(split_seed=seed)), measured(0.8)) for seed in (0, 1)]
    assert names(entries) == ["sla-sd", "sla-sd, split-seed 1"]


def test_folders_of_the_data_are_named_where_nothing_else_differs():
    places = ("folder:/one/birds", "folder:/two/birds")
    entries = [entry(seeded(0, data=DataConfig(data=place)), measured(0.8)) for place in places]
    assert names(entries) == ["sla-sd, data folder:/one/birds", "sla-sd, data folder:/two/birds"]
    assert names([*entries[:1], entry(seeded(0), measured(0.9))]) == [
        "sla-sd, data folder:birds",
        "sla-sd, data digits",
    ]


def test_table_is_printed_with_one_line_a_row_and_top5_where_there_is_one():
    entries = [entry(seeded(0), measured(0.8, 0.9)), entry(seeded(1), measured(0.9, 1.0))]
    about, header, row = lines(entries)
    assert "test split, 50 images" in about
    assert "top-5 %" in header
    assert re.split(" {2,}", row.strip()) == [
        *("sla-sd", "plain", "1", "2", "85.00 ± 7.07", "95.00 ± 7.07"),
        *("0.1500 ± 0.0707", "0.1000 ± 0.0000"),
    ]
    entries = [entry(seeded(0), measured(0.8)), entry(seeded(1, epochs=2), measured(0.9))]
    _, header, row, _ = lines(entries)
    assert "top-5" not in header
    assert "±" not in row
