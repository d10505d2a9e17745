"""The equations of SLA and of the calibration error as slow Python loops in float64, to hold fast code against.

SLA: Lee, Hwang, Shin, ICML 2020. N classes, M transformations, t_1 the identity; w_ij is the logit of
(class i, transformation j). Nothing of the code under test is used here.
"""

import math

import torch
from torch import Tensor

Rows = list[list[float]]


def log_softmax(logits: list[float]) -> list[float]:
    """log σ(s)_i = s_i - log Σ_k exp(s_k)."""
    largest = max(logits)
    log_sum = largest + math.log(sum(math.exp(value - largest) for value in logits))
    return [value - log_sum for value in logits]


def cross_entropy(single: Tensor, labels: Tensor) -> float:
    """Mean over the batch of -log σ(s_b)_{y_b}. single: (B, N), labels: (B,)."""
    rows, targets = single.tolist(), labels.tolist()
    losses = [-log_softmax(row)[label] for row, label in zip(rows, targets, strict=True)]
    return sum(losses) / len(losses)


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, weights: list[float], margins: list[float]
) -> float:
    """-Σ_bi w_i t_bi log σ(s_b - Δ ∘ t_b)_i / Σ_bi w_i t_bi. logits, targets: (B, N)."""
    loss = total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        lowered = [s - d * t for s, d, t in zip(row, margins, target, strict=True)]
        for w, t, p in zip(weights, target, log_softmax(lowered), strict=True):
            loss -= w * t * p
            total += w * t
    return loss / total


def inverse_weights(counts: list[int]) -> list[float]:
    """1 / n_y, times what makes the sum the number of classes."""
    return _summing_to_their_number([1 / count for count in counts])


def effective_weights(counts: list[int], beta: float) -> list[float]:
    """1 / E_n, E_n = (1 - β^n) / (1 - β), times what makes the sum the number of classes (Cui et al. 2019, 3 and 4)."""
    return _summing_to_their_number([(1 - beta) / (1 - beta**count) for count in counts])


def ldam_margins(counts: list[int], largest: float) -> list[float]:
    """Δ_y = C / n_y^(1/4), C such that the largest is as given (Cao et al. 2019, section 3)."""
    unscaled = [1 / math.sqrt(math.sqrt(count)) for count in counts]
    return [value * (largest / max(unscaled)) for value in unscaled]


def ldam_drw(
    logits: Tensor, labels: Tensor, counts: list[int], *, largest: float, scale: float, beta: float
) -> float:
    """Weighted mean of -log of exp(s(cos_y - Δ_y)) over itself and the other classes' exp(s cos_k). logits: s cos."""
    deltas, weights = ldam_margins(counts, largest), effective_weights(counts, beta)
    loss = total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        lowered = [value - scale * deltas[k] * (k == label) for k, value in enumerate(row)]
        loss -= weights[label] * log_softmax(lowered)[label]
        total += weights[label]
    return loss / total


def joint_cross_entropy(joint: Tensor, labels: Tensor) -> float:
    """(1/M) Σ_j CE(ρ(z_j; w), (y, j)), mean over the batch. joint: (B, M, N, M), labels: (B,)."""
    losses = []
    for copies, label in zip(joint.tolist(), labels.tolist(), strict=True):
        for j, table in enumerate(copies):  # table[i][k]: the logit of (class i, transformation k)
            flat = [value for row in table for value in row]
            losses.append(-log_softmax(flat)[label * len(copies) + j])
    return sum(losses) / len(losses)


def augmented_cross_entropy(copies: Tensor, labels: Tensor) -> float:
    """(1/M) Σ_j CE(σ(z_j; u), y), mean over the batch. copies: (B, M, N), labels: (B,)."""
    losses = []
    for rows, label in zip(copies.tolist(), labels.tolist(), strict=True):
        losses += [-log_softmax(row)[label] for row in rows]
    return sum(losses) / len(losses)


def multi_task(copies: Tensor, transformation: Tensor, labels: Tensor) -> float:
    """(1/M) Σ_j [CE(σ(z_j; u), y) + CE(σ(z_j; v), j)], mean over the batch. transformation: (B, M, M)."""
    which = []
    for rows in transformation.tolist():
        which += [-log_softmax(row)[j] for j, row in enumerate(rows)]
    return augmented_cross_entropy(copies, labels) + sum(which) / len(which)


def aggregated(joint: Tensor) -> Tensor:
    """s_i = (1/M) Σ_j w_ij(z_j): every copy reads its own column. joint: (B, M, N, M). Returns (B, N)."""
    return torch.tensor([_aggregated(copies) for copies in joint.tolist()], dtype=torch.float64)


def conditional(joint: Tensor, transformation: int = 0) -> Tensor:
    """P(i | x, j) = exp(w_ij(z_j)) / Σ_k exp(w_kj(z_j)). joint: (B, M, N, M). Returns probabilities (B, N)."""
    rows = []
    for copies in joint.tolist():
        own = [row[transformation] for row in copies[transformation]]
        rows.append([math.exp(value) for value in log_softmax(own)])
    return torch.tensor(rows, dtype=torch.float64)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T² KL(σ(teacher / T) ‖ σ(student / T)), mean over the batch. student, teacher: (B, N) logits."""
    divergences = []
    for row, target in zip(student.tolist(), teacher.tolist(), strict=True):
        right = log_softmax([value / temperature for value in target])
        answer = log_softmax([value / temperature for value in row])
        divergences.append(sum(math.exp(p) * (p - q) for p, q in zip(right, answer, strict=True)))
    return temperature**2 * sum(divergences) / len(divergences)


def self_distillation(single: Tensor, joint: Tensor, temperature: float) -> float:
    """T² KL(P_agg ‖ σ(z; u)) at temperature T, mean over the batch. single: (B, N), joint: (B, M, N, M)."""
    return distillation(single, aggregated(joint), temperature)


def sla_sd(
    single: Tensor, joint: Tensor, labels: Tensor, *, beta: float, temperature: float
) -> float:
    """L_SLA + T² KL(P_agg ‖ σ(z; u)) + β CE(σ(z; u), y)."""
    return (
        joint_cross_entropy(joint, labels)
        + self_distillation(single, joint, temperature)
        + beta * cross_entropy(single, labels)
    )


def top1(probabilities: Tensor, labels: Tensor) -> float:
    """The share of images whose most probable class is the right one."""
    right = [
        row.index(max(row)) == label
        for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
    ]
    return sum(right) / len(right)


def top_k(probabilities: Tensor, labels: Tensor, k: int) -> float:
    """The share of images whose right class is among the k most probable; of equal ones the first come first."""
    right = 0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        right += label in order[:k]
    return right / len(labels)


def confusion(probabilities: Tensor, labels: Tensor) -> list[list[int]]:
    """How many images of each class (row) were taken for each class (column)."""
    classes = probabilities.shape[1]
    table = [[0] * classes for _ in range(classes)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        table[label][row.index(max(row))] += 1
    return table


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """The mean of -log of the right class's probability."""
    rows, targets = probabilities.tolist(), labels.tolist()
    losses = [-math.log(row[label]) for row, label in zip(rows, targets, strict=True)]
    return sum(losses) / len(losses)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Σ_m |B_m| / n · |acc(B_m) - conf(B_m)|, B_m: confidences in ((m - 1)/bins, m/bins] (Guo et al. 2017, eq. 3)."""
    rows, targets = probabilities.tolist(), labels.tolist()
    error = 0.0
    for m in range(1, bins + 1):
        inside = [k for k, row in enumerate(rows) if (m - 1) / bins < max(row) <= m / bins]
        if inside:
            accuracy = sum(rows[k].index(max(rows[k])) == targets[k] for k in inside) / len(inside)
            confidence = sum(max(rows[k]) for k in inside) / len(inside)
            error += len(inside) / len(rows) * abs(accuracy - confidence)
    return error


def _summing_to_their_number(values: list[float]) -> list[float]:
    return [value * len(values) / sum(values) for value in values]


def _aggregated(copies: list[Rows]) -> list[float]:
    """copies: (M, N, M) of one image. Returns N logits."""
    classes, number = range(len(copies[0])), len(copies)
    return [sum(copies[j][i][j] for j in range(number)) / number for i in classes]
