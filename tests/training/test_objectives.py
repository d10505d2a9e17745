import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import oracles
from training.errors import ConfigError
from training.evaluate import MODES
from training.joint import aggregate
from training.objectives import (
    OBJECTIVES,
    Logits,
    Terms,
    baseline_loss,
    cross_entropy,
    da_loss,
    distill_loss,
    distillation_loss,
    mt_loss,
    objective,
    sla_loss,
    sla_sd_loss,
    smoothed,
)

SIZES = [(5, 4, 3), (1, 4, 3), (5, 1, 3), (1, 1, 2), (7, 2, 10)]  # B, M, N


def batch(b: int, m: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 logits (B, N) and (B, M, N, M), and labels (B,)."""
    generator = torch.Generator().manual_seed(seed)
    single = 3 * torch.randn(b, n, dtype=torch.float64, generator=generator)
    joint = 3 * torch.randn(b, m, n, m, dtype=torch.float64, generator=generator)
    return single, joint, torch.randint(n, (b,), generator=generator)


def hot(labels: Tensor, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Labels (B,) as targets (B, N)."""
    return F.one_hot(labels, n).to(dtype)


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_baseline_loss_matches_the_loop(b: int, m: int, n: int):
    single, _, labels = batch(b, m, n)
    expected = oracles.cross_entropy(single, labels)
    assert baseline_loss(single, hot(labels, n)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_sla_loss_matches_the_loop(b: int, m: int, n: int):
    _, joint, labels = batch(b, m, n)
    expected = oracles.joint_cross_entropy(joint, labels)
    assert sla_loss(joint, hot(labels, n)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_self_distillation_matches_the_loop(b: int, m: int, n: int, temperature: float):
    single, joint, _ = batch(b, m, n)
    expected = oracles.self_distillation(single, joint, temperature)
    found = distillation_loss(single, aggregate(joint), temperature=temperature)
    assert found.item() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_sla_sd_loss_matches_the_loop(b: int, m: int, n: int, beta: float):
    single, joint, labels = batch(b, m, n)
    expected = oracles.sla_sd(single, joint, labels, beta=beta, temperature=2.0)
    found = sla_sd_loss(single, joint, hot(labels, n), terms=Terms(beta, 2.0))
    assert found.item() == pytest.approx(expected, abs=1e-11)


def test_losses_of_a_network_that_knows_nothing_are_logarithms_of_the_number_of_labels():
    labels = torch.tensor([0, 2])
    assert baseline_loss(torch.zeros(2, 3), hot(labels, 3)).item() == pytest.approx(
        math.log(3), abs=1e-6
    )
    assert sla_loss(torch.zeros(2, 4, 3, 4), hot(labels, 3)).item() == pytest.approx(
        math.log(12), abs=1e-6
    )


def test_sla_loss_of_one_transformation_is_the_baseline():
    _, joint, labels = batch(5, 1, 3)
    torch.testing.assert_close(
        sla_loss(joint, hot(labels, 3)),
        baseline_loss(joint[:, 0, :, 0], hot(labels, 3)),
        atol=1e-12,
        rtol=0,
    )


def test_sla_loss_falls_when_the_right_joint_logit_grows():
    _, joint, labels = batch(4, 3, 5)
    better = joint.clone()
    for b, label in enumerate(labels.tolist()):
        for j in range(3):
            better[b, j, label, j] += 1
    assert sla_loss(better, hot(labels, 5)) < sla_loss(joint, hot(labels, 5))


def test_sla_loss_does_not_change_when_classes_change_places():
    _, joint, labels = batch(5, 4, 3)
    order = torch.tensor([2, 0, 1])  # new class k is old class order[k]
    permuted, renamed = joint[:, :, order], order.argsort()[labels]
    torch.testing.assert_close(
        sla_loss(permuted, hot(renamed, 3)), sla_loss(joint, hot(labels, 3)), atol=1e-12, rtol=0
    )


def test_distillation_does_not_change_when_classes_change_places():
    single, joint, _ = batch(5, 4, 3)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        distillation_loss(single[:, order], aggregate(joint[:, :, order]), temperature=2.0),
        distillation_loss(single, aggregate(joint), temperature=2.0),
        atol=1e-12,
        rtol=0,
    )


def test_distillation_is_zero_when_the_student_equals_the_teacher():
    _, joint, _ = batch(5, 4, 3)
    assert (
        abs(distillation_loss(aggregate(joint), aggregate(joint), temperature=2.0).item()) < 1e-12
    )


def test_distillation_is_positive_otherwise():
    single, joint, _ = batch(5, 4, 3)
    assert distillation_loss(single, aggregate(joint)).item() > 0.1


def test_distillation_of_two_classes_has_its_closed_form():
    single = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    joint = torch.tensor([math.log(3), 0.0], dtype=torch.float64).view(1, 1, 2, 1)  # P = 3/4, 1/4
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_loss(single, aggregate(joint)).item() == pytest.approx(expected, abs=1e-12)


def test_distillation_scales_with_the_temperature():
    single, joint, _ = batch(5, 4, 3)
    warm = distillation_loss(3 * single, aggregate(3 * joint), temperature=3.0)
    torch.testing.assert_close(
        warm, 9 * distillation_loss(single, aggregate(joint)), atol=1e-11, rtol=0
    )


def test_distillation_keeps_the_size_of_its_gradient_at_high_temperature():
    single, joint, _ = batch(5, 4, 3)
    single.requires_grad_()
    sizes = []
    for temperature in (100.0, 1000.0):
        loss = distillation_loss(single, aggregate(joint), temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, single)
        sizes.append(gradient.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert sizes[0] > 1e-3


def test_no_gradient_flows_through_the_teacher():
    single, joint, _ = batch(5, 4, 3)
    single.requires_grad_()
    joint.requires_grad_()
    distillation_loss(single, aggregate(joint), temperature=2.0).backward()
    assert joint.grad is None
    assert single.grad is not None
    assert single.grad.abs().sum() > 0


def test_gradient_of_the_joint_head_in_sla_sd_is_that_of_sla_alone():
    single, joint, labels = batch(5, 4, 3)
    joint.requires_grad_()
    (whole,) = torch.autograd.grad(sla_sd_loss(single, joint, hot(labels, 3)), joint)
    (alone,) = torch.autograd.grad(sla_loss(joint, hot(labels, 3)), joint)
    torch.testing.assert_close(whole, alone, atol=0, rtol=0)


def test_gradient_of_the_class_head_in_sla_sd_is_that_of_its_two_terms():
    single, joint, labels = batch(5, 4, 3)
    single.requires_grad_()
    (whole,) = torch.autograd.grad(
        sla_sd_loss(single, joint, hot(labels, 3), terms=Terms(beta=0.5)), single
    )
    teacher = oracles.aggregated(joint).softmax(1)
    onehot = F.one_hot(labels, 3)
    expected = ((single.softmax(1) - teacher) + 0.5 * (single.softmax(1) - onehot)) / 5
    torch.testing.assert_close(whole, expected.detach(), atol=1e-12, rtol=0)


def test_objective_by_name_calls_its_loss_with_its_settings():
    single, joint, labels = batch(5, 4, 3)
    logits = Logits(single, joint)
    found = objective("sla-sd").loss(logits, hot(labels, 3), Terms(beta=0.3, temperature=2.0))
    expected = oracles.sla_sd(single, joint, labels, beta=0.3, temperature=2.0)
    assert found.item() == pytest.approx(expected, abs=1e-11)
    baseline = objective("baseline").loss(
        Logits(single, None), hot(labels, 3), Terms(9.0, 9.0, True)
    )
    assert baseline.item() == pytest.approx(oracles.cross_entropy(single, labels), abs=1e-12)


def test_unknown_objective_lists_the_valid_ones():
    with pytest.raises(
        ConfigError, match=r"'slasd'.*'baseline', 'da', 'distill', 'mt', 'sla', 'sla-sd'"
    ):
        objective("slasd")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_modes_of_an_objective_are_known_and_use_heads_that_it_trains(name: str):
    chosen = objective(name)
    heads = {"plain": "class", "distilled": "class", "single": "joint", "aggregated": "joint"}
    assert set(chosen.modes) <= set(MODES)
    for mode in chosen.modes:
        assert chosen.class_head if heads[mode] == "class" else chosen.joint_head


def class_and_transformation(b: int, m: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 logits (B, M, N) and (B, M, M), and labels (B,)."""
    generator = torch.Generator().manual_seed(1)
    copies = 3 * torch.randn(b, m, n, dtype=torch.float64, generator=generator)
    transformation = 3 * torch.randn(b, m, m, dtype=torch.float64, generator=generator)
    return copies, transformation, torch.randint(n, (b,), generator=generator)


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_da_loss_matches_the_loop(b: int, m: int, n: int):
    copies, _, labels = class_and_transformation(b, m, n)
    expected = oracles.augmented_cross_entropy(copies, labels)
    assert da_loss(copies, hot(labels, n)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_mt_loss_matches_the_loop(b: int, m: int, n: int):
    copies, transformation, labels = class_and_transformation(b, m, n)
    expected = oracles.multi_task(copies, transformation, labels)
    assert mt_loss(copies, transformation, hot(labels, n)).item() == pytest.approx(
        expected, abs=1e-12
    )


def test_losses_of_uniform_logits_are_logarithms_of_the_number_of_answers():
    labels = torch.tensor([0, 2])
    assert da_loss(torch.zeros(2, 4, 3), hot(labels, 3)).item() == pytest.approx(math.log(3))
    found = mt_loss(torch.zeros(2, 4, 3), torch.zeros(2, 4, 4), hot(labels, 3)).item()
    assert found == pytest.approx(math.log(3) + math.log(4))
    assert sla_loss(torch.zeros(2, 4, 3, 4), hot(labels, 3)).item() == pytest.approx(math.log(12))


def test_da_of_one_copy_is_the_baseline():
    copies, _, labels = class_and_transformation(5, 1, 3)
    torch.testing.assert_close(
        da_loss(copies, hot(labels, 3)), baseline_loss(copies[:, 0], hot(labels, 3))
    )


def test_da_and_mt_reach_every_copy_and_every_head():
    copies, transformation, labels = class_and_transformation(3, 4, 5)
    copies.requires_grad_()
    transformation.requires_grad_()
    mt_loss(copies, transformation, hot(labels, 5)).backward()
    assert copies.grad is not None
    assert transformation.grad is not None
    assert (copies.grad.abs().sum(2) > 0).all()
    assert (transformation.grad.abs().sum(2) > 0).all()


@pytest.mark.parametrize("name", ["da", "mt", "sla"])
def test_large_loss_is_the_sum_over_the_copies(name: str):
    copies, transformation, labels = class_and_transformation(5, 4, 3)
    _, joint, _ = batch(5, 4, 3)
    logits, targets = Logits(None, joint, copies, transformation), hot(labels, 3)
    loss = objective(name).loss
    torch.testing.assert_close(
        loss(logits, targets, Terms(sum_copies=True)), 4 * loss(logits, targets, Terms())
    )


def test_large_loss_of_sla_sd_sums_the_joint_term_alone():
    single, joint, labels = batch(5, 4, 3)
    targets = hot(labels, 3)
    mean = sla_sd_loss(single, joint, targets)
    summed = sla_sd_loss(single, joint, targets, terms=Terms(sum_copies=True))
    torch.testing.assert_close(summed - mean, 3 * sla_loss(joint, targets))


def soft(b: int, n: int) -> Tensor:
    """Random targets (B, N) that sum to 1."""
    generator = torch.Generator().manual_seed(2)
    return torch.rand(b, n, dtype=torch.float64, generator=generator).softmax(1)


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_cross_entropy_of_soft_targets_weights_and_margins_matches_the_loop(b: int, m: int, n: int):
    single, _, _ = batch(b, m, n)
    weights, margins = torch.rand(2, n, dtype=torch.float64) + 0.1
    found = cross_entropy(single, soft(b, n), terms=Terms(weights=weights, margins=margins))
    expected = oracles.soft_cross_entropy(single, soft(b, n), weights.tolist(), margins.tolist())
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("joint_labels", [False, True])
def test_mean_over_the_parts_of_a_weighted_batch_is_that_of_the_batch(joint_labels: bool):
    single, joint, _ = batch(6, 4, 3)
    targets, weights = soft(6, 3), torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    loss, given = (sla_loss, joint) if joint_labels else (baseline_loss, single)
    whole = loss(given, targets, terms=Terms(weights=weights))
    terms = Terms(weights=weights, mean_weight=(targets @ weights).mean())
    parts = [loss(given[rows], targets[rows], terms=terms) for rows in (slice(0, 3), slice(3, 6))]
    assert ((parts[0] + parts[1]) / 2).item() == pytest.approx(whole.item(), abs=1e-12)
    assert abs(parts[0] - parts[1]) > 0.01


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_joint_labels_take_the_weight_and_the_margin_of_their_class(b: int, m: int, n: int):
    _, joint, _ = batch(b, m, n)
    weights, margins = torch.rand(2, n, dtype=torch.float64) + 0.1
    found = sla_loss(joint, soft(b, n), terms=Terms(weights=weights, margins=margins))
    tables = torch.zeros(b, m, n, m, dtype=torch.float64)
    for j in range(m):
        tables[:, j, :, j] = soft(b, n)
    spread = [
        [value for value in values.tolist() for _ in range(m)] for values in (weights, margins)
    ]
    expected = oracles.soft_cross_entropy(
        joint.reshape(b * m, n * m), tables.reshape(b * m, n * m), *spread
    )
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_loss_of_a_mixed_target_is_the_mixture_of_the_losses():
    single, joint, labels = batch(5, 4, 3)
    one, two = hot(labels, 3), hot((labels + 1) % 3, 3)
    mixed = 0.3 * one + 0.7 * two
    for loss, logits in ((baseline_loss, single), (sla_loss, joint)):
        expected = 0.3 * loss(logits, one) + 0.7 * loss(logits, two)
        torch.testing.assert_close(loss(logits, mixed), expected, atol=1e-12, rtol=0)


def test_smoothing_spreads_its_share_over_all_classes():
    found = smoothed(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), 0.2)
    torch.testing.assert_close(found, torch.tensor([[0.05, 0.85, 0.05, 0.05]]))
    assert torch.equal(smoothed(torch.eye(3), 0.0), torch.eye(3))


@pytest.mark.parametrize(("b", "m", "n"), SIZES)
def test_distill_loss_matches_the_loop(b: int, m: int, n: int):
    single, joint, labels = batch(b, m, n)
    teacher = aggregate(joint)
    found = distill_loss(single, teacher, hot(labels, n), terms=Terms(beta=0.3, temperature=2.0))
    expected = oracles.distillation(single, teacher, 2.0) + 0.3 * oracles.cross_entropy(
        single, labels
    )
    assert found.item() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("name", ["sla-sd", "distill"])
def test_objectives_with_a_teacher_listen_to_it_and_send_it_no_gradient(name: str):
    single, joint, labels = batch(5, 4, 3)
    teacher = (2 * single).roll(1, 0).requires_grad_()
    logits = Logits(single.requires_grad_(), joint, teacher=teacher)
    objective(name).loss(logits, hot(labels, 3), Terms(beta=0.0)).backward()
    assert teacher.grad is None
    expected = (single.softmax(1) - teacher.softmax(1)) / 5
    torch.testing.assert_close(single.grad, expected.detach(), atol=1e-12, rtol=0)
