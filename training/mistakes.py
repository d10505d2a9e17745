"""The answers that are wrong with the greatest confidence, and what each transformed copy of the image voted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.batches import Batches
from training.copies import votes
from training.network import Network
from training.transformations import transformed_copies

SHOWN_CLASSES = 3  # of the answer itself


@dataclass(frozen=True)
class Vote:
    """A class and how probable it is held to be."""

    label: int
    confidence: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. place: of the image in its split; top: the most probable classes, best first."""

    place: int
    truth: int
    top: tuple[Vote, ...]


@dataclass(frozen=True)
class Copies:
    """The copies of some images and their votes.

    images: (k, M, H, W, 3) uint8, the image as it is first. votes: k rows of M; empty rows where no head is
    asked about the copies, and then M is 1.
    """

    images: Tensor
    votes: list[list[Vote]]


@dataclass(frozen=True)
class Gallery:
    """Mistakes with their pictures. names: what each image is called; copies: None where there is no mistake.

    by_teacher: whether the votes are those of the teacher of the network that made the mistakes.
    """

    mistakes: list[Mistake]
    names: list[str]
    copies: Copies | None
    transformations: tuple[str, ...]
    by_teacher: bool


def worst_mistakes(probabilities: Tensor, labels: Tensor, count: int) -> list[Mistake]:
    """At most `count` wrong answers, the most confident first. probabilities: (n, N), labels: (n,)."""
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().flatten()  # (n wrong,)
    order = confidence[wrong].argsort(descending=True, stable=True)[:count]
    return [_mistake(place, probabilities[place], labels) for place in wrong[order].tolist()]


@torch.inference_mode()
def copies_of(
    network: Network, batches: Batches, places: list[int], *, batch_size: int
) -> Copies | None:
    """The images at those places of a split with what every copy of them votes (copies.py); None of no places."""
    if not places:
        return None
    network.eval()
    images: list[Tensor] = []
    cast: list[list[Vote]] = []
    for given, _ in batches.iterate(
        list(torch.tensor(places, dtype=torch.int64).split(batch_size))
    ):
        voting = votes(network(given))
        if voting is None:
            images.append(given[:, None].cpu())  # (B, 1, H, W, 3)
            cast += [[] for _ in given]
        else:
            images.append(transformed_copies(given, network.transformations).cpu())
            cast += [_votes(rows) for rows in voting.float().softmax(2).cpu()]
    return Copies(torch.cat(images), cast)


def _mistake(place: int, answer: Tensor, labels: Tensor) -> Mistake:
    values, classes = answer.topk(min(SHOWN_CLASSES, len(answer)))
    top = [
        Vote(label, value) for label, value in zip(classes.tolist(), values.tolist(), strict=True)
    ]
    return Mistake(place, int(labels[place]), tuple(top))


def _votes(rows: Tensor) -> list[Vote]:
    """rows: (M, N) probabilities."""
    confidence, label = rows.max(1)
    pairs = zip(label.tolist(), confidence.tolist(), strict=True)
    return [Vote(one, sure) for one, sure in pairs]
