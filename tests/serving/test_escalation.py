from pathlib import Path

import numpy as np
import pytest

from serving import escalation
from serving.bundle import read
from tests.bundles import write_auto

PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, [False, False, False]),
        (0.49, [False, False, False]),
        (0.5, [True, False, False]),
        (float(np.float32(0.9)), [True, True, False]),
        (0.9, [True, True, False]),
        (1.0, [True, True, True]),
    ],
)
def test_an_image_is_in_doubt_at_the_threshold_and_below(threshold: float, expected: list[bool]):
    assert escalation.in_doubt(PROBABILITIES, threshold).tolist() == expected


def test_nothing_is_in_doubt_of_no_images():
    assert escalation.in_doubt(PROBABILITIES[:0], 0.5).shape == (0,)


def test_images_in_doubt_get_the_rests_answers_in_order():
    doubt = np.array([True, False, True])
    rest = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    found = escalation.merged(PROBABILITIES, doubt, rest)
    np.testing.assert_array_equal(found, [[1, 2, 3], PROBABILITIES[1], [4, 5, 6]])
    assert PROBABILITIES[0, 0] == 0.5  # the first pass's own answers are left alone


@pytest.mark.parametrize(("shared", "in_doubt"), [(True, 4), (False, 5)])
def test_the_identity_is_run_once_where_the_first_pass_was_its(
    tmp_path: Path, shared: bool, in_doubt: int
):
    manifest = read(write_auto(tmp_path, shared=shared)).manifest
    found = escalation.passes(manifest, np.array([False, True]))
    assert found.tolist() == [1, in_doubt]
