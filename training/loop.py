"""The loop of every training: epochs, checkpoints, interruption, several processes. What is learnt is the work's.

Everything random at a step is drawn from (seed, step), and the learning rate is a function of the
step. So the state of a run is its weights, its optimiser and its step, and an interrupted run ends
with the very weights of an uninterrupted one (bitwise on a CPU). Precision and devices are Lightning
Fabric's, the loop is ours.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol

import torch
from torch import Tensor, nn

from training import checkpoint, data, devices, optim
from training.batches import Batches, epoch_order
from training.checkpoint import C, Run
from training.device import pick_device
from training.devices import Team
from training.errors import CheckpointError, DivergedError
from training.history import History
from training.interrupt import Flag, interruption
from training.optim import current_lr
from training.position import Position, from_state
from training.progress import Bar, Progress, Stopwatch
from training.resume import open_to_continue


class Trained(Protocol):
    """What the steps of a work move, as Fabric has set it up."""

    @property
    def module(self) -> nn.Module:
        """The network, with all that is trained beside it."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimiser."""


class Work(Protocol):
    """What is learnt in a run, and how it is judged. Only the first process judges, and finishes."""

    @property
    def fresh(self) -> bool:
        """Whether the weights begin with what may not be there again: then they are saved before the first step."""

    @property
    def losses(self) -> tuple[str, ...]:
        """What the values of a step are called; the first is the loss that is minimised."""

    @property
    def batches(self) -> Batches:
        """The training images."""

    @property
    def learner(self) -> Trained:
        """What is trained, and its optimiser."""

    def step(self, images: Tensor, labels: Tensor, step: int, total_steps: int) -> Tensor:
        """One step of the optimiser. Returns its losses, detached, on the device: (len(losses),) or a scalar."""

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The state of the weights, by the name of the file that they are kept in; "weights" is one of them."""

    def restore(self, read: Callable[[str], dict[str, Tensor]]) -> None:
        """Take the state that `tensors` gave, of the file of a name."""

    def judge(self, epoch: int, position: Position) -> tuple[dict[str, float], str]:
        """What validation says after an epoch (from 1 on), for metrics.csv and in words; keeps the best weights."""

    def finish(self, position: Position) -> None:
        """Write down what the finished run is worth."""


@dataclass(frozen=True)
class Command(Generic[C]):
    """What is a command's own. again: the command as a function of its settings, for other processes to call.

    start: a new run and its work; go_on: the work of a run that was begun. Both read the data.
    """

    again: Callable[[C], object]
    kind: type[C]
    check: Callable[[C], None]
    default_folder: Callable[[C], Path]
    start: Callable[[C, torch.device, Progress], tuple[Run[C], Any]]
    go_on: Callable[[Run[C], torch.device, Progress], Any]
    set_up: Callable[[Run[C], Any, Team, Progress], Work]


@dataclass(frozen=True)
class Training(Generic[C]):
    """A run in training: what it is, what it learns, and what it writes."""

    run: Run[C]
    work: Work
    team: Team
    history: History
    progress: Progress

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training split; one if it is smaller than a batch."""
        return max(1, len(self.work.batches) // self.run.config.batch_size)


def run(command: Command[C], config: C) -> Run[C]:
    """Train, or with config.resume go on. The run is complete unless it was interrupted (Ctrl-C, SIGTERM).

    Raises:
        TrainingError: settings, data or a checkpoint that will not do, or a loss that diverged.
    """
    begun = None
    if config.resume is None:
        command.check(config)
        data.check_there(config.data)
        data.check_place(config.data)
        folder = (config.out or command.default_folder(config)).expanduser()
        checkpoint.check_new(folder)
    else:
        folder = config.resume.expanduser()
        begun = open_to_continue(config, folder)
        if begun.complete:
            Progress().say(f"{folder} is complete already")
            return begun
    settings = config if begun is None else begun.config
    device = pick_device(settings.device)
    processes = devices.count(config.devices, settings.devices, settings.batch_size, device)
    if processes > 1 and not devices.launched():
        devices.launch(command.again, config, processes)
        return checkpoint.open_kind(folder, command.kind)
    with devices.joined(processes, device) as team:
        shared = dataclasses.replace(settings, devices=processes)
        return _run(command, shared, begun, folder, team)


def _run(command: Command[C], config: C, run: Run[C] | None, folder: Path, team: Team) -> Run[C]:
    """In one process of a team. run: the one to go on with; None: a new one in the folder."""
    progress, begun = Progress(quiet=not team.first), run is not None
    with team.first_ahead():
        if run is None and team.first:
            run, prepared = command.start(config, team.device, progress)
        else:
            run = run or checkpoint.open_kind(folder, command.kind)
            prepared = command.go_on(run, team.device, progress)
    work = command.set_up(run, prepared, team, progress)
    devices.check_shares(min(config.batch_size, len(work.batches)), team.size)
    training = Training(run, work, team, History(run.folder), progress)
    with team.first_ahead():
        position = _restore(training) if begun else Position()
        if begun and team.first:
            training.history.truncate(position.step // training.steps_per_epoch)
    if work.fresh:  # so that going on never needs the pretrained weights again
        _save_last(training, position)
    with training.history, interruption(patient=team.size > 1) as interrupted:
        finished = _epochs(training, position, interrupted)
    with team.first_ahead():  # the others leave a run that is complete
        if finished and team.first:
            work.finish(position)
    if not finished:
        going_on = checkpoint.resume_command(run.folder, checkpoint.COMMANDS[command.kind])
        progress.say(f"interrupted at step {position.step}; go on with\n  {going_on}")
    return run


def _epochs(training: Training[C], position: Position, interrupted: Flag) -> bool:
    """Train to the end, or until the flag is raised. Returns whether the end was reached."""
    config = training.run.config
    total = config.epochs * training.steps_per_epoch
    watch, before = Stopwatch(), position.seconds
    with training.progress.bar("train", total, position.step) as bar:
        while position.step < total:
            epoch = position.step // training.steps_per_epoch
            lap, first = Stopwatch(), position.step
            whole = _train_epoch(training, position, epoch, total, interrupted, bar)
            images = min(config.batch_size, len(training.work.batches))
            rate = (position.step - first) * images / lap.seconds
            position.seconds = before + watch.seconds
            if not whole:
                _save_last(training, position)
                return False
            _close_epoch(training, position, epoch, rate)
            if training.team.agreed(interrupted.raised):
                return position.step >= total
    return True


def _train_epoch(
    training: Training[C],
    position: Position,
    epoch: int,
    total: int,
    interrupted: Flag,
    bar: Bar,
) -> bool:
    """The rest of an epoch. Returns False if it was interrupted before its last step."""
    config, work, team = training.run.config, training.work, training.team
    order = epoch_order(len(work.batches), config.batch_size, seed=config.seed, epoch=epoch)
    done = position.step - epoch * len(order)
    sums = position.losses or [0.0] * len(work.losses)
    losses = torch.tensor(sums, dtype=torch.float64, device=team.device)
    work.learner.module.train()
    for images, labels in work.batches.iterate(order[done:]):
        losses += work.step(images, labels, position.step, total)
        position.step += 1
        bar.advance(f"epoch {epoch + 1}/{config.epochs}")
        stop = team.agreed(interrupted.raised)
        if stop and position.step < (epoch + 1) * len(order):
            position.losses = [team.mean(value) for value in losses.tolist()]
            return False
    position.losses = [team.mean(value) for value in losses.tolist()]
    if not math.isfinite(position.losses[0]):
        raise DivergedError(
            f"the loss is {position.losses[0]} in epoch {epoch + 1}; try a lower --optim.lr"
        )
    return True


def _close_epoch(training: Training[C], position: Position, epoch: int, rate: float) -> None:
    """Validate, save, and write the epoch down: in the first process; the others go on."""
    means = [value / training.steps_per_epoch for value in position.losses]
    position.losses = []
    if not training.team.first:
        return
    values, words = training.work.judge(epoch + 1, position)
    training.history.add(  # before the checkpoint: a row too many is forgotten, one too few is lost
        epoch + 1,
        step=position.step,
        lr=current_lr(training.work.learner.optimizer),
        losses=dict(zip(training.work.losses, means, strict=True)),
        values=values,
        images_per_second=rate,
    )
    _save_last(training, position)
    training.progress.say(
        f"epoch {epoch + 1}/{training.run.config.epochs}  loss {means[0]:.4f}  {words}  {rate:,.0f} images/s"
    )


def _save_last(training: Training[C], position: Position) -> None:
    if not training.team.first:
        return
    tensors = training.work.tensors()
    optimizer = optim.optimizer_tensors(training.work.learner.optimizer)
    state = dataclasses.asdict(position) | {"best_nll": min(position.best_nll, 1e300)}
    checkpoint.write(training.run.folder / "last", state, optimizer=optimizer, **tensors)


def _restore(training: Training[C]) -> Position:
    folder = training.run.folder / "last"
    if not folder.exists() and not folder.with_name("last.old").exists():
        if training.run.problem.pretrained_weights is not None:
            raise CheckpointError(
                f"{training.run.folder} was stopped before its pretrained weights were saved; remove it and train again"
            )
        return Position()  # interrupted before the first checkpoint
    tensors, state = checkpoint.read(folder, "optimizer")
    training.work.restore(lambda name: checkpoint.read(folder, name)[0])
    optim.restore_optimizer(training.work.learner.optimizer, tensors)
    position = from_state(state)
    training.progress.say(f"going on from step {position.step}")
    return position
