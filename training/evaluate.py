"""How good a network is in each of its modes: top-1, top-5, NLL and calibration error, on one split.

Always in fp32. The same metrics serve bundles: export/evaluate.py fills in probabilities from
onnxruntime. Which classes are taken for which is in confusion.py.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from serving.images import ImageSpec
from training.batches import Batches, in_order
from training.joint import aggregate, conditional
from training.network import Network
from training.objectives import Logits

MOST_IMAGES = 256
MOST_PIXELS = 4_000_000  # 20 images of 224 x 224 in 4 copies: a gigabyte in a wide network
Answering = Mapping[str, Network]  # by mode: the network that answers in it
Reading = tuple[Network, Callable[[Logits], Tensor]]  # a network, and what is kept of what it says
ECE_BINS = 15  # Guo et al. 2017
TOP = 5  # of so many classes, or fewer, every answer holds the right one
Z_95 = NormalDist().inv_cdf(0.975)  # 1.96: 95 % of a normal distribution lies within


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
    """top1, top5: shares in [0, 1]; nll: nats an image; ece: in [0, 1], 15 bins of equal width; n: images.

    top5 is None where there are no more than 5 classes and every answer would count.
    """

    top1: float
    nll: float
    ece: float
    n: int
    top5: float | None = None

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95 % interval of top1: what the images at hand leave open (not what another seed would change)."""
        return wilson_interval(round(self.top1 * self.n), self.n)


def metrics(probabilities: Tensor, labels: Tensor) -> Metrics:
    """The metrics of predicted probabilities (n, N) float against labels (n,) int64."""
    likelihood = probabilities.gather(1, labels[:, None]).clamp_min(
        torch.finfo(probabilities.dtype).tiny
    )
    few = probabilities.shape[1] <= TOP
    return Metrics(
        top1=(probabilities.argmax(1) == labels).double().mean().item(),
        nll=-likelihood.double().log().mean().item(),
        ece=calibration_error(probabilities, labels).item(),
        n=len(labels),
        top5=None if few else (ranks(probabilities, labels) < TOP).double().mean().item(),
    )


def ranks(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one, (n,) int64: 0 where the answer is right. Shapes as in `metrics`.

    Of equally probable classes the lower index comes first, as in argmax.
    """
    own = probabilities.gather(1, labels[:, None])  # (n, 1)
    lower = torch.arange(probabilities.shape[1], device=labels.device) < labels[:, None]  # (n, N)
    return ((probabilities > own) | ((probabilities == own) & lower)).sum(1)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval (low, high) in [0, 1] of the share that `correct` of n is drawn from (Wilson 1927).

    Unlike p ± 1.96 √(p (1 - p) / n) it keeps its width where all or none are correct. n: at least 1.
    """
    share, doubt = correct / n, Z_95**2 / n
    centre = (share + doubt / 2) / (1 + doubt)
    half = math.sqrt(doubt * share * (1 - share) + doubt**2 / 4) / (1 + doubt)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class ConfidenceBins:
    """What a reliability diagram is drawn from: sums over the images of each bin of confidence, (15,) float64.

    images: how many there are; confidence: of their answers; correct: how many answers are right.
    """

    images: Tensor
    confidence: Tensor
    correct: Tensor


def confidence_bins(probabilities: Tensor, labels: Tensor) -> ConfidenceBins:
    """The images by confidence: bin k of 15 holds ((k - 1) / 15, k / 15]. Shapes as in `metrics`.

    torchmetrics would put confidences of exactly 1, which float32 often gives, into a sixteenth.
    """
    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1

    def summed(values: Tensor) -> Tensor:
        empty = torch.zeros(ECE_BINS, dtype=torch.float64, device=values.device)
        return empty.index_add(0, bins, values)

    correct = (predicted == labels).double()
    return ConfidenceBins(summed(torch.ones_like(confidence)), summed(confidence), summed(correct))


def calibration_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The mean gap between confidence and accuracy, weighted by bin size (ECE, Guo et al. 2017, equation 3).

    Shapes as in `metrics`, bins as in `confidence_bins`. Returns a float64 scalar.
    """
    bins = confidence_bins(probabilities, labels)
    # |accuracy - confidence| * size = |correct - summed confidence|
    return (bins.correct - bins.confidence).abs().sum() / len(labels)


def images_at_once(spec: ImageSpec, copies: int) -> int:
    """How many images are evaluated at a time, so that their copies fit into memory whatever their size."""
    return max(1, min(MOST_IMAGES, MOST_PIXELS // (spec.height * spec.width * copies)))


def class_logits(
    networks: Answering, batches: Batches, *, batch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """({mode: (n, N) float32}, labels (n,)) of a whole split, on the CPU. The networks are left in evaluation mode.

    batch_size: images at a time, as `images_at_once` says.
    """
    found, labels = read(readings(networks), batches, batch_size=batch_size)
    return {mode: logits.float() for mode, logits in found.items()}, labels


def readings(networks: Answering) -> dict[str, Reading]:
    """The class logits of every mode, as `read` takes them."""
    return {mode: (network, MODES[mode].logits) for mode, network in networks.items()}


@torch.inference_mode()
def read(
    wanted: Mapping[str, Reading], batches: Batches, *, batch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """What is read off the logits of a whole split, on the CPU: ({name: (n, …)}, labels (n,)).

    wanted: the network that is asked, and what of its logits (B, …) is kept. The networks are left in
    evaluation mode.
    """
    asked = {network for network, _ in wanted.values()}  # each once, however much is read of it
    for network in asked:
        network.eval()
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    labels = []
    for images, targets in batches.iterate(in_order(len(batches), batch_size)):
        logits = {network: network(images) for network in asked}
        for name, (network, kept) in wanted.items():
            found[name].append(kept(logits[network]).cpu())
        labels.append(targets.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(labels)


def probabilities(
    networks: Answering, batches: Batches, *, batch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """The softmax of `class_logits`, and the labels: ({mode: (n, N) float32}, (n,))."""
    logits, labels = class_logits(networks, batches, batch_size=batch_size)
    return {mode: values.softmax(1) for mode, values in logits.items()}, labels


def evaluate(networks: Answering, batches: Batches, *, batch_size: int) -> dict[str, Metrics]:
    """The metrics of every mode on a whole split. batch_size: as in `probabilities`."""
    answers, labels = probabilities(networks, batches, batch_size=batch_size)
    return {mode: metrics(answer, labels) for mode, answer in answers.items()}
