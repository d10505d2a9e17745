"""`viewfold train`: what the loop learns for a classifier: an objective, judged by the accuracy of its modes."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from training import checkpoint, loop
from training.batches import Batches
from training.checkpoint import Run
from training.checks import check_flips, check_settings
from training.config import TrainConfig, default_folder
from training.device import describe, pick_precision
from training.devices import Team
from training.evaluate import MODES, Metrics, evaluate, images_at_once
from training.history import columns
from training.json_files import write_json
from training.objectives import objective
from training.position import Position
from training.progress import Progress
from training.resume import continue_run
from training.setup import Prepared, start_run
from training.step import Learner, set_up, train_step
from training.teacher import open_teacher
from training.transformations import transformation_set


@dataclass(frozen=True)
class Classifying:
    """A classifier in training (`loop.Work`)."""

    run: Run
    prepared: Prepared
    learner: Learner
    progress: Progress
    losses: tuple[str, ...] = ("train_loss",)

    @property
    def fresh(self) -> bool:
        """Whether it begins with pretrained weights."""
        return self.prepared.start is not None

    @property
    def batches(self) -> Batches:
        """The training images."""
        return self.prepared.train

    def step(self, images: Tensor, labels: Tensor, step: int, total_steps: int) -> Tensor:
        """One step of the optimiser. Shapes as in `train_step`."""
        return train_step(self.learner, images, labels, step, total_steps)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The weights, and their average over time where there is one."""
        average = self.learner.average
        averaged = {} if average is None else {"average": average.module.state_dict()}
        return {"weights": self.learner.network.state_dict(), **averaged}

    def restore(self, read: Callable[[str], dict[str, Tensor]]) -> None:
        """Take the weights that `tensors` gave."""
        self.learner.network.load_state_dict(read("weights"))
        if self.learner.average is not None:
            self.learner.average.module.load_state_dict(read("average"))

    def judge(self, epoch: int, position: Position) -> tuple[dict[str, float], str]:
        """The metrics of every mode on the validation split; the best weights by those of the default mode."""
        metrics = self._evaluate(self.prepared.val)
        chosen = next(iter(metrics.values()))
        if position.improved_by(chosen):
            position.best_epoch, position.best_top1, position.best_nll = (
                epoch,
                chosen.top1,
                chosen.nll,
            )
            state = {"epoch": epoch, "val": {m: dataclasses.asdict(v) for m, v in metrics.items()}}
            weights = self.learner.shown.state_dict()
            checkpoint.write(self.run.folder / "best", state, weights=weights)
        accuracies = "  ".join(f"{mode} {100 * m.top1:.2f} %" for mode, m in metrics.items())
        return columns(metrics), f"val {accuracies}"

    def finish(self, position: Position) -> None:
        """The test split, seen once, by the weights that validation chose."""
        run, config, team = self.run, self.run.config, self.learner.team
        best, state = checkpoint.read(run.folder / "best", "weights")
        self.learner.shown.load_state_dict(best)
        test = self._evaluate(self.prepared.test)
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
        write_json(run.folder / "result.json", result)
        self.progress.say(f"best epoch {position.best_epoch}; test:")
        for mode, values in described.items():
            self.progress.say(
                f"  {mode:<11} {100 * values['top1']:6.2f} %  NLL {values['nll']:.4f}  ECE {values['ece']:.4f}  "
                f"{values['forward_passes']} pass{'es' if values['forward_passes'] > 1 else ''}"
            )
        self.progress.say(f"trained in {position.seconds:,.0f} s; the run is in {run.folder}")

    def _evaluate(self, split: Batches) -> dict[str, Metrics]:
        network = self.learner.shown
        at_once = images_at_once(self.run.problem.image, len(network.transformations))
        networks = dict.fromkeys(objective(self.run.config.objective).modes, network)
        return evaluate(networks, split, batch_size=at_once)


def train(config: TrainConfig) -> Run:
    """Train a classifier, or with config.resume go on. The run is complete unless it was interrupted.

    Raises:
        TrainingError: settings, data or a checkpoint that will not do, or a loss that diverged.
    """
    return loop.run(COMMAND, config)


def _check(config: TrainConfig) -> None:
    """Refuse settings that cannot work, a teacher that is not there, and both together, before any data is read."""
    check_settings(config)
    teacher = open_teacher(config)
    if teacher is not None:
        check_flips(config, teacher.config)


def _set_up(run: Run, prepared: Prepared, team: Team, progress: Progress) -> Classifying:
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
    return Classifying(run, prepared, learner, progress)


COMMAND = loop.Command(train, TrainConfig, _check, default_folder, start_run, continue_run, _set_up)
