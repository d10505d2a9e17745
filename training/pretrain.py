"""`viewfold pretrain`: what the loop learns for an encoder, judged without labels, or by its neighbours' labels.

The last epoch's encoder is the one that is kept: no label chooses it. Whether it has collapsed is looked at after
every epoch.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training import checkpoint, collapse, loop
from training.batches import Batches
from training.checkpoint import Run
from training.device import describe, pick_precision
from training.devices import Team
from training.errors import DivergedError
from training.evaluate import images_at_once
from training.features import features_of
from training.json_files import write_json
from training.knn import VOTES, knn_accuracy
from training.position import Position
from training.pretrain_checks import check_rows, check_settings
from training.pretrain_config import PretrainConfig
from training.pretrain_setup import (
    Images,
    continue_pretraining,
    default_folder,
    start_pretraining,
)
from training.pretrain_step import Pretrainer, pretrain_step, set_up
from training.progress import Progress
from training.statistics import evenly_spaced

# that are looked at after an epoch: enough for a point or two, and little beside the epoch itself
SEEN_IMAGES, NEIGHBOURS = 1000, 2000
FEWEST_IMAGES = 64  # that a spread is measured on, where there are so many


@dataclass(frozen=True)
class Encoding:
    """An encoder in training (`loop.Work`)."""

    run: Run[PretrainConfig]
    images: Images
    learner: Pretrainer
    progress: Progress
    fresh: bool = False

    @property
    def losses(self) -> tuple[str, ...]:
        """What the losses of a step are called."""
        return self.learner.losses

    @property
    def batches(self) -> Batches:
        """The training images."""
        return self.images.train

    def step(self, images: Tensor, labels: Tensor, step: int, total_steps: int) -> Tensor:
        """One step of the optimiser. Shapes as in `pretrain_step`."""
        return pretrain_step(self.learner, images, labels, step, total_steps)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Everything that has weights, target networks and queues among it."""
        return {"weights": self.learner.network.state_dict()}

    def restore(self, read: Callable[[str], dict[str, Tensor]]) -> None:
        """Take the weights that `tensors` gave."""
        self.learner.network.load_state_dict(read("weights"))

    def judge(self, epoch: int, position: Position) -> tuple[dict[str, float], str]:
        """How far the features spread and what their neighbours' labels are worth; keeps the encoder."""
        values = self._look()
        encoder = self.learner.network.encoder.state_dict()
        checkpoint.write(self.run.folder / "best", {"epoch": epoch, "val": values}, weights=encoder)
        words = f"feature std {values['feature_std']:.2f}  rank {values['effective_rank']:.1f}"
        if "val_knn_top1" in values:
            words += f"  val kNN {100 * values['val_knn_top1']:.2f} %"
        collapsed = collapse.collapsed(values["feature_std"])
        return values, f"{words}  (collapsed)" if collapsed else words

    def finish(self, position: Position) -> None:
        """What the encoder is, by what is known of it without labels."""
        run, team = self.run, self.learner.team
        _, state = checkpoint.read(run.folder / "best", "weights")
        std = state["val"]["feature_std"]
        result = {
            "val": state["val"],
            "collapsed": collapse.collapsed(std),
            "num_features": self.learner.network.encoder.num_features,
            "seconds": round(position.seconds, 1),
            "hardware": describe(team.device, team.size),
            "precision": pick_precision(run.config.precision, team.device),
            "versions": run.problem.versions,
        }
        write_json(run.folder / "result.json", result)
        if collapse.collapsed(std):
            self.progress.say(f"THE ENCODER HAS COLLAPSED: {collapse.collapse_warning(std)}")
        named = shlex.quote(str(run.folder))
        self.progress.say(
            f"pretrained in {position.seconds:,.0f} s; the encoder is in {run.folder}; make a classifier of it with\n"
            f"  viewfold probe {named} --data …\n"
            f"or of all its weights with\n"
            f"  viewfold train --weights {named} --data …"
        )

    def _look(self) -> dict[str, float]:
        """Of features of the images as they are, in the encoder's evaluation mode."""
        encoder, size = self.learner.network.encoder, images_at_once(self.run.problem.image, 1)
        seen = evenly_spaced(len(self.images.val), SEEN_IMAGES)
        held, labels = features_of(encoder, self.images.val, batch_size=size, places=seen)
        spread = held
        if len(held) < FEWEST_IMAGES:  # too few to spread: of those that are learnt from as well
            more = evenly_spaced(len(self.images.train), FEWEST_IMAGES)
            learnt, _ = features_of(encoder, self.images.train, batch_size=size, places=more)
            spread = torch.cat([held, learnt])
        if not held.isfinite().all():
            raise DivergedError(
                "the features of some images are no finite numbers any more; try a lower --optim.lr"
            )
        values = {
            "feature_std": collapse.feature_std(spread),
            "effective_rank": collapse.effective_rank(spread),
        }
        if self.run.problem.classes:
            near = evenly_spaced(len(self.images.train), NEIGHBOURS)
            known, known_labels = features_of(
                encoder, self.images.train, batch_size=size, places=near
            )
            values["val_knn_top1"] = knn_accuracy(
                known,
                known_labels,
                held,
                labels,
                num_classes=len(self.run.problem.classes),
                k=VOTES,
            )
        return values


def pretrain(config: PretrainConfig) -> Run[PretrainConfig]:
    """Pretrain an encoder, or with config.resume go on. The run is complete unless it was interrupted.

    Raises:
        TrainingError: settings, data or a checkpoint that will not do, or a loss that diverged.
    """
    return loop.run(COMMAND, config)


def _set_up(run: Run[PretrainConfig], images: Images, team: Team, progress: Progress) -> Encoding:
    config = run.config
    check_rows(config.batch_size, team.size)
    learner = set_up(run, team)
    count = sum(parameter.numel() for parameter in learner.network.encoder.parameters())
    aware = f" + AugSelf({config.augself})" if config.augself else ""
    progress.say(
        f"{config.method}{aware} with {config.backbone} ({count:,} parameters), "
        f"on {describe(team.device, team.size)}, {pick_precision(config.precision, team.device)}"
    )
    return Encoding(run, images, learner, progress)


COMMAND = loop.Command(
    pretrain,
    PretrainConfig,
    check_settings,
    default_folder,
    start_pretraining,
    continue_pretraining,
    _set_up,
)
