"""Few-shot evaluation of frozen features: many small problems of a few new classes, and the mean of their accuracies.

An episode draws `ways` classes, of each `shots` images to learn from and `queries` others to be asked about. The
classifier is that of AugSelf's released code, logistic regression of each class against the rest with ½ ‖θ‖² and the
bias in θ (liblinear's, C = 1), on features as they are: numbers compare. Here it is solved to a stated tolerance, by
Newton's method, for many episodes at once; what that takes: benchmarks/results/logistic.json.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.collapse import check_finite
from training.errors import ConfigError
from training.evaluate import Z_95

AT_ONCE = 100  # episodes: 43 MB of features at 5 ways, 21 images a class and 512 features
TOLERANCE = 1e-8  # nats that a problem's objective may be above its least value; the first is log 2 an image
MOST_STEPS = 100  # Newton's; the features that were tried took 4 to 9
LENGTHS = tuple(2.0**-halvings for halvings in range(16))  # of Newton's step; the best is taken


@dataclass(frozen=True)
class FewShot:
    """The mean accuracy of n episodes, in [0, 1], give or take interval95: 95 % of such means are so near the true one.

    The interval is of the draw of episodes from these images, not of other images or another encoder.
    left_out: classes with too few images, never drawn. converged: whether every problem was solved to `TOLERANCE`.
    """

    mean: float
    interval95: float
    n: int
    left_out: tuple[int, ...]
    converged: bool


def episodes(
    features: Tensor,
    labels: Tensor,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 16,
    count: int = 2000,
    seed: int = 0,
) -> FewShot:
    """How well new classes are learnt from a few images. features: (n, d) float, labels: (n,) int64, at least 0.

    The same seed draws the same episodes for any features of the same labels: encoders are asked the same. The
    released code repeats images where a class has too few queries; here such classes are left out.

    Raises:
        ConfigError: fewer classes than ways have enough images, or a number is too small.
    """
    check_finite(features)
    _check(ways=ways, shots=shots, queries=queries, count=count)
    pools = _pools(labels.cpu(), ways, shots + queries)
    drawn = _draw(pools, ways, shots + queries, count, torch.Generator().manual_seed(seed))
    solved = [
        _accuracies(features, some.to(features.device), shots) for some in drawn.split(AT_ONCE)
    ]
    accuracies = torch.cat([accuracy for accuracy, _ in solved])
    interval95 = Z_95 * accuracies.std().item() / count**0.5
    converged = all(converged for _, converged in solved)
    return FewShot(accuracies.mean().item(), interval95, count, pools.left_out, converged)


def _check(**numbers: int) -> None:
    """Refuses what no episode can be made of: one way is never wrong, one episode has no interval."""
    least = {"ways": 2, "shots": 1, "queries": 1, "count": 2}
    for name, value in numbers.items():
        if value < least[name]:
            raise ConfigError(
                f"an evaluation with {name} = {value} tells nothing; give {least[name]} or more"
            )


@dataclass(frozen=True)
class _Pools:
    """The images of each class that can be drawn, C classes of them.

    order: (n,) int64, the images sorted by class. first: (C,), where in it each class begins; size: (C,).
    """

    order: Tensor
    first: Tensor
    size: Tensor
    left_out: tuple[int, ...]


def _pools(labels: Tensor, ways: int, needed: int) -> _Pools:
    size = labels.bincount()  # (N,)
    enough = size >= needed
    if enough.sum() < ways:
        raise ConfigError(
            f"episodes of {ways} ways need {ways} classes of at least {needed} images (shots and queries), got "
            f"{int(enough.sum())} such classes; ask for fewer ways, shots or queries, or choose other --data"
        )
    first = size.cumsum(0) - size
    left_out = tuple(((size > 0) & ~enough).nonzero().flatten().tolist())
    return _Pools(labels.argsort(stable=True), first[enough], size[enough], left_out)


def _draw(pools: _Pools, ways: int, images: int, count: int, generator: torch.Generator) -> Tensor:
    """Which images each episode takes: no class twice, no image twice. Returns (count, ways, images) int64."""
    keys = torch.rand(count, len(pools.size), generator=generator)
    classes = keys.argsort(1)[:, :ways]  # (count, ways)
    chosen = torch.empty(count, ways, 0, dtype=torch.int64)
    for place in range(images):
        # Floyd's algorithm: a number below one that grows; where it is taken already, that one itself
        last = pools.size[classes] - images + place  # (count, ways)
        below = torch.rand(count, ways, generator=generator, dtype=torch.float64) * (last + 1)
        drawn = below.long()
        taken = (chosen == drawn[..., None]).any(-1)
        chosen = torch.cat([chosen, torch.where(taken, last, drawn)[..., None]], dim=-1)
    # the places are drawn evenly, but the later ones tend to the end: shots and queries must not differ
    mixed = torch.rand(chosen.shape, generator=generator).argsort(-1)
    return pools.order[pools.first[classes][..., None] + chosen.gather(-1, mixed)]


def _accuracies(features: Tensor, drawn: Tensor, shots: int) -> tuple[Tensor, bool]:
    """The accuracy of each episode, (E,) float64, and whether all converged. drawn: (E, ways, images)."""
    ways, queries = drawn.shape[1], drawn.shape[2] - shots
    taken = features[drawn].double()  # (E, ways, images, d)
    support = taken[:, :, :shots].flatten(1, 2)  # (E, S, d), S = ways * shots, class by class
    asked = taken[:, :, shots:].flatten(1, 2)  # (E, ways * queries, d)
    # θ is a combination of the S images, so their products are all that is needed; + 1 for the bias
    kernel = support @ support.mT + 1  # (E, S, S)
    way = torch.arange(ways, device=features.device)
    signs = 2.0 * (way[:, None] == way.repeat_interleave(shots)).double() - 1  # (ways, S)
    dual, converged = solve(kernel[:, None], signs)  # (E, ways, S)
    scores = (asked @ support.mT + 1) @ dual.mT  # (E, ways * queries, ways)
    right = scores.argmax(-1) == way.repeat_interleave(queries)
    return right.double().mean(1), converged


def solve(kernel: Tensor, signs: Tensor) -> tuple[Tensor, bool]:
    """The dual weights α of many binary logistic regressions, θ = Σ_i α_i x_i, and whether all converged.

    Each minimises ½ αᵀKα + Σ_i log(1 + exp(-y_i (Kα)_i)) by Newton's method (as Rasmussen and Williams 2006,
    section 3.4). kernel K: (..., S, S) float64, products of the images; signs y: (..., S), ±1; what stands before
    S is broadcast. Returns (..., S). The objective is 1-strongly convex in θ: it is at most ½ ‖∇‖² too great.
    """
    shape = torch.broadcast_shapes(kernel.shape[:-1], signs.shape)
    dual = torch.zeros(shape, dtype=torch.float64, device=kernel.device)
    for _ in range(MOST_STEPS):
        margins = signs * _times(kernel, dual)
        wrong = torch.sigmoid(-margins)  # the probability of the other sign
        gradient = dual - signs * wrong  # ∇ = Σ_i gradient_i x_i
        steep = _times(kernel, gradient)
        if ((gradient * steep).sum(-1) / 2 <= TOLERANCE).all():
            return dual, True
        # (I + W K)⁻¹ = I - √W B⁻¹ √W K with B = I + √W K √W, which is well-conditioned also where W is 0
        root = (wrong * (1 - wrong)).sqrt()
        inner = torch.eye(shape[-1], dtype=torch.float64, device=kernel.device)
        inner = inner + root[..., :, None] * kernel * root[..., None, :]
        factor = torch.linalg.cholesky_ex(inner)[
            0
        ]  # where K is beyond float64 it is wrong: no convergence
        solved = torch.cholesky_solve((root * steep)[..., None], factor)[..., 0]
        step = root * solved - gradient
        dual = dual + _best_length(kernel, signs, dual, step)[..., None] * step
    return dual, False


def _best_length(kernel: Tensor, signs: Tensor, dual: Tensor, step: Tensor) -> Tensor:
    """Of `LENGTHS` the one that leaves the least objective, of each problem. Returns (...)."""
    lengths = torch.tensor(LENGTHS, dtype=torch.float64, device=kernel.device)
    values = []
    before, change = _times(kernel, dual), _times(kernel, step)
    for length in LENGTHS:
        fitted = before + length * change
        norm = ((dual + length * step) * fitted).sum(-1) / 2
        values.append(norm + F.softplus(-signs * fitted, threshold=800).sum(-1))
    return lengths[torch.stack(values).argmin(0)]


def _times(kernel: Tensor, dual: Tensor) -> Tensor:
    """K α. kernel: (..., S, S), dual: (..., S). Returns (..., S)."""
    return (kernel @ dual[..., None])[..., 0]
