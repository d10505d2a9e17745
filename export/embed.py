"""An encoder to a bundle that embeds: one mode, pixels in, features out, normalisation inside.

The encoder is of `viewfold pretrain`, or a classifier's without its heads. There is no top-1 to agree on: what is
verified are the values, and the cosine of what torch and the served graph say of every image that was held out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export import convert, examples, precision, verify
from export.config import FP32, ExportConfig
from export.errors import ExportError
from export.examples import Examples
from export.graphs import Signature, embedding_signature
from export.provenance import provenance
from serving import bundle as contract
from serving.bundle import Bundle
from serving.manifest import Manifest, Mode
from serving.predictor import Predictor
from training import checkpoint, collapse
from training.checkpoint import Run
from training.encoder import Encoder
from training.evaluate import images_at_once
from training.features import features_of
from training.frozen import load_encoder
from training.pretrain_config import PretrainConfig
from training.progress import Progress, Stopwatch

EMBED = "embed"  # the task, and its one mode


def writer(settings: ExportConfig) -> Callable[[Path, Progress], Manifest]:
    """What makes a bundle of a run's encoder, which has been read.

    Raises:
        ExportError: a default mode that an encoder does not have, or a limit that cannot be.
        CheckpointError: the run cannot be read.
    """
    if not -1 <= settings.min_cosine <= 1:
        raise ExportError(f"--min-cosine {settings.min_cosine}; it is -1 to 1")
    encoder, run = load_encoder(settings.run)
    if settings.default_mode not in (None, EMBED):
        raise ExportError(f"unknown mode {settings.default_mode!r}; an encoder has {[EMBED]}")
    return functools.partial(_write, encoder, run, settings)


def _write(
    encoder: Encoder, run: Run[Any], settings: ExportConfig, folder: Path, progress: Progress
) -> Manifest:
    image = run.problem.image
    shape = embedding_signature(encoder, height=image.height, width=image.width)
    manifest = _write_graph(encoder, shape, run, settings, folder, progress)
    lower = settings.precision != FP32
    training = precision.IMAGES if lower else 0
    shown = examples.of_encoder(run, settings.data_dir, progress, training=training)
    verified = Bundle(folder, manifest)
    manifest, served = _verify(encoder, shape, run, verified, shown["validation"], progress)
    if not lower:
        return manifest
    return precision.lowered_encoder(Bundle(folder, manifest), served, shown, settings, progress)


def _write_graph(
    encoder: Encoder,
    shape: Signature,
    run: Run[Any],
    settings: ExportConfig,
    folder: Path,
    progress: Progress,
) -> Manifest:
    """Convert the encoder, and write the graph and the samples. What verification will find out is still empty."""
    facts: dict[str, Any] = {
        "name": settings.name or settings.run.resolve().name,
        "task": EMBED,
        "classes": (),
        "image": dataclasses.asdict(run.problem.image),
        "transformations": (),
    }
    told = facts | {"mode": EMBED, "forward_passes": 1, "dimensions": encoder.num_features}
    watch = Stopwatch()
    files, shared = convert.save({EMBED: convert.to_onnx(encoder, shape, told)}, folder)
    progress.say(
        f"converted the encoder ({encoder.num_features} numbers an image) in {watch.seconds:.1f} s"
    )
    digest = contract.file_sha256(files[EMBED])
    mode = Mode(files[EMBED].name, digest, shape.inputs, shape.outputs, 1, "fp32", 1.0, {})
    return Manifest(
        **facts,
        modes={EMBED: mode},
        default_mode=EMBED,
        parity={},
        provenance=provenance(run),
        weights={} if shared is None else {shared.name: contract.file_sha256(shared)},
        samples=examples.write_samples(run, folder),
    )


def _verify(
    encoder: Encoder,
    shape: Signature,
    run: Run[Any],
    written: Bundle,
    shown: Examples,
    progress: Progress,
) -> tuple[Manifest, precision.Answers]:
    """Compare what was written with torch. Returns the manifest with what was measured, and what is served.

    Raises:
        VerificationError: with every failure in its message.
    """
    watch, findings = Stopwatch(), verify.Findings()
    verify.check_graph(written.graph(EMBED), encoder, shape, [examples.real_images(run)], findings)
    findings.raise_failures()
    size = images_at_once(run.problem.image, 1)
    expected, labels = features_of(encoder, shown.batches, batch_size=size)
    served = verify.serve(Predictor(written, device="cpu"), shown.split, (EMBED,), progress)
    verify.check_embeddings(EMBED, served[EMBED].numpy(), expected, findings, what=shown.what)
    findings.raise_failures()
    progress.say(
        f"verified against torch on {shown.what}: largest difference {findings.max_relative_diff:.1e} of the "
        f"largest value, least cosine {findings.least_cosine:.6f} ({watch.seconds:.1f} s)"
    )
    mode = dataclasses.replace(written.manifest.modes[EMBED], metrics=_metrics(run, progress))
    parity = {
        "max_abs_diff": findings.max_unscaled_diff,
        "max_relative_diff": findings.max_relative_diff,
        "tolerance": verify.TOLERANCE,  # of max_relative_diff
        "least_cosine": findings.least_cosine,
        "batches": list(verify.BATCHES),
        "images": len(labels),
        "on": shown.what,
    }
    return dataclasses.replace(written.manifest, modes={EMBED: mode}, parity=parity), served


def _metrics(run: Run[Any], progress: Progress) -> dict[str, float]:
    """What pretraining found of this encoder on the images held out; a classifier's run says nothing of its encoder."""
    if not isinstance(run.config, PretrainConfig):
        return {}
    _, state = checkpoint.read(run.folder / "best", "weights")
    found = {name: value for name, value in state["val"].items() if math.isfinite(value)}
    if collapse.collapsed(found.get("feature_std", math.nan)):
        progress.say("this encoder has collapsed: it says nearly the same of every image")
    return found
