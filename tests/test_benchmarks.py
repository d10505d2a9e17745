"""The arithmetic between runs and tables."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import ModelProto

from benchmarks import (
    accuracy,
    augself,
    gpu,
    jpeg,
    load,
    memory,
    precision,
    requests,
    servers,
    serving,
    tables,
    training_speed,
)
from benchmarks.accuracy import Place
from benchmarks.experiments import EXPERIMENTS, Comparison, Experiment
from serving import bundle, images
from tests.bundles import write_auto, write_bundle
from tests.pictures import encoded
from tests.training.runs import interrupt_after, settings
from training.checks import check_settings
from training.objectives import objective
from training.pretrain_checks import check_settings as check_pretraining
from training.pretrain_config import PretrainConfig


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


def test_tiny_programme_trains_what_the_programme_trains():
    for name, _ in gpu.PROGRAMME:
        small = gpu.shrunk(EXPERIMENTS[name])
        for row, config in EXPERIMENTS[name].rows.items():
            assert small.rows[row].objective == config.objective
            assert small.rows[row].augment == config.augment
            assert small.rows[row].epochs <= 2


def test_training_speed_compares_the_same_arithmetic():
    images = torch.randint(0, 256, (2, 32, 32, 3)).to(torch.uint8)
    assert (
        training_speed.loss_difference(training_speed.CONFIG, images, torch.tensor([3, 7])) < 1e-4
    )


@pytest.mark.slow
def test_training_speed_measures_every_loop():
    content = training_speed.measure(torch.device("cpu"), 1, 2)
    assert content["ratio"].keys() == {"resident"}
    assert content["loops"]["ours"]["median_s"] > 0


def test_text_outside_tables_is_left_alone():
    assert tables.filled("# Title\n\nno table here\n") == "# Title\n\nno table here\n"


def test_unknown_table_is_an_error():
    with pytest.raises(FileNotFoundError):
        tables.filled("<!-- table: nothing -->\n<!-- end of table -->")


# encoders


def test_every_encoder_can_be_pretrained_and_differs_from_its_plain_row_in_augself_alone():
    for experiment in augself.EXPERIMENTS.values():
        for config in experiment.rows.values():
            check_pretraining(config)
        for aware, plain in augself.PAIRS:
            without = dataclasses.replace(experiment.rows[aware], augself="")
            assert without == experiment.rows[plain]


def encoder_entry(row: str, seed: int, flowers: float, seconds: float = 10.0) -> dict[str, object]:
    probes = {
        name: {"test": {"plain": {"top1": top1}}}
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


WRK = """Running 4s test @ http://127.0.0.1:3100/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    15.17ms    3.12ms  54.08ms   92.31%
    Req/Sec     1.06k    93.14     1.17k    85.00%
  Latency Distribution
     50%   950.00us
     99%   25.00ms
  4240 requests in 4.00s, 2.01MB read
  Socket errors: connect 0, read 6, write 0, timeout 4
  Non-2xx or 3xx responses: 415
Requests/sec:   1060.00
Transfer/sec:    512.00KB
"""


def test_load_is_read_from_what_wrk_prints():
    found = load.read(WRK)
    assert (found.requests_per_s, found.p50_ms) == (1060, pytest.approx(0.95))
    assert found.failed == pytest.approx((415 + 10) / (4240 + 10))
    quiet = "\n".join(line for line in WRK.splitlines() if "rr" not in line and "Non" not in line)
    assert load.read(quiet.replace("950.00us", "1.20s")) == load.Load(1060, 1200, 0)


def test_a_line_has_medians_and_extremes_of_its_turns():
    row = serving.Row("raw body", servers.OURS, "raw")
    turns = [
        {"requests_per_s": r, "images_per_s": r, "alone_per_s": 100.0, "p50_ms": 1.0, "failed": 0.0}
        | {"ratio": r / 100}
        for r in (80.0, 60.0, 90.0)
    ]
    line = serving.line(row, turns)
    assert (line["ratio"], line["ratio_min"], line["ratio_max"]) == (0.8, 0.6, 0.9)
    assert line["requests_per_s"] == 80


def test_every_request_of_the_serving_benchmark_can_be_built(tmp_path: Path):
    about = bundle.read(write_bundle(tmp_path)).manifest
    assert {row.request for row in serving.ROWS} <= set(requests.BUILD)
    for build in requests.BUILD.values():
        assert build(about).body


# precision


def test_ratio_of_precision_is_of_the_same_turn():
    found = precision.row([1.0, 2.0, 4.0], [2.0, 6.0, 4.0], ModelProto())
    assert (found["n"], found["images_per_second"]) == (3, precision.BATCH / 2)
    assert found["ratio"]["median"] == 2.0


@pytest.mark.slow
def test_precision_is_measured_of_every_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = dataclasses.replace(precision.CONFIG, backbone="resnet8")
    monkeypatch.setattr(precision, "CONFIG", small)
    rows = precision.measure(turns=2)["rows"]
    assert list(rows) == ["fp32", "fp16", "int8"]
    assert rows["int8"]["bytes"] < rows["fp16"]["bytes"] < rows["fp32"]["bytes"]


def test_memory_is_measured_of_every_mode_and_of_all(tmp_path: Path):
    found = memory.measured(write_auto(tmp_path / "bundle"))
    assert [row["modes"] for row in found["rows"]][-2:] == [
        ["auto"],
        ["distilled", "aggregated", "auto"],
    ]
    for row in found["rows"]:
        assert 0 < row["loaded_mb"] <= row["most_mb"]


def test_each_image_counts_by_the_mean_of_its_seeds():
    def run(name: str, seed: int, before: str, after: str, agree: str) -> dict[str, Any]:
        difference = {"2": {"mean_abs": 1.0 + seed}}
        right = {"whole": before, "2": after}
        about = {"set": name, "seed": seed, "right": right, "agree": {"2": agree}}
        return {**about, "pixel_difference": difference}

    runs = [
        run("a", 0, "11", "01", "01"),
        run("a", 1, "11", "11", "11"),
        run("b", 0, "0", "1", "0"),
    ]
    found = jpeg.together(runs, "2")
    # of the images of a, one agrees in half of the seeds, one in both; the one of b does not
    assert found["agreement"] == {
        "mean": pytest.approx(0.5),
        "half_width_95": pytest.approx(1.959964 * 0.5 / 3**0.5, abs=1e-6),
        "n": 3,
    }
    assert found["top1_gain"]["mean"] == pytest.approx((-0.5 + 0 + 1) / 3)
    assert found["pixel_difference"] == pytest.approx(4 / 3)


def test_jpegs_are_reduced_as_far_as_the_benchmark_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jpeg, "PHOTO", (300, 200))
    pixels = jpeg.photo()
    assert pixels.shape == (200, 300, 3)
    data = encoded(images.from_array(pixels), "JPEG")
    sizes = []
    for at_least in (1, 2, 4, 8):
        with jpeg.margin(at_least):
            sizes.append(images.load(images.header(data), images.ImageSpec(25, 25)).width)
    assert sizes == [38, 75, 150, 300]
    assert jpeg.whole(data, images.ImageSpec(25, 25)).shape == (25, 25, 3)
