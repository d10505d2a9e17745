"""Which network answers in which mode: the run's own, and beside a folded pass the passes that it was folded from."""

import torch

from serving.images import ImageSpec
from training import checkpoint
from training.checkpoint import Run
from training.config import TrainConfig
from training.evaluate import MODES, Answering, images_at_once
from training.network import Network
from training.objectives import objective
from training.teacher import has_teacher, open_kept

AGGREGATED = "aggregated"


def load_answering(run: Run, device: torch.device | None = None) -> Answering:
    """The networks of a run by mode, its default mode first, with the weights that validation chose.

    A run that learnt another run's aggregated answer in one pass keeps that run: it answers in `aggregated`.

    Raises:
        CheckpointError: the run has no checkpoint, or the copy of its teacher is missing or altered.
    """
    own = checkpoint.load_network(run)
    networks = dict.fromkeys(objective(run.config.objective).modes, own)
    if has_teacher(run) and by_teacher(run.config, AGGREGATED):
        kept = open_kept(run)
        if AGGREGATED in objective(kept.config.objective).modes:
            networks[AGGREGATED] = checkpoint.load_network(kept)
    return {mode: network.to(device) for mode, network in networks.items()}


def by_teacher(config: TrainConfig, mode: str) -> bool:
    """Whether it is the teacher that answers in a mode: `aggregated`, where the run's own network cannot."""
    return mode == AGGREGATED and mode not in objective(config.objective).modes


def called(config: TrainConfig, mode: str) -> str:
    """A mode of a run, or of its bundle, as it is shown to people: with whose answer it is, if not the run's own."""
    return f"{mode} (teacher)" if by_teacher(config, mode) else mode


def passes(networks: Answering) -> dict[str, int]:
    """How many images go through a backbone for one answer, by mode."""
    return {
        mode: MODES[mode].forward_passes(len(network.transformations))
        for mode, network in networks.items()
    }


def at_once(networks: Answering, spec: ImageSpec) -> int:
    """How many images are evaluated at a time."""
    return images_at_once(spec, max(len(n.transformations) for n in networks.values()))


def that_looks(networks: Answering) -> Network:
    """The network that looks at the transformed copies, where one does; else the one of the default mode."""
    return networks.get(AGGREGATED, next(iter(networks.values())))
