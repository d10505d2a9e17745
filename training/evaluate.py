"""How good a network is in each of its modes: top-1, NLL and calibration error, on one split.

Always in fp32. The same metrics serve bundles: export/evaluate.py fills in probabilities from
onnxruntime.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from serving.images import ImageSpec
from training.batches import Batches, in_order
from training.joint import aggregate, conditional
from training.network import Network
from training.objectives import Logits

MOST_IMAGES = 256
MOST_PIXELS = 4_000_000  # 20 images of 224 x 224 in 4 copies: a gigabyte in a wide network
ECE_BINS = 15  # Guo et al. 2017


def _class_head(logits: Logits) -> Tensor:
    assert logits.single is not None
    return logits.single


def _identity(logits: Logits) -> Tensor:
    assert logits.joint is not None
    return conditional(logits.joint)


def _aggregated(logits: Logits) -> Tensor:
    assert logits.joint is not None
    return aggregate(logits.joint)


@dataclass(frozen=True)
class Mode:
    """A way of answering: class logits (B, N) from what the heads say, and whether it needs all M copies."""

    logits: Callable[[Logits], Tensor]
    all_copies: bool = False

    def forward_passes(self, num_transformations: int) -> int:
        """How many images go through the backbone for one answer."""
        return num_transformations if self.all_copies else 1


MODES = {
    "plain": Mode(_class_head),
    "distilled": Mode(_class_head),
    "single": Mode(_identity),
    "aggregated": Mode(_aggregated, all_copies=True),
}


@dataclass(frozen=True)
class Metrics:
    """top1: share in [0, 1]; nll: nats an image; ece: in [0, 1], 15 bins of equal width; n: images."""

    top1: float
    nll: float
    ece: float
    n: int


def metrics(probabilities: Tensor, labels: Tensor) -> Metrics:
    """The metrics of predicted probabilities (n, N) float against labels (n,) int64."""
    likelihood = probabilities.gather(1, labels[:, None]).clamp_min(
        torch.finfo(probabilities.dtype).tiny
    )
    return Metrics(
        top1=(probabilities.argmax(1) == labels).double().mean().item(),
        nll=-likelihood.double().log().mean().item(),
        ece=calibration_error(probabilities, labels).item(),
        n=len(labels),
    )


def calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The mean gap between confidence and accuracy, weighted by bin size (ECE, Guo et al. 2017, equation 3).

    Bin k of 15 holds the confidences in ((k - 1) / 15, k / 15]. torchmetrics would put those of exactly 1,
    which float32 often gives, into a sixteenth. Shapes as in `metrics`. Returns a float64 scalar.
    """
    confidence, predicted = probabilities.double().max(1)
    gaps = confidence - (predicted == labels).double()
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    summed = torch.zeros(ECE_BINS, dtype=torch.float64, device=gaps.device).index_add(0, bins, gaps)
    return summed.abs().sum() / len(labels)  # |accuracy - confidence| * size = |sum of the gaps|


def images_at_once(spec: ImageSpec, copies: int) -> int:
    """How many images are evaluated at a time, so that their copies fit into memory whatever their size."""
    return max(1, min(MOST_IMAGES, MOST_PIXELS // (spec.height * spec.width * copies)))


@torch.inference_mode()
def probabilities(
    network: Network, batches: Batches, modes: tuple[str, ...], *, batch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """({mode: (n, N) float32}, labels (n,)) of a whole split, on the CPU. The network is left in evaluation mode.

    batch_size: images at a time, as `images_at_once` says.
    """
    network.eval()
    answers: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    labels = []
    for images, targets in batches.iterate(in_order(len(batches), batch_size)):
        logits = network(images)
        for mode in modes:
            answers[mode].append(F.softmax(MODES[mode].logits(logits).float(), dim=1).cpu())
        labels.append(targets.cpu())
    return {mode: torch.cat(parts) for mode, parts in answers.items()}, torch.cat(labels)


def evaluate(
    network: Network, batches: Batches, modes: tuple[str, ...], *, batch_size: int
) -> dict[str, Metrics]:
    """The metrics of every mode on a whole split. batch_size: as in `probabilities`."""
    answers, labels = probabilities(network, batches, modes, batch_size=batch_size)
    return {mode: metrics(answer, labels) for mode, answer in answers.items()}
