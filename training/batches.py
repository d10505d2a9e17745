"""Batches of uint8 pixels on the device: from memory where the images fit there, else decoded by workers.

The order of an epoch depends on the seed and the epoch alone, and batches can be asked for from any
step on: that is what makes an interrupted run continue as if nothing had happened.
"""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from serving.images import ImageError, ImageSpec, Pixels
from serving.limits import available_cpus
from training.config import DataConfig
from training.errors import DataError
from training.progress import Progress
from training.splits import Split, without

Batch = tuple[Tensor, Tensor]  # images (B, H, W, 3) uint8, labels (B,) int64, both on the device


class Batches(Protocol):
    """The images of a split, by batches of places in it."""

    labels: Tensor

    def __len__(self) -> int: ...

    def iterate(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """The batches at those places, in that order."""


class ResidentBatches:
    """All images of a split as one uint8 tensor on the device."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images  # (n, H, W, 3) uint8
        self.labels = labels  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def iterate(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """The batches at those places, gathered on the device."""
        for places in batches:
            chosen = places.to(self.labels.device, non_blocking=True)
            yield self.images[chosen], self.labels[chosen]


class StreamedBatches:
    """Images decoded by worker processes as they are needed."""

    def __init__(self, split: Split, spec: ImageSpec, device: torch.device, workers: int) -> None:
        self.dataset = _SplitDataset(split, spec)
        self.labels = torch.from_numpy(split.labels)
        self.device = device
        self.workers = workers

    def __len__(self) -> int:
        return len(self.labels)

    def iterate(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """The batches at those places, decoded ahead by the workers.

        Raises:
            DataError: an image can no longer be read.
        """
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            self.dataset,
            batch_sampler=[places.tolist() for places in batches],
            num_workers=self.workers,
            worker_init_fn=_obey_the_loop,
            pin_memory=self.device.type == "cuda",
        )
        try:
            for images, labels in loader:
                yield (
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                )
        except (
            DataError
        ) as error:  # a worker's comes wrapped in its traceback; the last line is the message
            raise DataError(str(error).splitlines()[-1].rpartition("DataError: ")[2]) from None


def _obey_the_loop(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal: a worker must outlive it until the loop has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _SplitDataset(TorchDataset[tuple[Tensor, int]]):
    def __init__(self, split: Split, spec: ImageSpec) -> None:
        self.split = split
        self.spec = spec

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        try:
            pixels = self.split.pixels(place, self.spec)
        except (ImageError, OSError) as error:
            raise DataError(f"{self.split.name(place)} can no longer be read: {error}") from None
        return torch.from_numpy(pixels.copy()), int(self.split.labels[place])


def prepare(
    split: Split,
    name: str,
    spec: ImageSpec,
    config: DataConfig,
    device: torch.device,
    progress: Progress,
) -> tuple[Split, Batches]:
    """Read every image of a split once; keep them on the device where they fit.

    Returns the split, less the unreadable images if --skip-unreadable is set, and its batches.

    Raises:
        DataError: images that cannot be read (all are named, up to ten), or none that can.
    """
    workers = config.workers if config.workers is not None else available_cpus()
    fits = len(split) * spec.height * spec.width * 3 <= config.resident_gib * 2**30
    store = np.empty((len(split), spec.height, spec.width, 3), dtype=np.uint8) if fits else None
    unreadable = _read_all(split, name, spec, store, max(1, workers), progress)
    if unreadable:
        split = _skip_or_refuse(split, name, unreadable, config.skip_unreadable, progress)
    if store is None:
        return split, StreamedBatches(split, spec, device, workers)
    kept = np.delete(store, list(unreadable), axis=0) if unreadable else store
    return split, ResidentBatches(
        torch.from_numpy(kept).to(device), torch.from_numpy(split.labels).to(device)
    )


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Tensor]:
    """The places of one epoch in random order, in batches; what does not fill a batch is left to other epochs.

    A split smaller than a batch is one batch.
    """
    generator = torch.Generator().manual_seed(step_seed(seed, epoch, "order"))
    order = torch.randperm(count, generator=generator)
    whole = [batch for batch in order.split(batch_size) if len(batch) == batch_size]
    return whole or [order]


def in_order(count: int, batch_size: int) -> list[Tensor]:
    """All places from first to last, in batches; the last may be smaller."""
    return list(torch.arange(count).split(batch_size))


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A seed for one purpose at one step: the same for a run and for its continuation, unrelated for others."""
    words = np.random.SeedSequence(
        [seed, step, int.from_bytes(purpose.encode(), "big")]
    ).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _read_all(
    split: Split, name: str, spec: ImageSpec, store: Pixels | None, workers: int, progress: Progress
) -> dict[int, str]:
    def read(place: int) -> str | None:
        try:
            pixels = split.pixels(place, spec)
        except (ImageError, OSError) as error:
            return str(error)
        if store is not None:
            store[place] = pixels
        return None

    with ThreadPoolExecutor(
        workers
    ) as pool:  # Pillow decodes and resizes without the interpreter's lock
        results = progress.track(
            pool.map(read, range(len(split)), chunksize=64), f"read {name} images", len(split)
        )
        return {place: reason for place, reason in enumerate(results) if reason is not None}


def _skip_or_refuse(
    split: Split, name: str, unreadable: dict[int, str], skip: bool, progress: Progress
) -> Split:
    named = "\n".join(
        f"  {split.name(place)}: {reason}" for place, reason in list(unreadable.items())[:10]
    )
    more = f"\n  and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
    count = f"{len(unreadable)} of {len(split)} {name} images cannot be read"
    if not skip:
        raise DataError(f"{count}; mend or remove them, or give --skip-unreadable:\n{named}{more}")
    if len(unreadable) == len(split):
        raise DataError(f"none of the {len(split)} {name} images can be read:\n{named}{more}")
    progress.say(f"{count} and are left out:\n{named}{more}")
    return without(split, list(unreadable))
