"""`viewfold train`: from settings to a run folder. The loop is ours; precision and devices are Lightning Fabric's.

Everything random at a step is drawn from (seed, step), and the learning rate is a function of the
step. So the state of a run is its weights, its optimiser and its step, and an interrupted run ends
with the very weights of an uninterrupted one (bitwise on a CPU).
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from training import checkpoint, devices, optim
from training.batches import Batches, epoch_order
from training.checkpoint import Run
from training.checks import check_settings
from training.config import TrainConfig, default_folder
from training.device import describe, pick_device, pick_precision
from training.devices import Team
from training.errors import CheckpointError, DivergedError
from training.evaluate import MODES, Metrics, evaluate, images_at_once
from training.history import History
from training.interrupt import Flag, interruption
from training.objectives import objective
from training.optim import current_lr
from training.position import Position
from training.progress import Bar, Progress, Stopwatch
from training.resume import continue_run, open_to_continue
from training.setup import Prepared, start_run
from training.step import Learner, set_up, train_step
from training.transformations import transformation_set


@dataclass(frozen=True)
class Trainer:
    """A run in training: what its steps need, and what it reads and writes."""

    run: Run
    prepared: Prepared
    learner: Learner
    history: History
    progress: Progress

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self.run.config

    @property
    def team(self) -> Team:
        """The processes that train."""
        return self.learner.team

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that the objective can answer in, its default first."""
        return objective(self.config.objective).modes

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training split; one if it is smaller than a batch."""
        return max(1, len(self.prepared.train) // self.config.batch_size)


def train(config: TrainConfig) -> Run:
    """Train, or with config.resume go on. The run is complete unless it was interrupted (Ctrl-C, SIGTERM).

    Raises:
        TrainingError: settings, data or a checkpoint that will not do, or a loss that diverged.
    """
    run = None
    if config.resume is None:
        check_settings(config)
        folder = (config.out or default_folder(config)).expanduser()
        checkpoint.check_new(folder)
    else:
        folder = config.resume.expanduser()
        run = open_to_continue(config, folder)
        if run.complete:
            Progress().say(f"{folder} is complete already")
            return run
    settings = config if run is None else run.config
    device = pick_device(settings.device)
    processes = devices.count(config.devices, settings.devices, settings.batch_size, device)
    if processes > 1 and not devices.launched():
        devices.launch(train, config, processes)
        return checkpoint.open_run(folder)
    with devices.joined(processes, device) as team:
        return _train(dataclasses.replace(settings, devices=processes), run, folder, team)


def _train(config: TrainConfig, run: Run | None, folder: Path, team: Team) -> Run:
    """In one process of a team. run: the one to go on with; None: a new one in the folder."""
    progress, begun = Progress(quiet=not team.first), run is not None
    with team.first_ahead():
        if run is None and team.first:
            run, prepared = start_run(config, team.device, progress)
        else:
            run = run or checkpoint.open_run(folder)
            prepared = continue_run(run, team.device, progress)
    devices.check_shares(min(config.batch_size, len(prepared.train)), team.size)
    trainer = _set_up(run, prepared, team, progress)
    with team.first_ahead():
        position = _restore(trainer) if begun else Position()
        if begun and team.first:
            trainer.history.truncate(position.step // trainer.steps_per_epoch)
    if prepared.start is not None:  # so that going on never needs the pretrained weights again
        _save_last(trainer, position)
    with interruption(patient=team.size > 1) as interrupted:
        finished = _epochs(trainer, position, interrupted)
    with team.first_ahead():  # the others leave a run that is complete
        if finished and team.first:
            _finish(trainer, position)
    if not finished:
        progress.say(
            f"interrupted at step {position.step}; go on with\n  {checkpoint.resume_command(run.folder)}"
        )
    return run


def _set_up(run: Run, prepared: Prepared, team: Team, progress: Progress) -> Trainer:
    config = run.config
    learner = set_up(run, team, prepared.start)
    network = learner.network
    count = sum(parameter.numel() for parameter in network.parameters())
    transforms = objective(config.objective).transforms
    copies = f"M = {len(network.transformations)}, " if transforms else ""
    progress.say(
        f"{config.objective} with {config.backbone} ({count:,} parameters), "
        f"{copies}on {describe(team.device, team.size)}, {pick_precision(config.precision, team.device)}"
    )
    return Trainer(run, prepared, learner, History(run.folder), progress)


def _epochs(trainer: Trainer, position: Position, interrupted: Flag) -> bool:
    """Train to the end, or until the flag is raised. Returns whether the end was reached."""
    config = trainer.config
    total = config.epochs * trainer.steps_per_epoch
    watch, before = Stopwatch(), position.seconds
    with trainer.progress.bar("train", total, position.step) as bar:
        while position.step < total:
            epoch = position.step // trainer.steps_per_epoch
            lap, first = Stopwatch(), position.step
            whole = _train_epoch(trainer, position, epoch, total, interrupted, bar)
            rate = (
                (position.step - first)
                * min(config.batch_size, len(trainer.prepared.train))
                / lap.seconds
            )
            position.seconds = before + watch.seconds
            if not whole:
                _save_last(trainer, position)
                return False
            _close_epoch(trainer, position, epoch, rate)
            if trainer.team.agreed(interrupted.raised):
                return position.step >= total
    return True


def _train_epoch(
    trainer: Trainer, position: Position, epoch: int, total: int, interrupted: Flag, bar: Bar
) -> bool:
    """The rest of an epoch. Returns False if it was interrupted before its last step."""
    config, batches = trainer.config, trainer.prepared.train
    order = epoch_order(len(batches), config.batch_size, seed=config.seed, epoch=epoch)
    done = position.step - epoch * len(order)
    losses = torch.tensor(position.epoch_loss, dtype=torch.float64, device=trainer.learner.device)
    trainer.learner.module.train()
    for images, labels in batches.iterate(order[done:]):
        losses += train_step(trainer.learner, images, labels, position.step, total)
        position.step += 1
        bar.advance(f"epoch {epoch + 1}/{config.epochs}")
        stop = trainer.team.agreed(interrupted.raised)
        if stop and position.step < (epoch + 1) * len(order):
            position.epoch_loss = trainer.team.mean(losses.item())
            return False
    position.epoch_loss = trainer.team.mean(losses.item())
    if not math.isfinite(position.epoch_loss):
        raise DivergedError(
            f"the loss is {position.epoch_loss} in epoch {epoch + 1}; try a lower --optim.lr"
        )
    return True


def _close_epoch(trainer: Trainer, position: Position, epoch: int, rate: float) -> None:
    """Validate, keep the best weights, save, and write the epoch down: in the first process; the others go on."""
    if not trainer.team.first:
        position.epoch_loss = 0.0
        return
    metrics = _evaluate(trainer, trainer.prepared.val)
    chosen = metrics[trainer.modes[0]]
    if position.improved_by(chosen):
        position.best_epoch, position.best_top1, position.best_nll = (
            epoch + 1,
            chosen.top1,
            chosen.nll,
        )
        state = {
            "epoch": epoch + 1,
            "val": {mode: dataclasses.asdict(m) for mode, m in metrics.items()},
        }
        checkpoint.write(
            trainer.run.folder / "best", state, weights=trainer.learner.shown.state_dict()
        )
    loss = position.epoch_loss / trainer.steps_per_epoch
    position.epoch_loss = 0.0
    lr = current_lr(trainer.learner.optimizer)
    trainer.history.add(  # before the checkpoint: a row too many is forgotten, one too few is lost
        epoch + 1, step=position.step, lr=lr, loss=loss, val=metrics, images_per_second=rate
    )
    _save_last(trainer, position)
    accuracies = "  ".join(f"{mode} {100 * m.top1:.2f} %" for mode, m in metrics.items())
    trainer.progress.say(
        f"epoch {epoch + 1}/{trainer.config.epochs}  loss {loss:.4f}  val {accuracies}  {rate:,.0f} images/s"
    )


def _evaluate(trainer: Trainer, split: Batches) -> dict[str, Metrics]:
    network = trainer.learner.shown
    at_once = images_at_once(trainer.run.problem.image, len(network.transformations))
    return evaluate(dict.fromkeys(trainer.modes, network), split, batch_size=at_once)


def _save_last(trainer: Trainer, position: Position) -> None:
    if not trainer.team.first:
        return
    learner = trainer.learner
    tensors = {
        "weights": learner.network.state_dict(),
        "optimizer": optim.optimizer_tensors(learner.optimizer),
    }
    if learner.average is not None:
        tensors["average"] = learner.average.module.state_dict()
    state = dataclasses.asdict(position) | {"best_nll": min(position.best_nll, 1e300)}
    checkpoint.write(trainer.run.folder / "last", state, **tensors)


def _restore(trainer: Trainer) -> Position:
    folder = trainer.run.folder / "last"
    if not folder.exists() and not folder.with_name("last.old").exists():
        if trainer.run.problem.pretrained_weights is not None:
            raise CheckpointError(
                f"{trainer.run.folder} was stopped before its pretrained weights were saved; remove it and train again"
            )
        return Position()  # interrupted before the first checkpoint
    weights, state = checkpoint.read(folder, "weights")
    tensors, _ = checkpoint.read(folder, "optimizer")
    learner = trainer.learner
    learner.network.load_state_dict(weights)
    optim.restore_optimizer(learner.optimizer, tensors)
    if learner.average is not None:
        learner.average.module.load_state_dict(checkpoint.read(folder, "average")[0])
    position = Position(**state)
    trainer.progress.say(f"going on from step {position.step}")
    return position


def _finish(trainer: Trainer, position: Position) -> None:
    """The test split, seen once, by the weights that validation chose."""
    run, config, team = trainer.run, trainer.config, trainer.team
    best, state = checkpoint.read(run.folder / "best", "weights")
    trainer.learner.shown.load_state_dict(best)
    test = _evaluate(trainer, trainer.prepared.test)
    passes = len(transformation_set(config.transformations))
    described = {
        mode: dataclasses.asdict(m) | {"forward_passes": MODES[mode].forward_passes(passes)}
        for mode, m in test.items()
    }
    result = {
        "test": described,
        "val": state["val"],
        "best_epoch": position.best_epoch,
        "seconds": round(position.seconds, 1),
        "hardware": describe(team.device, team.size),
        "precision": pick_precision(config.precision, team.device),
        "versions": run.problem.versions,
        "pretrained_weights": run.problem.pretrained_weights,
    }
    checkpoint.write_json(run.folder / "result.json", result)
    trainer.progress.say(f"best epoch {position.best_epoch}; test:")
    for mode, values in described.items():
        trainer.progress.say(
            f"  {mode:<11} {100 * values['top1']:6.2f} %  NLL {values['nll']:.4f}  ECE {values['ece']:.4f}  "
            f"{values['forward_passes']} pass{'es' if values['forward_passes'] > 1 else ''}"
        )
    trainer.progress.say(f"trained in {position.seconds:,.0f} s; the run is in {run.folder}")
