"""The programmes for a GPU, at a size for a CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import augself, gpu, tables
from benchmarks.accuracy import Place


def folder_of(place: Path, classes: int, each: int) -> None:
    """Noise, brighter from class to class."""
    generator = np.random.default_rng(0)
    for name in range(classes):
        folder = place / f"class{name}"
        folder.mkdir(parents=True)
        for k in range(each):
            pixels = generator.integers(0, 80, (20, 20, 3)) + 40 * name
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")


@pytest.mark.slow
def test_every_step_of_the_encoders_programme_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder_of(tmp_path / augself.PRETRAINED_ON, 4, 60)
    for name in augself.DOWNSTREAM:
        folder_of(tmp_path / name, 3, 24)
    monkeypatch.setitem(augself.EXPERIMENTS, "augself", augself.EXPERIMENTS["augself"])
    place = Place(tmp_path / "results", tmp_path / "runs", str(tmp_path))
    gpu.encoders(place, True)
    found = json.loads((place.results / "augself.json").read_text())
    assert {entry["row"] for entry in found["runs"]} == set(augself.EXPERIMENTS["augself"].rows)
    assert {"kNN flowers17", "kNN dtd10"} < found["table"][0]["numbers"].keys()
    assert "| simsiam + augself − simsiam |" in tables.TABLES["augself"](found)
    assert (place.results / gpu.AUGSELF_SPEED).is_file()
    assert json.loads((place.results / gpu.VIEWS_SPEED).read_text())["cpu"]["turns"] == 2
    before = {path: path.stat().st_mtime_ns for path in place.runs.rglob("*")}
    gpu.encoders(place, True)
    assert {path: path.stat().st_mtime_ns for path in place.runs.rglob("*")} == before
    assert json.loads((place.results / "augself.json").read_text()) == found


def test_what_means_nothing_is_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Place] = []
    monkeypatch.setitem(gpu.PROGRAMMES, "sla", lambda place, tiny: asked.append(place))
    arguments = ["gpu", "sla", "--results", str(tmp_path / "a"), "--runs", str(tmp_path / "b")]
    for more in ([], ["--tiny"]):
        monkeypatch.setattr("sys.argv", [*arguments, *more])
        gpu.main()
    assert [(place.results.name, place.runs.name) for place in asked] == [
        ("a", "b"),
        ("tiny", "tiny"),
    ]
