import pytest
import torch

from tests.training.test_evaluate import batches, network
from training.copies import (
    TOLD,
    VOTED,
    copy_accuracy,
    readings,
    transformation_logits,
    votes,
)
from training.evaluate import read
from training.objectives import Logits

N, M = 3, 4


def test_a_copys_transformation_is_told_by_all_the_classes_together():
    """Two classes that share their doubt of the class are no doubt of the transformation."""
    joint = torch.zeros(1, M, N, M)
    joint[0, 0, :2, 1] = 2.0  # class 0 or 1, under transformation 1: 2 e^2 of all
    joint[0, 0, 2, 3] = 2.5  # the most probable joint label, of another
    found = transformation_logits(Logits(single=None, joint=joint))
    assert found is not None
    probable = joint.double().flatten(2).softmax(2).reshape(1, M, N, M)
    torch.testing.assert_close(found.double().softmax(2), probable.sum(2))
    assert found[0, 0].argmax() == 1


def test_a_transformation_head_is_asked_where_there_is_no_joint_head():
    head, copies = torch.randn(2, M, M), torch.randn(2, M, N)
    logits = Logits(single=None, joint=None, copies=copies, transformation=head)
    assert transformation_logits(logits) is head
    assert votes(logits) is copies


@pytest.mark.parametrize("objective", ["sla", "sla-sd", "mt"])
def test_what_is_read_of_a_split_are_the_networks_own_answers(objective: str):
    asked, data = network(objective), batches()
    found, labels = read(readings(asked), data, batch_size=4)
    with torch.inference_mode():
        logits = asked(data.images)
    told, voted = transformation_logits(logits), votes(logits)
    assert told is not None
    assert voted is not None
    assert torch.equal(found[TOLD], told.argmax(2))
    assert torch.equal(found[VOTED], voted.argmax(2))
    assert torch.equal(labels, data.labels)


@pytest.mark.parametrize("objective", ["baseline", "da"])
def test_nothing_is_read_where_no_head_tells_transformations(objective: str):
    assert readings(network(objective)) == {}


def test_copies_are_counted_by_class_and_transformation():
    labels = torch.tensor([2, 0, 2])
    told = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [3, 1, 2, 0]])
    voted = torch.tensor([[2, 2, 0, 2], [0, 1, 0, 0], [2, 2, 2, 2]])
    found = copy_accuracy({TOLD: told, VOTED: voted}, labels, N)
    assert found.images.tolist() == [1, 0, 2]
    assert found.transformation.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 2, 2, 1]]
    assert found.label.tolist() == [[1, 0, 1, 1], [0, 0, 0, 0], [2, 2, 1, 2]]
