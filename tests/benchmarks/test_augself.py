"""The benchmark of AugSelf."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import augself, augself_speed, tables
from training.pretrain_checks import check_settings as check_pretraining
from training.pretrain_config import PretrainConfig


def test_every_encoder_can_be_pretrained_and_differs_from_its_plain_row_in_augself_alone():
    for experiment in augself.EXPERIMENTS.values():
        for config in experiment.rows.values():
            check_pretraining(config)
        for aware, plain in augself.PAIRS:
            without = dataclasses.replace(experiment.rows[aware], augself="")
            assert without == experiment.rows[plain]


def encoder_entry(row: str, seed: int, flowers: float, seconds: float = 10.0) -> dict[str, Any]:
    probes = {
        name: {"test": {"plain": {"top1": top1, "n": 272}}, "knn": {"top1": top1 / 2}}
        for name, top1 in (("flowers17", flowers), ("dtd10", 0.3))
    }
    scores = {name: {"score": 0.2} for name in ("crop", "color")}
    pretraining = {"val": {"val_knn_top1": 0.1}, "seconds": seconds}
    return {
        "row": row,
        "seed": seed,
        "probes": probes,
        "awareness": scores,
        "pretraining": pretraining,
        "hardware": "a CPU",
        "versions": {"torch": "2.11.0"},
    }


def test_gain_of_augself_is_paired_by_seed():
    runs = [encoder_entry("simsiam", seed, 0.5 + 0.1 * seed) for seed in (0, 1, 2)]
    runs += [encoder_entry("simsiam + augself", seed, 0.6 + 0.2 * seed) for seed in (0, 1)]
    (found,) = augself.compare(runs)
    # 0.1 and 0.2: mean 0.15, sd 0.0707, t = 12.706 with one degree of freedom
    assert found["gains"]["flowers17"] == {
        "mean": pytest.approx(0.15),
        "half_width_95": pytest.approx(12.7062 * 0.0707107 / 2**0.5, abs=1e-5),
        "n": 2,
    }
    assert found["gains"]["mean of both"]["mean"] == pytest.approx(0.075)
    lines = {line["row"]: line["numbers"]["flowers17"]["n"] for line in augself.table(runs)}
    assert lines == {"simsiam": 3, "simsiam + augself": 2}


def test_neighbours_of_the_downstream_sets_count_where_all_runs_tell_of_them():
    runs = [encoder_entry("simclr", 0, 0.4), encoder_entry("simclr + augself", 0, 0.5)]
    (found,) = augself.compare(runs)
    assert found["gains"]["kNN flowers17"]["mean"] == pytest.approx(0.05)
    assert found["gains"]["kNN dtd10"]["mean"] == pytest.approx(0)
    del runs[0]["probes"]["dtd10"]["knn"]  # of before there was such a number
    (found,) = augself.compare(runs)
    assert "kNN flowers17" in found["gains"]
    assert "kNN dtd10" not in found["gains"]
    plain, aware = augself.table(runs)
    assert "kNN dtd10" not in plain["numbers"]
    assert aware["numbers"]["kNN dtd10"]["mean"] == pytest.approx(0.15)


def test_table_shows_every_number_and_the_paired_gains_with_their_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = augself.Place(tmp_path, tmp_path / "benchmarks" / "results", tmp_path / "runs")
    for seed in (0, 1):
        augself.add("augself-small", encoder_entry("simclr", seed, 0.5), place)
        gained = encoder_entry("simclr + augself", seed, 0.6 + 0.1 * seed, seconds=1200.0)
        augself.add("augself-small", gained, place)
    augself.add("augself-small", encoder_entry("simsiam", 0, 0.25), place)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    lines = tables.table("augself-small").splitlines()
    one, *_, plain, aware = lines[2:5]
    assert one.startswith(
        "| simsiam | 25.00 | 30.00 | 27.50 | 0.200 | 0.200 | 12.50 | 15.00 | 10.00 |"
    )
    assert plain.startswith("| simclr | 50.00 ± 0.00 |")
    # 0.6 and 0.7: mean 0.65, sd 0.0707, t = 12.706 with one degree of freedom
    assert aware.startswith("| simclr + augself | 65.00 ± 63.53 |")
    assert aware.endswith("| 2 |")
    assert lines[0].startswith("| pretrained by | flowers17, top-1 % | dtd10, top-1 % |")
    assert lines[6].startswith("| gain, paired by seed | flowers17, top-1 % |")
    assert lines[8].startswith("| simclr + augself − simclr | +15.00 ± 63.53 | +0.00 ± 0.00 |")
    assert len([line for line in lines if "−" in line]) == 1
    assert "272 of flowers17" in lines[-1]
    assert "`python -m benchmarks.augself augself-small --data DIR`" in lines[-1]


def test_table_of_what_nobody_has_run_says_so_and_no_other_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.table("augself").startswith("Not run yet: `python -m benchmarks.gpu augself")
    with pytest.raises(FileNotFoundError):
        tables.table("digits")


def test_results_of_changed_settings_do_not_count_and_their_runs_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = augself.Place(tmp_path, tmp_path / "results", tmp_path / "runs")
    augself.add("augself-small", encoder_entry("simclr", 0, 0.5), place)
    assert len(augself.read_results("augself-small", place)["runs"]) == 1
    folders: list[Path | None] = []

    def kept(config: PretrainConfig) -> None:
        folders.append(config.out)

    monkeypatch.setattr(augself, "pretrain", kept)
    for experiment in (
        augself.EXPERIMENTS["augself-small"],
        augself.tiny(augself.EXPERIMENTS["augself-small"]),
    ):
        monkeypatch.setitem(augself.EXPERIMENTS, "augself-small", experiment)
        augself.pretrained("augself-small", "simclr", 0, place)
    assert folders[0] != folders[1]
    assert augself.read_results("augself-small", place)["runs"] == []


def test_encoder_is_gone_on_with_where_the_images_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[PretrainConfig] = []
    monkeypatch.setattr(augself, "pretrain", asked.append)
    place = augself.Place(tmp_path / "before", tmp_path / "results", tmp_path / "runs")
    augself.pretrained("augself-small", "simclr", 0, place)
    begun = asked[0].out
    assert begun is not None
    begun.mkdir(parents=True)
    (begun / "SHA256SUMS").touch()
    moved = dataclasses.replace(place, data=tmp_path / "now")
    augself.pretrained("augself-small", "simclr", 0, moved)
    assert asked[1].resume == begun
    assert asked[1].data.data == f"folder:{tmp_path / 'now' / 'tiny-imagenet-50'}"


def test_step_is_timed_with_and_without_augself_in_turn():
    rows = augself.tiny(augself.EXPERIMENTS["augself-small"]).rows
    found = augself_speed.measure(rows, torch.device("cpu"), turns=2)
    assert found["methods"].keys() == {"simsiam", "simclr"}
    for row in found["methods"].values():
        assert min(row["plain_s"], row["augself_s"], row["ratio"]["median"]) > 0


def test_ratio_of_steps_is_of_the_same_turn():
    found = augself_speed.ratios([2.0, 30.0, 4.4], [2.0, 20.0, 4.0])
    assert found["median"] == pytest.approx(1.1)
    assert found["quartiles"] == [pytest.approx(1.0), pytest.approx(1.5)]
