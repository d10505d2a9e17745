"""An encoder taken from a run and left as it is: a pretrained one, or a classifier's backbone."""

from pathlib import Path
from typing import Any

from serving.images import ImageSpec
from training import checkpoint
from training.backbones import build_backbone
from training.checkpoint import Run
from training.encoder import Encoder
from training.errors import CheckpointError


def load_encoder(folder: Path) -> tuple[Encoder, Run[Any]]:
    """The encoder of a run with the weights that the run keeps (its best), on the CPU, and the run.

    Raises:
        CheckpointError: no run is there, or it has no checkpoint yet, or one of another network.
    """
    run = checkpoint.open_any(folder)
    encoder = build_encoder(run.config.backbone, run.problem.image, run.problem)
    given, _ = checkpoint.read(folder / "best", "weights")
    own = encoder.state_dict().keys()
    try:
        # a classifier's heads are left out
        encoder.load_state_dict({name: value for name, value in given.items() if name in own})
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / 'best'}: the weights are of another network ({error})"
        ) from None
    return encoder.eval(), run


def build_encoder(backbone: str, image: ImageSpec, problem: checkpoint.Problem) -> Encoder:
    """A freshly initialised encoder for images of that size, with the problem's normalisation."""
    network = build_backbone(backbone, (image.height, image.width))
    return Encoder(network, problem.mean, problem.std)
