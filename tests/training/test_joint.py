import pytest
import torch
from torch.nn import functional

from tests import oracles
from training.joint import aggregate, conditional, joint_targets, logits_under, own_logits


def random_joint(batch: int, copies: int, classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, copies, classes, copies, dtype=torch.float64, generator=generator)


def test_joint_targets_are_class_times_m_plus_transformation():
    targets = joint_targets(functional.one_hot(torch.tensor([0, 2, 1]), 3).float(), 4)
    assert targets.argmax(2).tolist() == [[0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7]]
    assert targets.sum(2).tolist() == [[1.0] * 4] * 3


def test_joint_targets_of_one_transformation_are_the_targets():
    targets = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    assert torch.equal(joint_targets(targets, 1), targets[:, None])


def test_joint_targets_name_every_pair_once():
    targets = joint_targets(torch.eye(5), 3)
    assert sorted(targets.argmax(2).flatten().tolist()) == list(range(15))


def test_uncertain_class_stays_within_the_copys_own_transformation():
    targets = joint_targets(torch.tensor([[0.3, 0.0, 0.7]]), 2)
    assert targets[0, 0].view(3, 2)[:, 0].tolist() == pytest.approx([0.3, 0.0, 0.7])
    assert targets[0, 1].view(3, 2)[:, 1].tolist() == pytest.approx([0.3, 0.0, 0.7])
    assert targets[0, 0].view(3, 2)[:, 1].tolist() == [0.0] * 3


def test_aggregate_matches_the_loop():
    joint = random_joint(5, 4, 3)
    torch.testing.assert_close(aggregate(joint), oracles.aggregated(joint), atol=1e-12, rtol=0)


def test_aggregate_of_one_image_and_one_transformation_is_the_head_itself():
    joint = random_joint(1, 1, 6)
    torch.testing.assert_close(aggregate(joint), joint[:, 0, :, 0], atol=0, rtol=0)


def test_aggregate_reads_nothing_but_each_copys_own_column():
    joint = random_joint(2, 3, 4)
    other = joint.clone()
    for copy in range(3):
        for column in range(3):
            if copy != column:
                other[:, copy, :, column] += 100
    torch.testing.assert_close(aggregate(joint), aggregate(other), atol=0, rtol=0)


def test_aggregate_follows_a_permutation_of_the_classes():
    joint, order = random_joint(5, 4, 3), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        aggregate(joint[:, :, order]), aggregate(joint)[:, order], atol=0, rtol=0
    )


def test_conditional_is_the_probability_of_the_equation():
    joint = random_joint(5, 4, 3)
    for j in range(4):
        found = conditional(joint, j).softmax(1)
        torch.testing.assert_close(found, oracles.conditional(joint, j), atol=1e-12, rtol=0)


def test_conditional_is_the_joint_probability_given_the_transformation():
    joint = random_joint(2, 4, 3)
    table = joint[:, 0].flatten(1).softmax(1).unflatten(1, (3, 4))  # P(i, j | x), (B, N, M)
    expected = table[:, :, 0] / table[:, :, 0].sum(1, keepdim=True)
    torch.testing.assert_close(conditional(joint).softmax(1), expected, atol=1e-12, rtol=0)


def test_conditional_of_the_identity_needs_the_identitys_copy_alone():
    joint = random_joint(3, 4, 2)
    torch.testing.assert_close(conditional(joint[:, :1]), conditional(joint), atol=0, rtol=0)


def test_own_logits_are_each_copys_conditional_and_average_to_the_aggregate():
    joint = random_joint(3, 4, 2)
    own = own_logits(joint)
    assert own.shape == (3, 4, 2)
    for j in range(4):
        torch.testing.assert_close(own[:, j], conditional(joint, j), atol=0, rtol=0)
    torch.testing.assert_close(own.mean(1), aggregate(joint), atol=1e-12, rtol=0)


def test_logits_under_read_every_copy_by_its_own_transformation():
    joint = random_joint(3, 4, 2)[:, :2]
    under = torch.tensor([[3, 0], [1, 2], [2, 2]])
    found = logits_under(joint, under)
    for image in range(3):
        for copy in range(2):
            expected = joint[image, copy, :, under[image, copy]]
            torch.testing.assert_close(found[image, copy], expected, atol=0, rtol=0)
