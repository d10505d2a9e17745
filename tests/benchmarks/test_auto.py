"""The benchmark of the mode `auto`, on a run of seconds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import auto
from benchmarks.auto import RULES, Shown
from export.threshold import least_passes
from tests.runs import tiny_run
from training.checkpoint import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("auto"))


def test_numbers_of_a_run_are_those_of_its_modes(trained: Run):
    found = auto.measure(trained)
    test, curve = found["test"], found["curve"]
    assert found["first_pass"] == "distilled"
    assert found["images"] == {"validation": 12, "test": 21}
    assert (curve[0]["forward_passes"], curve[-1]["forward_passes"]) == (1, 4)
    assert (test["first"], test["aggregated"]) == (curve[0]["top1"], curve[-1]["top1"])
    modes = json.loads((trained.folder / "result.json").read_text())["test"]
    assert test["first"] == pytest.approx(modes["distilled"]["top1"])
    assert test["aggregated"] == pytest.approx(modes["aggregated"]["top1"])
    assert found["draws"] == {}


def test_images_that_no_run_has_seen_are_drawn_from(trained: Run, monkeypatch: pytest.MonkeyPatch):
    data = dataclasses.replace(trained.config.data, train_images=30)
    thinned = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))
    splits = auto.images(thinned)
    assert len(splits["unseen"]) == 18
    monkeypatch.setattr(auto, "DRAWN", (6,))
    monkeypatch.setattr(auto, "DRAWS", 3)
    draws = auto.measure(thinned)["draws"]["6"]
    assert {rule: len(found) for rule, found in draws.items()} == dict.fromkeys(RULES, 3)
    for draw in draws["modelled"]:
        assert 1 <= draw["forward_passes"] <= 4
        assert -1 <= draw["lost"] <= 1


def test_rules_are_exports_and_a_count():
    generator = torch.Generator().manual_seed(0)
    first, aggregated = (torch.rand(200, 3, generator=generator).softmax(1) for _ in range(2))
    shown = Shown(first, aggregated, aggregated.argmax(1), 3)
    expected = least_passes(first, aggregated, shown.labels, rest_passes=3)
    assert RULES["modelled"](shown) == expected
    counted = RULES["counted"](shown)
    assert counted.top1 >= 0.998
    assert counted.forward_passes <= 4


def test_results_are_gathered_by_row_and_seed(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def run(name: str, row: str, seed: int, place: auto.Place) -> Run:
        asked.append((row, seed))
        return trained

    monkeypatch.setattr(auto, "run", run)
    place = auto.Place(tmp_path, tmp_path)
    for row, seed in (("fold", 1), ("sla", 0), ("sla", 1), ("sla", 0)):
        assert auto.obtain("digits", row, seed, place)
    assert asked == [("fold", 1), ("sla", 0), ("sla", 1)]
    content = json.loads((tmp_path / "auto-digits.json").read_text())
    assert [(e["row"], e["seed"]) for e in content["runs"]] == [("sla", 0), ("sla", 1), ("fold", 1)]
    assert [(line["row"], line["lost"]["n"]) for line in content["table"]] == [
        ("sla", 2),
        ("fold", 1),
    ]
    assert content["draws"] == []
    experiment = auto.EXPERIMENTS["digits"]
    rows = experiment.rows | {"sla": dataclasses.replace(experiment.rows["sla"], epochs=3)}
    changed = dataclasses.replace(experiment, rows=rows)
    monkeypatch.setitem(auto.EXPERIMENTS, "digits", changed)
    assert {e["row"] for e in auto.read("digits", tmp_path / "auto-digits.json")} == {"fold"}


def test_draws_are_summed_up_over_seeds():
    lost = np.arange(10) / 1000  # 0 to 0.9 points
    entry = {"draws": {"143": {"counted": [{"lost": x, "forward_passes": 2.0} for x in lost]}}}
    found = auto.drawn("sla", "143", "counted", [entry, entry])
    assert (found["draws"], found["forward_passes"]) == (20, 2)
    assert found["lost"] == pytest.approx(0.0045)
    assert found["over"] == pytest.approx(0.7)
