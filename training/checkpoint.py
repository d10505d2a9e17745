"""A run on disk: settings, weights, optimiser state. safetensors and JSON; no pickle is ever executed.

    RUN/config.json                the settings (config.py)
    RUN/problem.json               what the data decided: classes, image size, channel statistics, versions
    RUN/validation.safetensors     64 validation images, so that export can verify without the data
    RUN/teacher/                   a copy of the run that this one learns from, less its last checkpoint
    RUN/best/, RUN/last/           weights.safetensors and state.json; last/ also optimizer.safetensors
                                   and, where weights are averaged, average.safetensors
    RUN/result.json                the test metrics: there only when the run is complete
    RUN/resume.txt                 the command to go on with
    SHA256SUMS                     in the run over its first three files, in a checkpoint over all of it

A checkpoint is written beside its place and then renamed, so that it is there whole or not at all.
"""

import dataclasses
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypeVar

from serving.images import ImageSpec
from training.backbones import build_backbone
from training.checksums import SUMS, check_sums, write_sums
from training.config import TrainConfig
from training.config_json import from_dict, to_dict
from training.errors import CheckpointError
from training.json_files import read_json, write_json
from training.network import Network
from training.objectives import objective
from training.pretrain_config import PretrainConfig
from training.transformations import transformation_set

TEACHER = "teacher"
COMMANDS: dict[type, str] = {TrainConfig: "train", PretrainConfig: "pretrain"}
C = TypeVar("C", TrainConfig, PretrainConfig, default=TrainConfig)


@dataclass(frozen=True)
class Problem:
    """What the data decided of a run. mean, std: per channel, of uint8 pixels; with pretrained weights theirs."""

    classes: tuple[str, ...]
    image: ImageSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding_px: int
    flip: bool
    counts: tuple[int, ...]  # images to train on, to validate, to test
    versions: dict[str, str]
    pretrained_weights: dict[str, Any] | None = None  # source and licence; None: drawn at random
    class_counts: tuple[int, ...] = ()  # images to train on of every class; older runs say nothing


@dataclass(frozen=True)
class Run(Generic[C]):
    """A run folder with its settings read: a classifier's, unless it says that it is Run[PretrainConfig]."""

    folder: Path
    config: C
    problem: Problem

    @property
    def complete(self) -> bool:
        """Whether training has ended and the test split has been seen."""
        return (self.folder / "result.json").is_file()

    def result(self) -> dict[str, Any]:
        """The test metrics of a complete run.

        Raises:
            CheckpointError: there is none, or it is not JSON.
        """
        return read_json(self.folder / "result.json")


def create_run(
    folder: Path,
    config: C,
    problem: Problem,
    images: Tensor,
    labels: Tensor,
    teacher: Run | None = None,
    *,
    resumable: bool = True,
) -> Run[C]:
    """A new run folder with its settings, some validation images and the command to go on with.

    images: (n, H, W, 3) uint8, labels: (n,) int64. teacher: the run that it learns from, which is copied. resumable:
    whether it can be interrupted and gone on with.

    Raises:
        CheckpointError: the folder is there already and is not empty, or cannot be made.
    """
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot make the run folder {folder} ({error.strerror}); give another --out"
        ) from None
    if teacher is not None:
        ignored = shutil.ignore_patterns("last", "tensorboard", TEACHER)
        shutil.copytree(teacher.folder, folder / TEACHER, ignore=ignored)
    write_json(folder / "problem.json", dataclasses.asdict(problem))
    save_file(
        {"images": images.contiguous().cpu(), "labels": labels.cpu()},
        folder / "validation.safetensors",
    )
    command = COMMANDS[type(config)]
    write_json(folder / "config.json", {"command": command} | to_dict(config))
    write_sums(folder)
    if resumable:
        (folder / "resume.txt").write_text(resume_command(folder, command) + "\n")
    return Run(folder, config, problem)


def resume_command(folder: Path, command: str = "train") -> str:
    """What to type, in a shell and from any folder, to go on with a run."""
    return shlex.join(["viewfold", command, "--resume", str(folder.resolve())])


def check_new(folder: Path) -> None:
    """Refuse a run folder that is in use, or that cannot be made.

    Raises:
        CheckpointError: the folder is there already and is not empty, or is a file, or has no place to be.
    """
    if (folder / SUMS).is_file() and (folder / "resume.txt").is_file():
        raise CheckpointError(
            f"{folder} is there already; go on with `{resume_command(folder, made_by(folder))}`, or give --out"
        )
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise CheckpointError(
            f"{folder} is there already and is no run to go on with; give another --out"
        )
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise CheckpointError(
            f"cannot make the run folder {folder} ({above} is no folder that can be written to); give another --out"
        )


def made_by(folder: Path, wanted: str = "train") -> str:
    """The command that made the run in a folder: train or pretrain. wanted: which of them makes such as is needed.

    Raises:
        CheckpointError: it is no run.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is not a run: it has no config.json; make one with `viewfold {wanted}`"
        )
    return str(read_json(folder / "config.json").get("command", "train"))


def open_run(folder: Path) -> Run:
    """The classifier's run in a folder.

    Raises:
        CheckpointError: it is no run, its settings are malformed, or it is of an encoder.
    """
    if made_by(folder) == "pretrain":
        named = shlex.quote(str(folder))
        raise CheckpointError(
            f"{folder} holds a pretrained encoder, which is no classifier yet; make one of it with "
            f"`viewfold probe {named}` or `viewfold train --weights {named}`"
        )
    return open_kind(folder, TrainConfig)


def open_any(folder: Path) -> Run[Any]:
    """The run in a folder, of a classifier or of an encoder: whose backbone is wanted.

    Raises:
        CheckpointError: it is no run, or its settings are malformed.
    """
    encoder = made_by(folder, "pretrain") == "pretrain"
    return open_kind(folder, PretrainConfig if encoder else TrainConfig)


def open_kind(folder: Path, kind: type[C]) -> Run[C]:
    """The run in a folder with settings of that kind.

    Raises:
        CheckpointError: it is no such run, or its settings are malformed.
    """
    command = made_by(folder, COMMANDS[kind])
    if command != COMMANDS[kind]:
        raise CheckpointError(
            f"{folder} was made by `viewfold {command}`, not by `viewfold {COMMANDS[kind]}`"
        )
    check_sums(folder, "config.json", "problem.json", "validation.safetensors")
    values = read_json(folder / "problem.json")
    try:
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        problem = Problem(**{**values, **tuples, "image": ImageSpec(**values["image"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'problem.json'} is malformed ({error}); train again"
        ) from None
    settings = read_json(folder / "config.json")
    settings.pop("command", None)
    return Run(folder, from_dict(kind, settings), problem)


def build_network(config: TrainConfig, problem: Problem) -> Network:
    """The network of a run, freshly initialised from torch's global generator."""
    return Network(
        build_backbone(config.backbone, (problem.image.height, problem.image.width)),
        objective(config.objective),
        num_classes=len(problem.classes),
        transformations=transformation_set(config.transformations),
        mean=problem.mean,
        std=problem.std,
        cosine_heads=config.loss.ldam is not None,
    )


def load_network(run: Run, which: str = "best") -> Network:
    """The network of a run with its best (or last) weights, on the CPU, ready to be asked.

    Raises:
        CheckpointError: the checkpoint is missing, altered, or of another network.
    """
    network = build_network(run.config, run.problem)
    tensors, _ = read(run.folder / which, "weights")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run.folder / which}: the weights are of another network ({error})"
        ) from None
    return network.eval()


def write(folder: Path, state: Mapping[str, Any], **tensors: Mapping[str, Tensor]) -> None:
    """A checkpoint: NAME.safetensors for every set of tensors, state.json, and their checksums."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for name, values in tensors.items():
        save_file(
            {key: value.detach().contiguous().cpu() for key, value in values.items()},
            part / f"{name}.safetensors",
        )
    write_json(part / "state.json", state)
    write_sums(part)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(the tensors of that name, the state) of a checkpoint, after checking its checksums.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete or altered.
    """
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames of `write`
        old.rename(folder)
    check_sums(folder, f"{name}.safetensors", "state.json")
    try:
        return load_file(folder / f"{name}.safetensors"), read_json(folder / "state.json")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder}: {name}.safetensors cannot be read ({error}); train again"
        ) from None


def read_validation_images(run: Run) -> tuple[Tensor, Tensor]:
    """The images and labels that a run keeps. Shapes as in `create_run`.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    path = run.folder / "validation.safetensors"
    try:
        tensors = load_file(path)
        return tensors["images"], tensors["labels"]
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train again") from None
