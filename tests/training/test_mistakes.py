import pytest
import torch

from tests import oracles
from tests.training.test_evaluate import answers, batches, network
from training.mistakes import Vote, copies_of, worst_mistakes
from training.transformations import transformed_copies


def test_worst_mistakes_are_wrong_and_the_most_confident_first():
    given, labels = answers(200, 4)
    found = worst_mistakes(given, labels, 10)
    wrong = [
        (max(row), place)
        for place, (row, label) in enumerate(zip(given.tolist(), labels.tolist(), strict=True))
        if row.index(max(row)) != label
    ]
    assert [mistake.place for mistake in found] == [p for _, p in sorted(wrong, reverse=True)][:10]
    for mistake in found:
        row = given[mistake.place].tolist()
        order = sorted(range(4), key=lambda k: -row[k])[:3]
        assert mistake.top == tuple(Vote(k, row[k]) for k in order)
        assert mistake.truth == labels[mistake.place] != mistake.top[0].label


def test_a_perfect_answer_has_no_mistakes():
    assert worst_mistakes(torch.eye(3), torch.arange(3), 5) == []
    assert copies_of(network(), batches(), [], batch_size=4) is None


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("objective", ["sla", "sla-sd"])
def test_a_copy_of_a_joint_head_votes_by_its_own_column_block(objective: str, batch_size: int):
    data, places = batches(), [7, 3, 11]
    found = copies_of(network(objective), data, places, batch_size=batch_size)
    assert found is not None
    images = data.images[places]
    assert torch.equal(found.images, transformed_copies(images, network(objective).transformations))
    joint = network(objective)(images).joint
    for j in range(4):
        expected = oracles.conditional(joint, j)
        for row, votes in zip(expected, found.votes, strict=True):
            assert votes[j].label == row.argmax()
            assert votes[j].confidence == pytest.approx(row.max().item(), abs=1e-6)


@pytest.mark.parametrize("objective", ["da", "mt"])
def test_a_copy_without_a_joint_head_votes_by_the_class_head(objective: str):
    data, places = batches(), [1, 0]
    found = copies_of(network(objective), data, places, batch_size=8)
    assert found is not None
    expected = network(objective)(data.images[places]).copies.softmax(2).max(2)
    labels = [[vote.label for vote in votes] for votes in found.votes]
    assert labels == expected.indices.tolist()
    assert found.votes[1][2].confidence == pytest.approx(expected.values[1, 2].item(), abs=1e-6)


def test_a_baseline_has_no_copies():
    data = batches()
    found = copies_of(network("baseline"), data, [4, 2], batch_size=1)
    assert found is not None
    assert torch.equal(found.images, data.images[[4, 2]][:, None])
    assert found.votes == [[], []]
