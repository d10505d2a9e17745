import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import recall_score

from tests import oracles
from tests.training.test_evaluate import answers
from training.confusion import as_json, class_accuracies, confusion_matrix, most_confused


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("n", [1, 100])
def test_confusion_matrix_is_that_of_the_loop_and_of_sklearn(n: int, classes: int):
    given, labels = answers(n, classes)
    found = confusion_matrix(given, labels)
    assert found.tolist() == oracles.confusion(given, labels)
    expected = sklearn_confusion_matrix(labels, given.argmax(1), labels=range(classes))
    assert found.tolist() == expected.tolist()


def test_rows_are_the_truth():
    given = torch.eye(3)[[2, 2, 1]]
    found = confusion_matrix(given, torch.tensor([0, 0, 1]))
    assert found.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_class_accuracies_are_recalls_and_none_without_images():
    given, labels = answers(90, 4)
    kept = labels != 2
    found = class_accuracies(confusion_matrix(given[kept], labels[kept]))
    expected = recall_score(labels[kept], given[kept].argmax(1), labels=[0, 1, 3], average=None)
    assert found[2] is None
    assert [found[0], found[1], found[3]] == pytest.approx(expected.tolist())


def test_most_confused_pairs_come_first_and_right_answers_never():
    confusion = torch.tensor([[50, 3, 0], [9, 40, 0], [3, 1, 0]])
    found = [tuple(pair) for pair in most_confused(confusion, 3)]
    assert found == [(1, 0, 9), (0, 1, 3), (2, 0, 3)]
    assert len(most_confused(confusion, 100)) == 4
    assert most_confused(torch.eye(3, dtype=torch.int64), 5) == []


def test_json_names_the_classes():
    found = as_json(torch.tensor([[3, 1], [0, 0]]), ("a", "b"))
    assert found == {
        "per_class": [
            {"class": "a", "n": 4, "accuracy": 0.75},
            {"class": "b", "n": 0, "accuracy": None},
        ],
        "confusion": [[3, 1], [0, 0]],
    }
