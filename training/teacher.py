"""The teacher of a distillation: another network's answer to the very images that the student sees.

It is a finished run, of which a copy stays in the run that learns from it (RUN/teacher), or the running
average of the student's own weights. It is never trained, and it answers in its best mode: all M copies
aggregated, where it has a joint head. Beyer et al. 2022: a good teacher is patient and consistent.
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from serving.images import ImageSpec
from training import checkpoint
from training.checkpoint import Run
from training.config import TrainConfig
from training.errors import ConfigError
from training.evaluate import MODES
from training.joint import logits_under
from training.network import Network
from training.objectives import Logits, objective
from training.transformations import transformation_set, transformed_copies
from training.unseen import check_complete

AVERAGE = "ema"  # --teacher ema: the average of the student's own weights


class Teacher(nn.Module):
    """A network that is only asked."""

    def __init__(self, network: Network, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.mode = "aggregated" if "aggregated" in modes else modes[0]

    @torch.no_grad()
    def forward(self, images: Tensor, copies: Tensor | None = None) -> Tensor:
        """Its logits. images: (B, H, W, 3) uint8. Returns (B, N) float32, also under autocast.

        copies: (B, K) int64 in [0, M), of a teacher that aggregates: which K copies of an image it is asked about,
        whose logits are averaged. None: it answers in its best mode.
        """
        if copies is None:
            return MODES[self.mode].logits(_wide(self.network(images)))
        every = transformed_copies(images, self.network.transformations)  # (B, M, H, W, 3)
        asked = every[torch.arange(len(images), device=images.device)[:, None], copies]
        features = self.network.features(asked.flatten(0, 1)).unflatten(0, copies.shape)
        return logits_under(self.network.joint_logits(features).float(), copies).mean(1)


def _wide(logits: Logits) -> Logits:
    """In float32 before anything is averaged: in bf16 a softmax of them misses 1 by a thousandth."""
    return Logits(*(None if answer is None else answer.float() for answer in logits))


def draw_copies(images: int, copies: int, passes: int, generator: torch.Generator) -> Tensor:
    """Which copies of every image a step asks the teacher about: any K of M are as likely. Returns (B, K) int64."""
    return torch.rand(images, passes, generator=generator).argsort(1)[:, :copies]


def open_teacher(config: TrainConfig) -> Run | None:
    """The run that a run with these settings learns from; None where it learns from itself or from no other.

    Raises:
        ConfigError: it is unfinished, or knows fewer copies than it is to be asked about.
        CheckpointError: there is no run in the folder.
    """
    if config.teacher is None or config.teacher == AVERAGE:
        return None
    folder = Path(config.teacher).expanduser()
    run = checkpoint.open_run(folder)
    named = f"--teacher {folder}"
    check_complete(run, named)
    if config.teacher_copies is not None:
        check_copies(config.teacher_copies, run.config, named)
    return run


def check_copies(copies: int, teacher: TrainConfig, named: str) -> None:
    """Refuse to ask a teacher about more copies than it knows. named: what the message calls it.

    Raises:
        ConfigError: it knows fewer, or only the image as it is.
    """
    known = 1
    if "aggregated" in objective(teacher.objective).modes:
        known = len(transformation_set(teacher.transformations))
    if copies > known or known == 1:
        raise ConfigError(
            f"--teacher-copies is {copies}; {named} knows {known}"
            if known > 1
            else f"--teacher-copies is for teachers with joint labels; {named} is of {teacher.objective}"
        )


def check_problem(teacher: Run, classes: tuple[str, ...], image: ImageSpec) -> None:
    """Refuse a teacher that cannot be asked about these images, or does not know these classes.

    Raises:
        ConfigError: its classes or its image size are others.
    """
    if teacher.problem.classes != classes:
        raise ConfigError(
            f"--teacher {teacher.folder} knows {len(teacher.problem.classes)} classes "
            f"{list(teacher.problem.classes[:5])}, the data has {len(classes)} {list(classes[:5])}"
        )
    theirs = teacher.problem.image
    if theirs != image:
        raise ConfigError(
            f"--teacher {teacher.folder} looks at images of {dataclasses.asdict(theirs)}, "
            f"this run at {dataclasses.asdict(image)}; give the same --image-size, --resize and --interpolation"
        )


def load_teacher(run: Run) -> Teacher:
    """The teacher whose copy a run keeps, on the CPU.

    Raises:
        CheckpointError: the copy is missing or altered.
    """
    kept = open_kept(run)
    return Teacher(checkpoint.load_network(kept), objective(kept.config.objective).modes)


def has_teacher(run: Run) -> bool:
    """Whether a run learns from another run, of which it keeps a copy."""
    return run.config.teacher not in (None, AVERAGE)


def open_kept(run: Run) -> Run:
    """The copy of its teacher that a run keeps.

    Raises:
        CheckpointError: the copy is missing or altered.
    """
    return checkpoint.open_run(run.folder / checkpoint.TEACHER)
