"""The mode `auto`: which images one pass leaves in doubt, and what becomes of them. NumPy only; runs no graph.

One pass answers every image; where its confidence (the largest probability) is at or below the threshold, the other
copies are run as well and the image gets the answer of all of them. Threshold 0 escalates nothing, 1 everything.
"""

import numpy as np
from numpy.typing import NDArray

from serving.manifest import AGGREGATED, Manifest

Probabilities = NDArray[np.float32]
Doubt = NDArray[np.bool_]


def in_doubt(probabilities: Probabilities, threshold: float) -> Doubt:
    """Which images the first pass leaves in doubt, (B,) bool. probabilities: its answers, (B, N)."""
    doubt: Doubt = probabilities.max(axis=1) <= np.float32(threshold)
    return doubt


def merged(first: Probabilities, doubt: Doubt, rest: Probabilities) -> Probabilities:
    """The answers to all images, (B, N): the first pass's (B, N), but for those in doubt, in order, the rest's."""
    answers = first.copy()
    answers[doubt] = rest
    return answers


def rest_passes(manifest: Manifest) -> int:
    """How many more images go through a network for one in doubt. The manifest must have `auto`."""
    assert manifest.auto is not None
    rest = manifest.auto.rest
    return (manifest.modes[AGGREGATED] if rest is None else rest).forward_passes


def passes(manifest: Manifest, doubt: Doubt) -> NDArray[np.int64]:
    """How many images went through a network for each answer, (B,) int64. The manifest must have `auto`."""
    assert manifest.auto is not None
    first = manifest.modes[manifest.auto.first].forward_passes
    return first + doubt.astype(np.int64) * rest_passes(manifest)
