"""What a loaded classifier says of pictures. Knows no HTTP."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from serving.engine import Answer, Votes
from serving.errors import (
    RequestError,
    from_image_error,
    item_error,
    require_few,
    require_few_shown,
)
from serving.form import Form
from serving.images import ImageError, Pixels
from serving.model import Model, mode_of
from serving.modes import best, voting_modes

DEFAULT_TOP_K = 5
_QUICK_LABELS = 5_000  # to name so many takes some milliseconds: the event loop may do it


async def classify(model: Model, wanted: Form) -> dict[str, Any]:
    """What images show, in the fields of schemas.Prediction; of many, in those of schemas.Predictions.

    Raises:
        RequestError: unknown mode, too many images, top_k out of range, an explanation that it cannot
            give; an unusable image, if it is the only one.
        Busy: too much is waiting.
    """
    manifest = model.predictor.manifest
    mode = mode_of(model, wanted.mode)
    count = _count(wanted.top_k, len(manifest.classes))
    require_few(len(wanted.items), model.predictor.spec)
    _check_explanation(model, wanted)
    start = time.perf_counter()
    decoded = await model.processors.decoder.decode(
        [item.data for item in wanted.items], model.predictor.spec
    )
    good = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
    entries: Iterator[dict[str, Any]] = iter(())
    if good:
        answer = await _answer(model, good, mode, wanted)
        entries = _entries(model, answer, count, await _shown(model, answer.votes))
        if len(good) * count > _QUICK_LABELS:
            entries = iter(await asyncio.to_thread(list, entries))
    found = [item_error(one) if isinstance(one, ImageError) else next(entries) for one in decoded]
    milliseconds = round((time.perf_counter() - start) * 1000, 3)
    said = {"model": model.name, "version": model.version, "mode": mode}
    if wanted.many:
        named = [{"name": i.name, **entry} for i, entry in zip(wanted.items, found, strict=True)]
        return {**said, "predictions": named, "milliseconds": milliseconds}
    if isinstance(decoded[0], ImageError):
        raise from_image_error(decoded[0])
    return {**said, **found[0], "milliseconds": milliseconds}


async def _answer(model: Model, good: list[Pixels], mode: str, wanted: Form) -> Answer:
    pixels = good[0][None] if len(good) == 1 else np.stack(good)  # (n, H, W, 3)
    return await model.engine.answer(pixels, mode, explain=wanted.explain)


async def _shown(model: Model, votes: Votes | None) -> list[list[str]] | None:
    """The copies of each image, encoded, where they were asked for."""
    if votes is None or votes.copies is None:
        return None
    return await model.processors.decoder.encode(votes.copies)


def _check_explanation(model: Model, wanted: Form) -> None:
    """Raise where the model cannot explain itself, or would have to show too much."""
    if wanted.explain is None:
        return
    manifest = model.predictor.manifest
    if not model.engine.explains:
        voting = voting_modes(manifest)
        why = f"the mode {voting[0]!r} is not loaded" if voting else "it looks at one copy only"
        raise RequestError(422, "no_votes", f"nothing votes in {model.name}: {why}")
    if wanted.explain == "copies":
        copies = len(manifest.transformations)
        require_few_shown(len(wanted.items), model.predictor.spec, copies)


def _entries(
    model: Model, answer: Answer, count: int, shown: list[list[str]] | None
) -> Iterator[dict[str, Any]]:
    """What is said of each image. count: classes to name. shown: the copies of each, encoded."""
    classes = model.predictor.manifest.classes
    passes = answer.passes.tolist()
    for place, row in enumerate(answer.values):
        order = best(row, count)
        top = [
            {"label": classes[index], "probability": probability}
            for index, probability in zip(order.tolist(), row[order].tolist(), strict=True)
        ]
        entry: dict[str, Any] = {
            "label": top[0]["label"],
            "index": int(order[0]),
            "confidence": top[0]["probability"],
            "top": top,
            "forward_passes": passes[place],
        }
        if answer.votes is not None:
            entry["votes"] = _votes(
                model, answer.votes, place, None if shown is None else shown[place]
            )
        yield entry


def _votes(model: Model, votes: Votes, place: int, shown: list[str] | None) -> list[dict[str, Any]]:
    """What every transformed copy of an image says by itself. shown: the copies, encoded."""
    manifest = model.predictor.manifest
    said = votes.probabilities[place]  # (M, N)
    found = []
    for copy, (name, index) in enumerate(
        zip(manifest.transformations, said.argmax(1).tolist(), strict=True)
    ):
        vote = {"transformation": name, "label": manifest.classes[index]}
        vote["probability"] = float(said[copy, index])
        if shown is not None:
            vote["png"] = shown[copy]
        found.append(vote)
    return found


def _count(top_k: int | None, classes: int) -> int:
    if top_k is None:
        return min(DEFAULT_TOP_K, classes)
    if not 1 <= top_k <= classes:
        raise RequestError(422, "invalid_top_k", f"top_k is {top_k}; it may be 1 to {classes}")
    return top_k
