"""Pretraining runs of seconds, for tests."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training.data_sets import write_npz
from training import pretrain as module
from training.config import DataConfig, OptimConfig
from training.pretrain_config import MethodConfig, PretrainConfig

STEPS = 4  # an epoch: 32 of the 36 training images, 8 a step
NARROW: dict[str, MethodConfig] = {
    "simsiam": MethodConfig(hidden=16, projection=16),
    "simclr": MethodConfig(hidden=16, projection=16),
    "moco": MethodConfig(hidden=16, projection=16, queue=16),
    "byol": MethodConfig(hidden=16, projection=16),
    "swav": MethodConfig(hidden=16, projection=16, prototypes=4, freeze_steps=3),
    "supervised": MethodConfig(),
}


def pretraining(folder: Path, method: str = "simsiam", **changes: Any) -> PretrainConfig:
    """Two epochs of 4 steps on pictures of 8 x 8, crop and colour predicted."""
    path = folder / "set.npz"
    if not path.exists():
        write_npz(path)
    config = PretrainConfig(
        data=DataConfig(data=f"npz:{path}", workers=1),
        optim=OptimConfig(lr=0.05, nesterov=False, warmup=0.0),
        settings=NARROW.get(method, MethodConfig()),
        method=method,
        augself="crop=1,color=0.5",
        backbone="resnet8",
        epochs=2,
        batch_size=8,
        device="cpu",
        precision="fp32",
        out=folder / "run",
    )
    return dataclasses.replace(config, **changes)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the step that follows that many."""
    original = module.pretrain_step

    def step(learner: Any, images: Any, labels: Any, number: int, total: int) -> Any:
        if number == steps:
            signal.raise_signal(signal.SIGINT)
        return original(learner, images, labels, number, total)

    monkeypatch.setattr(module, "pretrain_step", step)
