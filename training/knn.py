"""Weighted nearest neighbours on frozen features, the usual monitor of self-supervision: no training, no setting.

Wu et al. 2018 (arXiv 1805.01978, section 3.4): of the k training images of the greatest cosine s_i each votes for
its class with exp(s_i / τ). Theirs are k = 200 and τ = 0.07.
"""

from torch import Tensor
from torch.nn import functional as F

from training.collapse import check_finite
from training.errors import ConfigError

NEIGHBOURS = 200
TEMPERATURE = 0.07
VOTES = 20  # the k of what is shown here, beside pretraining and of a probe: small classes have no 200 images
MOST_SIMILARITIES = 2**24  # held at a time: 64 MB


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """The share of images, in [0, 1], that their neighbours give the right class. Fewer than k of them all vote.

    train_features: (m, d) float, train_labels: (m,) int64 in [0, N); features: (n, d), labels: (n,); no split empty.

    Raises:
        ConfigError: k or the temperature is not positive, or features are not finite.
    """
    _check(k, temperature)
    for given in (train_features, features):
        check_finite(given)
    known = F.normalize(train_features)  # (m, d)
    right = labels.new_zeros(())
    at_once = max(1, MOST_SIMILARITIES // len(known))
    for some, truth in zip(features.split(at_once), labels.split(at_once), strict=True):
        nearest = (F.normalize(some) @ known.T).topk(min(k, len(known)))  # (c, k)
        votes = _votes(nearest.values, train_labels[nearest.indices], num_classes, temperature)
        right += (votes.argmax(1) == truth).sum()
    return right.item() / len(labels)


def _check(k: int, temperature: float) -> None:
    if k < 1:
        raise ConfigError(f"k is {k}; give the number of neighbours that vote, 1 or more")
    if not temperature > 0:
        raise ConfigError(f"the temperature of the neighbours is {temperature:g}; give one above 0")


def _votes(cosines: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Each class's sum of exp(s / τ), over the row's greatest, so that no τ overflows. (c, k) each. Returns (c, N)."""
    below = cosines - cosines[:, :1]  # topk sorts: the first is the greatest
    weights = (below / temperature).exp()
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)
