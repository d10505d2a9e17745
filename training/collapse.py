"""Two signs that an encoder has collapsed: it says the same of every image, or uses few of its directions.

A loss falls just as well while the features become constant; these numbers see it, without labels. The standard
deviation sees constant features and is blind to few directions (a single one with both signs has 0.8); the rank
sees those. The rank is at most the number of images, and is to be compared between runs of one method, as its
paper says: it has no threshold here.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from training.errors import ConfigError

# At 0.1 in every channel the cosine of two images is 0.99 on average. An untrained ResNet-18 has 0.35 after its
# last ReLU on Tiny ImageNet, a Gaussian's positive part 0.83.
LEAST_STD = 0.1


def feature_std(features: Tensor) -> float:
    """√d times the mean over channels of the standard deviation of the features, each image's scaled to length 1.

    features: (n, d) float, n at least 1. In [0, 1]: 0 where all images have the same features up to their length,
    1 for an isotropic Gaussian (SimSiam, arXiv 2011.10566, section 4.1, there of the projection). Features that
    follow a ReLU have a mean, and stay below 1 when they are well.
    """
    unit = F.normalize(features.double())  # (n, d)
    return float(unit.std(0, correction=0).mean()) * math.sqrt(features.shape[1])


def effective_rank(features: Tensor) -> float:
    """How many directions the features use: exp of the entropy of the singular values' shares of their sum.

    features: (n, d) float, not centred. In [1, min(n, d)], or 0 where all are 0 (RankMe, arXiv 2210.02885,
    equation 1; its ε = 1e-7 stands there against log 0, and is not needed).
    """
    values = torch.linalg.svdvals(features.double())  # (min(n, d),)
    total = values.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def check_finite(features: Tensor) -> None:
    """Refuses what no probe can read: features (n, d) of an encoder that diverged.

    Raises:
        ConfigError: some features are infinite or not a number.
    """
    broken = int((~features.isfinite().all(1)).sum())
    if broken:
        raise ConfigError(
            f"the features of {broken} of {len(features)} images are not finite numbers: the encoder has diverged; "
            "evaluate another run"
        )


def collapsed(std: float) -> bool:
    """Whether that `feature_std` is a collapsed encoder's. What is not a number is taken for one."""
    return not std >= LEAST_STD


def collapse_warning(std: float) -> str:
    """What to tell the user whose encoder has collapsed, in one sentence."""
    return (
        f"the features of all images are nearly the same (standard deviation {std:.3f}; 1 is widely spread, below "
        f"{LEAST_STD:g} is collapsed) and tell nothing apart; lower the learning rate or take larger batches"
    )
