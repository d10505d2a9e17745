"""A temperature for every mode, fitted on images that were held out from training.

Temperature scaling (Guo et al. 2017, section 4.2): one T a mode, which divides its logits and minimises their NLL.
The test split is never looked at here.
"""

from collections.abc import Mapping

from torch import Tensor

LEAST_IMAGES = 50  # below it T stays 1: what so few images would fit is mostly noise
COLDEST, HOTTEST = 0.05, 20.0  # of T
PRECISION = 1e-6  # relative, of T


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The T in [COLDEST, HOTTEST] for which softmax(logits / T) has the least NLL, to a relative 1e-6.

    logits: (n, N); labels: (n,) int64. Of 1 / T the NLL is convex and its slope is the mean over the images of
    (expected logit - logit of the label), whose change of sign is found by bisection, in float64. HOTTEST where an
    even hotter one would be better; None where an even colder one would: if every answer is right there is no best.
    """
    logits = logits.double()
    of_label = logits.gather(1, labels[:, None])[:, 0]

    def is_too_hot(temperature: float) -> bool:
        expected = ((logits / temperature).softmax(1) * logits).sum(1)
        return bool((expected - of_label).mean() < 0)

    low, high = COLDEST, HOTTEST
    if is_too_hot(low):
        return None
    if not is_too_hot(high):
        return HOTTEST
    while high / low > 1 + PRECISION:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_too_hot(middle) else (middle, high)
    return float((low * high) ** 0.5)


def temperatures(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """T of every mode; 1 where there are too few images to fit one, or where there is no best one."""
    if len(labels) < LEAST_IMAGES:
        return dict.fromkeys(logits, 1.0)
    return {mode: fit_temperature(values, labels) or 1.0 for mode, values in logits.items()}
