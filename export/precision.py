"""Graphs of lower precision in the place of verified ones in fp32, and what that costs: measured, bounded, written.

fp32's tolerance means nothing here. What is asked is whether the answers are as good: on the validation split no mode
may lose more top-1 than is allowed, and what the test split says goes into the manifest. The temperatures stay those
of fp32; the threshold of `auto` is chosen again, from what the new graphs answer. Of an encoder, which has no top-1, no
held-out image's embedding may turn away from fp32's further than is allowed.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from export import convert, quantize, threshold, verify
from export.config import ExportConfig
from export.errors import PrecisionError
from export.examples import Examples
from export.measure import measured
from export.quantize import Feeds
from serving import bundle as contract
from serving import escalation
from serving.bundle import Bundle
from serving.manifest import AUTO_REST, IDENTITY_LOGITS, INPUT, Manifest
from serving.predictor import Predictor
from training.batches import in_order
from training.evaluate import metrics
from training.progress import Progress, Stopwatch

IMAGES = 256  # by which the ranges of activations are chosen
_AT_ONCE = 16

Answers = dict[str, Tensor]  # by mode, (n, N)


def lowered(
    written: Bundle,
    served: Answers,
    shown: Mapping[str, Examples],
    settings: ExportConfig,
    progress: Progress,
) -> Manifest:
    """Lower a bundle of verified fp32 graphs. Returns the manifest with what was measured.

    served: what they answer to the test images.

    Raises:
        PrecisionError: a mode lost more top-1 on the validation images than `max_drop` allows.
    """
    watch = Stopwatch()
    held_out = shown["validation"]
    before = {"val": _serve(written, held_out, progress), "test": served}
    changed = _replaced(written, shown["training"], settings.precision, progress)
    changed = _chosen_again(changed, held_out, progress)
    after = {"val": _serve(changed, held_out, progress)}
    labels = {"val": held_out.batches.labels.cpu(), "test": shown["test"].batches.labels.cpu()}
    drop = {"val": _drops(before["val"], after["val"], labels["val"])}
    _check(drop["val"], settings, held_out)
    after["test"] = _serve(changed, shown["test"], progress)
    drop["test"] = _drops(before["test"], after["test"], labels["test"])
    manifest = measured(changed.manifest, after["test"], labels["test"])
    progress.say(
        f"{settings.precision}: top-1 fell by at most {max(drop['val'].values()):.2f} points on {held_out.what}, "
        f"{max(drop['test'].values()):.2f} on {shown['test'].what} ({watch.seconds:.1f} s)"
    )
    section = {
        **_named(settings, shown["training"]),
        "max_drop": settings.max_drop,
        "drop": {mode: {split: drop[split][mode] for split in drop} for mode in after["test"]},
        **_difference(before["test"], after["test"]),
    }
    return dataclasses.replace(manifest, precision=section)


def lowered_encoder(
    written: Bundle,
    served: Answers,
    shown: Mapping[str, Examples],
    settings: ExportConfig,
    progress: Progress,
) -> Manifest:
    """The same of an encoder. served: what fp32's graph answers to the validation images.

    Raises:
        PrecisionError: an embedding has a smaller cosine with fp32's than `min_cosine`.
    """
    watch, held_out = Stopwatch(), shown["validation"]
    changed = _replaced(written, shown["training"], settings.precision, progress)
    (before,), (after,) = served.values(), _serve(changed, held_out, progress).values()
    found = verify.cosines(before.numpy(), after.numpy())
    _check_cosines(found, settings, held_out)
    least, mean = float(found.min()), float(found.mean())
    progress.say(
        f"{settings.precision}: cosine with fp32's embeddings {least:.4f} at least, {mean:.4f} on average, on "
        f"{held_out.what} ({watch.seconds:.1f} s)"
    )
    section = {
        **_named(settings, shown["training"]),
        "min_cosine": settings.min_cosine,
        "least_cosine": least,
        "mean_cosine": mean,
        "on": held_out.what,
    }
    return dataclasses.replace(changed.manifest, precision=section)


def _check_cosines(found: NDArray[np.float64], settings: ExportConfig, shown: Examples) -> None:
    worse = int((~(found >= settings.min_cosine)).sum())
    if worse:
        raise PrecisionError(
            f"{settings.precision} turns the embeddings of {worse} of {shown.what} further from fp32's than "
            f"--min-cosine {settings.min_cosine:g}: the least cosine is {found.min():.6f}; nothing was exported: allow "
            "more, or take another --precision"
        )


def _named(settings: ExportConfig, shown: Examples) -> dict[str, Any]:
    """What the manifest says of a precision, whatever the task."""
    calibration = {"on": shown.what, "images": len(shown.split)}
    return {"name": settings.precision, "calibration": calibration}


def _serve(bundle: Bundle, shown: Examples, progress: Progress) -> Answers:
    predictor = Predictor(bundle, device="cpu")
    return verify.serve(predictor, shown.split, bundle.manifest.mode_names, progress)


def _replaced(written: Bundle, shown: Examples, precision: str, progress: Progress) -> Bundle:
    """The bundle with its graphs lowered, in the same folder. The threshold of `auto` is still that of fp32."""
    manifest, models = written.manifest, {}
    predictor = Predictor(written, device="cpu")
    for name in manifest.graphs:
        watch = Stopwatch()
        feeds = _feeds(predictor, shown, needs_identity=name == AUTO_REST)
        models[name] = quantize.lower(onnx.load(written.graph(name)), precision, feeds)
        progress.say(f"lowered {name} to {precision} in {watch.seconds:.1f} s")
    for name in [*(graph.file for graph in manifest.graphs.values()), *manifest.weights]:
        (
            written.folder / name
        ).unlink()  # and not written over: onnxruntime maps weights into memory
    files, shared = convert.save(models, written.folder)
    return Bundle(written.folder, _described(manifest, files, shared, precision))


def _feeds(predictor: Predictor, shown: Examples, *, needs_identity: bool) -> Iterator[Feeds]:
    auto = predictor.manifest.auto
    for images, _ in shown.batches.iterate(in_order(len(shown.batches), _AT_ONCE)):
        feeds = {INPUT: images.cpu().numpy()}
        if needs_identity and auto is not None:
            (feeds[IDENTITY_LOGITS],) = predictor.run(auto.first, dict(feeds), [IDENTITY_LOGITS])
        yield feeds


def _described(
    manifest: Manifest, files: Mapping[str, Path], shared: Path | None, precision: str
) -> Manifest:
    graphs = {
        name: dataclasses.replace(
            graph, sha256=contract.file_sha256(files[name]), precision=precision
        )
        for name, graph in manifest.graphs.items()
    }
    rest, auto = graphs.pop(AUTO_REST, None), manifest.auto
    return dataclasses.replace(
        manifest,
        modes=graphs,
        auto=None if auto is None else dataclasses.replace(auto, rest=rest),
        weights={} if shared is None else {shared.name: contract.file_sha256(shared)},
    )


def _chosen_again(bundle: Bundle, shown: Examples, progress: Progress) -> Bundle:
    """The bundle with the threshold of `auto` as its own graphs choose it."""
    manifest = bundle.manifest
    if manifest.auto is None:
        return bundle
    answers = verify.serve(
        Predictor(bundle, device="cpu"), shown.split, tuple(manifest.modes), progress
    )
    chosen = threshold.auto(
        manifest.auto.first,
        answers,
        shown.batches.labels.cpu(),
        rest_passes=escalation.rest_passes(manifest),
        calibration=manifest.auto.calibration,
    )
    auto = dataclasses.replace(chosen, rest=manifest.auto.rest)
    return Bundle(bundle.folder, dataclasses.replace(manifest, auto=auto))


def _drops(before: Answers, after: Answers, labels: Tensor) -> dict[str, float]:
    """How many points of top-1 every mode lost; negative where it gained."""
    return {
        mode: 100 * (metrics(before[mode], labels).top1 - metrics(answer, labels).top1)
        for mode, answer in after.items()
    }


def _check(drops: Mapping[str, float], settings: ExportConfig, shown: Examples) -> None:
    worse = {mode: drop for mode, drop in drops.items() if drop > settings.max_drop + 1e-9}
    if worse:
        named = ", ".join(f"{mode} {drop:.2f}" for mode, drop in worse.items())
        raise PrecisionError(
            f"{settings.precision} loses more than --max-drop {settings.max_drop:g} points of top-1 on {shown.what}: "
            f"{named}; nothing was exported: allow more, or take another --precision"
        )


def _difference(before: Answers, after: Answers) -> dict[str, Any]:
    """Of all modes with fp32's answers: the least agreement of top-1, the largest difference of a probability."""
    pairs = [(before[mode], answer) for mode, answer in after.items()]
    return {
        "agreement": min((a.argmax(1) == b.argmax(1)).double().mean().item() for a, b in pairs),
        "max_abs_diff": max((a - b).abs().max().item() for a, b in pairs),
    }
