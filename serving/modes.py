"""What each mode asks of which graph, and what it makes of the answers. NumPy only; runs no graph.

`asked` is a generator: it yields what is to be run and is sent what came out, so that whoever runs graphs by
themselves (serving/predictor.py) and whoever runs them together with others' (serving/engine.py) follow one rule.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import escalation
from serving.images import Pixels
from serving.manifest import (
    AGGREGATED,
    ANSWERS,
    AUTO,
    AUTO_REST,
    IDENTITY_LOGITS,
    INPUT,
    PROBABILITIES,
    VOTES,
    Auto,
    Manifest,
)

Arrays = dict[str, NDArray[Any]]
Question = tuple[str, Arrays, Sequence[str]]  # a graph, its inputs, the outputs that are wanted


@dataclass(frozen=True)
class Answered:
    """What a mode says of some images, and what it took.

    values: (B, N) probabilities or (B, D) embeddings, float32. passes: (B,) int64, how many images went through a
    network for each. shown: what was wanted of the copies, (B, M, ...) each.
    """

    values: NDArray[np.float32]
    passes: NDArray[np.int64]
    shown: tuple[NDArray[Any], ...] = ()


Asking = Generator[Question, list[NDArray[Any]], Answered]


def asked(
    manifest: Manifest, images: Pixels, mode: str, wanted: Sequence[str] = (), by: str = ""
) -> Asking:
    """The questions of a mode about images (B, H, W, 3) uint8, one after the other; it ends with the answer.

    wanted: of VOTES and COPIES, what is to be shown of the copies of every image. by: the mode whose graphs say it,
    one of `voting_modes`; `auto` says it itself.
    """
    if mode == AUTO and manifest.auto is not None:
        return (yield from _auto(manifest, manifest.auto, images, wanted))
    own = wanted if mode == by else ()
    values, *shown = yield mode, {INPUT: images}, [ANSWERS[manifest.task], *own]
    answered = Answered(
        values, np.full(len(images), manifest.modes[mode].forward_passes), tuple(shown)
    )
    if len(own) == len(wanted):
        return answered
    more = yield from asked(manifest, images, by, wanted, by)
    return Answered(values, answered.passes + more.passes, more.shown)


def graphs_of(manifest: Manifest, mode: str) -> tuple[str, ...]:
    """The graphs that a mode runs: its own, or for `auto` the first pass and the rest. mode: one of mode_names."""
    if mode != AUTO or manifest.auto is None:
        return (mode,)
    return (manifest.auto.first, AGGREGATED if manifest.auto.rest is None else AUTO_REST)


def voting_modes(manifest: Manifest) -> list[str]:
    """The modes whose graphs say what each copy votes; `auto`, where it is one of them, is the last."""
    return [
        mode
        for mode in (*manifest.modes, *([] if manifest.auto is None else [AUTO]))
        if any(
            tensor.name == VOTES
            for tensor in manifest.graphs[graphs_of(manifest, mode)[-1]].outputs
        )
    ]


def best(probabilities: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The most probable classes, best first, the earlier one of two that are equal: (..., N) to (..., count)."""
    return (-probabilities).argsort(axis=-1, kind="stable")[..., :count]


def _auto(manifest: Manifest, auto: Auto, images: Pixels, wanted: Sequence[str]) -> Asking:
    """One pass for all images; the rest for those in doubt, or for all where their copies are to be shown."""
    outputs = [PROBABILITIES] if auto.rest is None else [PROBABILITIES, IDENTITY_LOGITS]
    first, *identity = yield auto.first, {INPUT: images}, outputs
    doubt = escalation.in_doubt(first, auto.threshold)  # (B,)
    further = doubt | bool(wanted)
    passes = escalation.passes(manifest, further)
    if not further.any():
        return Answered(first, passes)
    feeds: Arrays = {INPUT: images[further]}
    if auto.rest is not None:
        feeds[IDENTITY_LOGITS] = identity[0][further]
    rest, *shown = yield graphs_of(manifest, AUTO)[1], feeds, [PROBABILITIES, *wanted]
    return Answered(escalation.merged(first, doubt, rest[doubt[further]]), passes, tuple(shown))
