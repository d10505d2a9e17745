"""Pretraining runs of seconds, for tests."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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


def photos(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """photos/2020 and photos/2021, with so many noisy pictures of 30 x 20 between them."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        place = folder / "photos" / str(2020 + number % 2)
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder / "photos"


def of_photos(folder: Path, **changes: Any) -> PretrainConfig:
    """An epoch of pictures of 16 x 16 from a folder, a quarter of them held out."""
    data = DataConfig(data=f"folder:{folder}", image_size=16, workers=1, val_fraction=0.25)
    return pretraining(folder.parent, data=data, batch_size=4, epochs=1, **changes)
