"""The losses of the self-supervised methods as slow Python loops in float64, written from the papers' equations.

Nothing of the code under test is used here. Tensors come in, (b, d) each; numbers go out.
"""

import math

from torch import Tensor

Rows = list[list[float]]


def unit(row: list[float]) -> list[float]:
    """v / ‖v‖."""
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def simsiam(p_1: Tensor, p_2: Tensor, z_1: Tensor, z_2: Tensor) -> float:
    """SimSiam, equations 1 and 2: ½ D(p_1, z_2) + ½ D(p_2, z_1), D(p, z) = -p/‖p‖ · z/‖z‖."""
    losses = [
        -0.5 * dot(unit(p_a), unit(z_b)) - 0.5 * dot(unit(p_b), unit(z_a))
        for p_a, p_b, z_a, z_b in zip(
            p_1.tolist(), p_2.tolist(), z_1.tolist(), z_2.tolist(), strict=True
        )
    ]
    return sum(losses) / len(losses)


def byol(p_1: Tensor, p_2: Tensor, z_1: Tensor, z_2: Tensor) -> float:
    """BYOL, equation 2, of both orders: the squared distance of the directions."""
    loss = 0.0
    for prediction, target in ((p_1, z_2), (p_2, z_1)):
        for p, z in zip(prediction.tolist(), target.tolist(), strict=True):
            loss += sum((a - b) ** 2 for a, b in zip(unit(p), unit(z), strict=True))
    return loss / len(p_1)


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float) -> float:
    """SimCLR, equation 1, the views of an image beside each other: (0, 1), (2, 3), …"""
    rows = [unit(row) for pair in zip(z_1.tolist(), z_2.tolist(), strict=True) for row in pair]
    loss = 0.0
    for i, row in enumerate(rows):
        exponentials = {
            k: math.exp(dot(row, other) / temperature) for k, other in enumerate(rows) if k != i
        }
        partner = i + 1 if i % 2 == 0 else i - 1
        loss -= math.log(exponentials[partner] / sum(exponentials.values()))
    return loss / len(rows)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> float:
    """MoCo, equation 1. queue: (K, d) of any length, normalised here."""
    negatives = [unit(row) for row in queue.tolist()]
    loss = 0.0
    for q, k in zip(queries.tolist(), keys.tolist(), strict=True):
        positive = math.exp(dot(unit(q), unit(k)) / temperature)
        rest = sum(math.exp(dot(unit(q), n) / temperature) for n in negatives)
        loss -= math.log(positive / (positive + rest))
    return loss / len(queries)


def sinkhorn(scores: Tensor, epsilon: float, steps: int) -> Rows:
    """SwAV, equation 5 and its listing: Q (K, B) = exp(scoresᵀ / ε), rows to 1/K, columns to 1/B, and again.

    Returns B rows of K numbers, each summing to 1.
    """
    table = scores.tolist()
    images, prototypes = len(table), len(table[0])
    q = [[math.exp(table[b][k] / epsilon) for b in range(images)] for k in range(prototypes)]
    for _ in range(steps):
        for k in range(prototypes):
            total = sum(q[k])
            q[k] = [value / total / prototypes for value in q[k]]
        for b in range(images):
            total = sum(q[k][b] for k in range(prototypes))
            for k in range(prototypes):
                q[k][b] /= total * images
    return [[q[k][b] * images for k in range(prototypes)] for b in range(images)]


def swav(s_1: Tensor, s_2: Tensor, temperature: float, epsilon: float, steps: int) -> float:
    """SwAV, equations 1 and 2: ℓ(z_1, q_2) + ℓ(z_2, q_1)."""
    loss = 0.0
    for scores, other in ((s_1, s_2), (s_2, s_1)):
        for row, code in zip(scores.tolist(), sinkhorn(other, epsilon, steps), strict=True):
            total = sum(math.exp(value / temperature) for value in row)
            loss -= sum(
                q * math.log(math.exp(value / temperature) / total)
                for q, value in zip(code, row, strict=True)
            )
    return loss / len(s_1)
