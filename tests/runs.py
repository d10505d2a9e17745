"""Small runs to export: trained for a moment on small pictures whose class is their colour."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.checkpoint import Run
from training.classify import train
from training.config import DataConfig, LossConfig, OptimConfig, TrainConfig

CLASSES = ("red", "green", "blue")


def colour_pictures(
    count: int, side: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise with one channel raised: (count, side, side, 3) uint8 and the channel (count,)."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pictures = generator.integers(0, 120, (count, side, side, 3))
    pictures[np.arange(count), :, :, labels] += 100
    return pictures.astype(np.uint8), labels


def write_npz(path: Path, *, side: int = 12, train_images: int = 48, val_images: int = 12) -> Path:
    """A data set of coloured pictures as an .npz file."""
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(CLASSES)}
    for seed, (split, count) in enumerate(
        {"train": train_images, "val": val_images, "test": 21}.items()
    ):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = colour_pictures(count, side, seed)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def tiny_run(
    folder: Path,
    *,
    objective: str = "sla-sd",
    transformations: str = "rotation",
    backbone: str = "resnet8",
    side: int = 12,
    epochs: int = 1,
    weights: Path | None = None,
    loss: LossConfig | None = None,
    val_images: int = 12,
) -> Run:
    """A complete run on coloured pictures; its data lies in `folder`, the run in `folder`/run."""
    data = write_npz(folder / "colours.npz", side=side, val_images=val_images)
    return train(
        TrainConfig(
            data=DataConfig(data=f"npz:{data}", workers=1),
            optim=OptimConfig(lr=0.05),
            loss=loss or LossConfig(),
            objective=objective,
            transformations=transformations,
            backbone=backbone,
            weights=weights,
            epochs=epochs,
            batch_size=16,
            precision="fp32",
            device="cpu",
            out=folder / "run",
        )
    )
