"""Runs of seconds, and what two of them are compared by, for tests."""

import csv
import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serving.limits import available_cpus
from tests.training.data_sets import write_npz
from training import classify
from training.config import DataConfig, OptimConfig, TrainConfig

of_two_processes = pytest.mark.skipif(
    available_cpus() < 2, reason="--devices 2 is refused where there is one processor"
)
STEPS = 9  # an epoch: 36 of the 40 training images, 4 a step


def settings(folder: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: 2 epochs of 9 steps on pictures of 8 x 8."""
    path = folder / "set.npz"
    if not path.exists():
        write_npz(path)
    config = TrainConfig(
        data=DataConfig(data=f"npz:{path}", workers=1),
        optim=OptimConfig(lr=0.05),
        backbone="resnet8",
        epochs=2,
        batch_size=4,
        device="cpu",
        precision="fp32",
        out=folder / "run",
    )
    return dataclasses.replace(config, **changes)


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv less what depends on the clock."""
    with (folder / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in found]


def assert_same_run(one: Path, two: Path) -> None:
    """The same weights and optimiser bit by bit, the same metrics."""
    for name in ("best/weights", "last/weights", "last/optimizer"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (one, two))
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert rows(one) == rows(two)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the step that follows that many."""
    original = classify.train_step

    def step(learner: Any, images: Any, labels: Any, number: int, total: int) -> Any:
        if number == steps:
            signal.raise_signal(signal.SIGINT)
        return original(learner, images, labels, number, total)

    monkeypatch.setattr(classify, "train_step", step)
