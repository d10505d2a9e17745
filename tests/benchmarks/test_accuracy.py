"""What is trained for the tables of accuracy, and how runs are gathered."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    accuracy,
    gpu,
)
from benchmarks.accuracy import Place
from benchmarks.experiments import EXPERIMENTS, Comparison, Experiment
from tests.training.runs import interrupt_after, settings
from training.checks import check_settings
from training.config import TrainConfig
from training.objectives import objective


def entry(row: str, seed: int, top1: float) -> dict[str, object]:
    values = {"top1": top1, "nll": 0.5, "ece": 0.1, "n": 359, "forward_passes": 1}
    return {"row": row, "seed": seed, "seconds": 10.0 * (seed + 1), "test": {"plain": values}}


def test_table_has_mean_and_sample_deviation_of_every_row():
    lines = accuracy.table([entry("a", 0, 0.9), entry("b", 0, 0.5), entry("a", 1, 1.0)], "test")
    assert [(line["row"], line["mode"], line["seeds"]) for line in lines] == [
        ("a", "plain", 2),
        ("b", "plain", 1),
    ]
    assert lines[0]["top1"] == {
        "mean": pytest.approx(0.95),
        "sd": pytest.approx(0.0707107, abs=1e-6),
    }
    assert lines[0]["seconds"]["mean"] == 15.0
    assert lines[1]["top1"]["sd"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--seeds", "9"], r"no seed 9; choose from \[0, 1, 2, 3, 4\]"),
        (["--rows", "basline"], r"no row 'basline'; choose from \['baseline', "),
    ],
)
def test_unknown_seeds_and_rows_are_refused_before_anything_is_trained(
    given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(accuracy, "obtain", lambda *_: pytest.fail("something is trained"))
    monkeypatch.setattr("sys.argv", ["accuracy", "digits", *given, "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match=said):
        accuracy.main()


def test_every_row_sees_the_same_split_and_five_seeds():
    for name, experiment in EXPERIMENTS.items():
        assert len(set(experiment.seeds)) >= (3 if name == "folding" else 5)
        assert len({config.data for config in experiment.rows.values()}) == 1


def test_every_row_can_be_trained_and_every_comparison_names_modes_that_are_answered():
    for experiment in EXPERIMENTS.values():
        for row, config in experiment.rows.items():
            teacher = experiment.teachers.get(row)
            check_settings(dataclasses.replace(config, teacher=teacher))
            assert teacher is None or teacher in experiment.rows
        for line in experiment.comparisons:
            for row, mode in ((line.row, line.mode), (line.against_row, line.against_mode)):
                assert mode in objective(experiment.rows[row].objective).modes


@pytest.mark.parametrize("name", ["digits", "cifar10-small", "cifar10"])
def test_baseline_beside_the_fold_has_its_mixing_and_passes(name: str):
    rows, teachers = EXPERIMENTS[name].rows, EXPERIMENTS[name].teachers
    fold, teacher, baseline = (
        rows[row] for row in ("fold", teachers["fold"], "baseline, cutmix, passes of fold")
    )
    assert fold.teacher_copies == 1
    assert baseline.epochs == 4 * teacher.epochs + 2 * fold.epochs
    assert baseline.augment == fold.augment


def test_programme_for_a_gpu_names_rows_that_there_are():
    for name, row in gpu.PROGRAMME:
        assert row in EXPERIMENTS[name].rows


def test_comparison_is_paired_by_seed():
    runs = [entry("a", 0, 0.9), entry("a", 1, 0.8), entry("a", 2, 0.9)]
    runs += [entry("b", 0, 0.7), entry("b", 1, 0.7)]
    (found,) = accuracy.compare((Comparison("a", "plain", "b", "plain"),), runs)
    # differences 0.2 and 0.1: mean 0.15, sd 0.0707, t = 12.706 with one degree of freedom
    assert found["top1"] == {
        "mean": pytest.approx(0.15),
        "half_width_95": pytest.approx(12.7062 * 0.0707107 / 2**0.5, abs=1e-5),
        "n": 2,
    }


def test_interval_of_one_value_is_unknown():
    assert accuracy.interval([0.5]) == {"mean": 0.5, "half_width_95": None, "n": 1}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """An experiment of seconds, in which a row learns from another."""
    base = settings(tmp_path, objective="sla", epochs=1)
    rows = {"sla": base, "fold": dataclasses.replace(base, objective="distill")}
    comparisons = (Comparison("fold", "distilled", "sla", "aggregated"),)
    toy = Experiment(rows, {"fold": "sla"}, comparisons, (0, 1))
    monkeypatch.setitem(EXPERIMENTS, "toy", toy)
    return Place(tmp_path / "results", tmp_path / "runs")


def test_row_brings_its_teacher_and_is_not_trained_twice(
    toy: Place, monkeypatch: pytest.MonkeyPatch
):
    assert accuracy.obtain("toy", "fold", 0, toy)
    assert [(e["row"], e["seed"]) for e in accuracy.read("toy", toy)["runs"]] == [("fold", 0)]
    assert accuracy.obtain("toy", "sla", 0, toy)
    content = accuracy.read("toy", toy)
    assert [e["row"] for e in content["runs"]] == ["sla", "fold"]  # in the order of the rows
    assert content["comparisons"][0]["top1"]["n"] == 1
    monkeypatch.setattr(accuracy, "run", None)
    assert accuracy.obtain("toy", "fold", 0, toy)


def test_results_are_enough_to_go_on_elsewhere_and_a_changed_row_is_trained_again(
    toy: Place, monkeypatch: pytest.MonkeyPatch
):
    accuracy.obtain("toy", "sla", 0, toy)
    elsewhere = dataclasses.replace(toy, runs=toy.runs / "elsewhere")
    assert accuracy.found("toy", "sla", 0, "toy", elsewhere)
    assert not accuracy.found("toy", "sla", 1, "toy", elsewhere)
    changed = dataclasses.replace(EXPERIMENTS["toy"].rows["sla"], batch_size=8)
    rows = EXPERIMENTS["toy"].rows | {"sla": changed}
    monkeypatch.setitem(EXPERIMENTS, "toy", dataclasses.replace(EXPERIMENTS["toy"], rows=rows))
    assert not accuracy.found("toy", "sla", 0, "toy", elsewhere)
    assert not accuracy.found("toy", "fold", 0, "toy", elsewhere)  # its teacher is another now


def test_results_are_whole_or_what_they_were_when_the_process_is_told_to_stop_as_it_writes(
    toy: Place, monkeypatch: pytest.MonkeyPatch
):
    values = {"top1": 0.5, "nll": 1.0, "ece": 0.1, "n": 10, "forward_passes": 1}
    of = {"row": "sla", "seconds": 1.0, "test": {"single": values}, "val": {"single": values}}
    accuracy.add("toy", of | {"seed": 0}, toy)
    before = accuracy.read("toy", toy)
    write = Path.write_text

    def stopped(path: Path, text: str, *rest: Any, **more: Any) -> None:
        write(path, text[: len(text) // 2], *rest, **more)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", stopped)
        with pytest.raises(SystemExit):
            accuracy.add("toy", of | {"seed": 1}, toy)
    assert accuracy.read("toy", toy) == before
    accuracy.add("toy", of | {"seed": 1}, toy)
    assert [e["seed"] for e in accuracy.read("toy", toy)["runs"]] == [0, 1]


def test_row_of_the_same_settings_is_taken_from_another_experiment(
    toy: Place, monkeypatch: pytest.MonkeyPatch
):
    accuracy.obtain("toy", "sla", 0, toy)
    other = Experiment({"teacher": EXPERIMENTS["toy"].rows["sla"]})
    monkeypatch.setitem(EXPERIMENTS, "other", other)
    monkeypatch.setattr(accuracy, "run", None)
    assert accuracy.obtain("other", "teacher", 0, toy)
    (entry,) = accuracy.read("other", toy)["runs"]
    assert entry["row"] == "teacher"


def test_interrupted_run_is_gone_on_with(toy: Place, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert not accuracy.obtain("toy", "fold", 0, toy)
    assert accuracy.obtain("toy", "fold", 0, toy)


def test_folder_that_was_left_before_it_was_a_run_does_not_stand_in_the_way(toy: Place):
    out = accuracy.folder("toy", "sla", 0, toy)
    out.mkdir(parents=True)
    (out / "problem.json").touch()
    assert accuracy.obtain("toy", "sla", 0, toy)


def test_interrupted_run_is_gone_on_with_where_the_images_are_now(
    toy: Place, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert not accuracy.obtain("toy", "sla", 0, toy)
    moved = (toy.runs.parent / "set.npz").rename(toy.runs.parent / "moved.npz")
    assert accuracy.obtain("toy", "sla", 0, dataclasses.replace(toy, data=f"npz:{moved}"))


def test_tiny_programme_trains_what_the_programme_trains():
    for name, _ in gpu.PROGRAMME:
        small = gpu.shrunk(EXPERIMENTS[name])
        for row, config in EXPERIMENTS[name].rows.items():
            assert small.rows[row].objective == config.objective
            assert small.rows[row].augment == config.augment
            assert small.rows[row].epochs <= 2


def test_row_that_wants_to_be_compiled_is_not_where_there_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    strong, place = EXPERIMENTS["cifar10-strong"].rows["sla"], Place(tmp_path, tmp_path)
    for there, expected in ((True, "on"), (False, "off")):
        monkeypatch.setattr(accuracy, "has_compiler", lambda there=there: there)
        assert accuracy.placed(strong, place).compile == expected
    assert accuracy.placed(TrainConfig(), place).compile == "auto"


def test_result_says_whether_it_was_compiled(toy: Place):
    accuracy.obtain("toy", "sla", 0, toy)
    (entry,) = accuracy.read("toy", toy)["runs"]
    assert entry["compile"] == "off"
