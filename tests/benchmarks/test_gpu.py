"""The programmes for a GPU, at a size for a CPU."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import augself, gpu, tables
from benchmarks.accuracy import Place
from benchmarks.experiments import EXPERIMENTS
from tests.training.data_sets import striped, write_npz
from training import awareness, classify

ROOT = Path(__file__).resolve().parent.parent.parent


def folder_of(place: Path, classes: int, each: int) -> None:
    """Noise, brighter from class to class."""
    generator = np.random.default_rng(0)
    for name in range(classes):
        folder = place / f"class{name}"
        folder.mkdir(parents=True)
        for k in range(each):
            pixels = generator.integers(0, 80, (20, 20, 3)) + 40 * name
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")


def steps_of(names: str) -> list[gpu.Step]:
    """Steps "a0 b": of the names a and b, with the seed 0 and without one."""
    return [
        gpu.Step(name[0], "", lambda: False, lambda: True, int(name[1:]) if name[1:] else None)
        for name in names.split()
    ]


def test_steps_are_chosen_by_name_and_seed_in_the_order_of_the_programme():
    steps = steps_of("s a0 b0 a1 b1")
    assert gpu.chosen(steps, None, None) == steps
    assert gpu.chosen(steps, ["b", "a"], [1]) == [steps[3], steps[4]]
    assert gpu.chosen(steps, None, [0]) == steps[:3]
    assert gpu.chosen(steps, ["s"], [0]) == steps[:1]


def test_step_or_seed_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(SystemExit, match=r"no step 'c'; choose from \['s', 'a'\]"):
        gpu.chosen(steps_of("s a0 a1"), ["a", "c"], None)
    with pytest.raises(SystemExit, match=r"no seed 7; choose from \[0, 1\]"):
        gpu.chosen(steps_of("s a0 a1"), None, [1, 7])


def test_every_teacher_has_its_result_before_its_student_and_the_dearest_row_is_last():
    for name, row in gpu.PROGRAMME:
        teacher = EXPERIMENTS[name].teachers.get(row)
        if teacher is not None:
            assert gpu.PROGRAMME.index((name, teacher)) < gpu.PROGRAMME.index((name, row))
    epochs = [EXPERIMENTS[name].rows[row].epochs for name, row in gpu.PROGRAMME]
    assert epochs.index(max(epochs)) == len(epochs) - 1


def test_list_says_what_is_done(capsys: pytest.CaptureFixture[str]):
    gpu.show([gpu.Step("a", "x", lambda: True, lambda: True), *steps_of("b1")])
    assert capsys.readouterr().out.splitlines() == ["done  a (x)", "-     b, seed 1 ()"]


def test_time_that_is_over_ends_the_programme_and_what_has_ended_is_not_ended_again():
    with pytest.raises(SystemExit), gpu.limited(0.01):
        signal.pause()
    before = signal.getsignal(signal.SIGTERM)
    with gpu.limited(60):
        assert signal.getsignal(signal.SIGTERM) is gpu.over
    assert signal.getsignal(signal.SIGTERM) is before


def test_seconds_of_both_stages_are_summed_by_seed():
    def entry(row: str, seed: int, seconds: float, compiled: str) -> dict[str, Any]:
        about = {"versions": {"torch": "2", "python": "3"}, "hardware": "a GPU"}
        return {"row": row, "seed": seed, "seconds": seconds, "compile": compiled, **about}

    spread = {"mean": 0.5, "sd": None}
    line = {"row": "sla", "mode": "single", "forward_passes": 1, "images": 10, "seeds": 2}
    first = {"objective": "sla"}
    results = {
        "command": "c",
        "configs": {"sla": first, "fold": {"teacher": first}, "self": {"teacher": "ema"}},
        "table": [line | dict.fromkeys(("top1", "nll", "ece", "seconds"), spread)],
        "comparisons": [],
        # of seed 2 there is one stage alone
        "runs": [entry("sla", seed, 60.0 + 2 * seed, "on") for seed in (0, 1)]
        + [entry("fold", seed, 40.0, "off") for seed in (0, 1, 2)],
    }
    # 100 and 102: mean 101, sd 1.41
    wanted = "| sla, then fold | 101 ± 1 | on, off | 2 |"
    assert wanted in tables.TABLES["cifar10-strong"](results).splitlines()
    results["runs"] = results["runs"][2:]
    assert "both stages" not in tables.TABLES["cifar10-strong"](results)


def test_table_of_what_no_gpu_has_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    for name in ("cifar10", "cifar10-strong", "training_speed-gpu"):
        assert tables.table(name).startswith("Not run yet: `python -m benchmarks.gpu sla")


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C in that training step, counted from 1 over all runs."""
    original, calls = classify.train_step, []

    def step(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(classify, "train_step", step)


def hide_kornia(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From the processes that are started from now on."""
    folder.mkdir()
    (folder / "kornia.py").write_text("raise ImportError('no kornia here')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


@pytest.mark.slow
def test_programme_of_sla_is_gone_on_with_by_another_process_that_has_no_kornia(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    images, labels = striped(120)
    data = f"npz:{write_npz(tmp_path / 'set.npz', train_images=images, train_labels=labels)}"
    for name in {name for name, _ in gpu.PROGRAMME}:
        monkeypatch.setitem(EXPERIMENTS, name, EXPERIMENTS[name])
    place = Place(tmp_path / "results" / gpu.TINY, tmp_path / "runs" / gpu.TINY, data)
    steps = gpu.sla(place, True)
    hide_kornia(monkeypatch, tmp_path / "hidden")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)  # the first of the second run, whose teacher is the first
        with pytest.raises(SystemExit) as left:
            gpu.do(steps)
    assert left.value.code == 0
    assert [step.done() for step in steps] == [True, True] + [False] * (len(steps) - 2)
    capsys.readouterr()
    command = [sys.executable, "-m", "benchmarks.gpu", "sla", "--tiny", "--data", data]
    where = ["--results", str(place.results.parent), "--runs", str(place.runs.parent)]
    said = subprocess.run([*command, *where], check=True, capture_output=True, text=True, cwd=ROOT)
    begun = [line for line in said.stdout.splitlines() if line.startswith("== ")]
    assert begun == [f"== {step}" for step in steps[2:]]
    assert said.stdout.count("going on from step 1\n") == 1
    assert all(step.done() for step in steps)
    check_tables(place)


def check_tables(place: Place) -> None:
    """Every row of the programme has a result, and every file a table."""
    found = {
        name: json.loads((place.results / f"{name}.json").read_text())
        for name in ("training_speed-gpu", "cifar10", "cifar10-strong")
    }
    for name, row in gpu.PROGRAMME:
        assert [e["seed"] for e in found[name]["runs"] if e["row"] == row] == [0]
        assert f"| {row} | `" in tables.TABLES[name](found[name])
    (strong,) = found["cifar10-strong"]["comparisons"]
    assert strong["top1"]["n"] == 1
    assert "| sla, then fold |" in tables.TABLES["cifar10-strong"](found["cifar10-strong"])
    assert "| viewfold |" in tables.TABLES["training_speed-gpu"](found["training_speed-gpu"])


@pytest.mark.slow
def test_every_step_of_the_encoders_programme_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder_of(tmp_path / augself.PRETRAINED_ON, 4, 60)
    for name in augself.DOWNSTREAM:
        folder_of(tmp_path / name, 3, 24)
    monkeypatch.setitem(augself.EXPERIMENTS, "augself", augself.EXPERIMENTS["augself"])
    for name in ("TRAIN_PAIRS", "CHOOSE_PAIRS", "HELD_PAIRS"):
        monkeypatch.setattr(awareness, name, 256)
    monkeypatch.setattr(awareness, "EPOCHS", 2)
    place = Place(tmp_path / "results", tmp_path / "runs", str(tmp_path))
    steps = gpu.encoders(place, True)
    gpu.do(steps)
    found = json.loads((place.results / "augself.json").read_text())
    assert {entry["row"] for entry in found["runs"]} == set(augself.EXPERIMENTS["augself"].rows)
    assert {"kNN flowers17", "kNN dtd10"} < found["table"][0]["numbers"].keys()
    assert "| simsiam + augself − simsiam |" in tables.TABLES["augself"](found)
    assert (place.results / gpu.AUGSELF_SPEED).is_file()
    assert json.loads((place.results / gpu.VIEWS_SPEED).read_text())["cpu"]["turns"] == 2
    before = {path: path.stat().st_mtime_ns for path in place.runs.rglob("*")}
    assert all(step.done() for step in steps)
    gpu.do(steps)
    assert {path: path.stat().st_mtime_ns for path in place.runs.rglob("*")} == before
    assert json.loads((place.results / "augself.json").read_text()) == found


def test_what_means_nothing_is_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Place] = []

    def noted(place: Place, small: bool) -> list[gpu.Step]:
        asked.append(place)
        return []

    monkeypatch.setitem(gpu.PROGRAMMES, "sla", noted)
    arguments = ["gpu", "sla", "--results", str(tmp_path / "a"), "--runs", str(tmp_path / "b")]
    for more in ([], ["--tiny"]):
        monkeypatch.setattr("sys.argv", [*arguments, *more])
        gpu.main()
    assert [(place.results.name, place.runs.name) for place in asked] == [
        ("a", "b"),
        ("tiny", "tiny"),
    ]
