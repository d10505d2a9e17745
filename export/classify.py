"""A classifier to a bundle that classifies: a graph a mode, calibrated on validation images, verified on test ones."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export import calibrate, convert, examples, precision, threshold, verify
from export.config import FP32, ExportConfig
from export.errors import ExportError
from export.examples import Examples
from export.graphs import Shipped, first_pass, shares_first_pass, shipped
from export.measure import doubted, measured
from export.provenance import provenance
from serving import bundle as contract
from serving.bundle import Bundle
from serving.manifest import (
    AGGREGATED,
    AUTO,
    AUTO_REST,
    IDENTITY_LOGITS,
    INPUT,
    Auto,
    Manifest,
    Mode,
)
from serving.predictor import Predictor
from training import checkpoint
from training.answering import at_once, load_answering, passes, that_looks
from training.checkpoint import Run
from training.evaluate import Answering, class_logits
from training.objectives import PROBE
from training.progress import Progress, Stopwatch


@dataclass(frozen=True)
class Subject:
    """What is exported. name: what the model is called."""

    run: Run
    networks: Answering
    name: str
    default_mode: str


@dataclass(frozen=True)
class Fitted:
    """What the validation images decided. temperatures: by mode. auto: None where there is no such mode."""

    temperatures: dict[str, float]
    auto: Auto | None
    calibration: dict[str, object]


def writer(settings: ExportConfig) -> Callable[[Path, Progress], Manifest]:
    """What makes a bundle of a classifier's run, which has been read.

    Raises:
        ExportError: a default mode that the run does not have, or a limit that cannot be.
        CheckpointError: the run cannot be read.
    """
    if not 0 <= settings.max_drop <= 100:
        raise ExportError(f"--max-drop {settings.max_drop} points; it is 0 to 100")
    run = checkpoint.open_run(settings.run)
    networks = load_answering(run)
    modes = [*networks] if first_pass(networks) is None else [*networks, AUTO]
    if settings.default_mode is not None and settings.default_mode not in modes:
        raise ExportError(f"unknown mode {settings.default_mode!r}; this run has {modes}")
    name = settings.name or settings.run.resolve().name
    subject = Subject(run, networks, name, settings.default_mode or modes[0])
    return functools.partial(_write, subject, settings)


def _write(subject: Subject, settings: ExportConfig, folder: Path, progress: Progress) -> Manifest:
    run, networks = subject.run, subject.networks
    lower = settings.precision != FP32
    training = precision.IMAGES if lower else 0
    shown = examples.of_classifier(run, settings.data_dir, progress, training=training)
    fitted = _fit(run, networks, shown["validation"], progress)
    image = run.problem.image
    graphs = shipped(networks, fitted.temperatures, height=image.height, width=image.width)
    manifest = _write_graphs(subject, graphs, fitted, folder, progress)
    manifest, served = _verify(subject, graphs, Bundle(folder, manifest), shown["test"], progress)
    if not lower:
        return manifest
    return precision.lowered(Bundle(folder, manifest), served, shown, settings, progress)


def _fit(run: Run, networks: Answering, shown: Examples, progress: Progress) -> Fitted:
    """The temperatures and the threshold of `auto`, from images that were held out from training."""
    watch = Stopwatch()
    size = at_once(networks, run.problem.image)
    logits, labels = class_logits(networks, shown.batches, batch_size=size)
    why_not = _not_held_out(run, len(labels))
    temperatures = dict.fromkeys(logits, 1.0)
    if why_not is None:
        temperatures = calibrate.temperatures(logits, labels)
    answers = _softened(logits, temperatures)
    found = ", ".join(f"{mode} {temperature:.3g}" for mode, temperature in temperatures.items())
    said = found if why_not is None else f"1, for {why_not}"
    progress.say(f"temperatures on {shown.what}: {said} ({watch.seconds:.1f} s)")
    calibration = {"on": shown.what, "images": len(labels)}
    auto, first = None, first_pass(networks)
    if first is not None:
        rest_passes = passes(networks)[AGGREGATED] - int(shares_first_pass(networks))
        auto = threshold.auto(
            first, answers, labels, rest_passes=rest_passes, calibration=calibration
        )
        progress.say(
            f"auto: {auto.first} first, and all copies up to a confidence of {auto.threshold:.3f}: "
            f"{auto.forward_passes:.2f} passes an image"
        )
    return Fitted(temperatures, auto, calibration | {"temperatures": why_not is None})


def _not_held_out(run: Run, images: int) -> str | None:
    """Why no temperature can be fitted on a run's validation images, if there is a reason."""
    if run.config.objective == PROBE:
        return "a probe was refitted on them"
    if images < calibrate.LEAST_IMAGES:
        return f"fewer than {calibrate.LEAST_IMAGES} images"
    return None


def _softened(logits: Mapping[str, Tensor], temperatures: Mapping[str, float]) -> dict[str, Tensor]:
    """The probabilities of every mode at its temperature, (n, N) each."""
    return {mode: (values / temperatures[mode]).softmax(1) for mode, values in logits.items()}


def _write_graphs(
    subject: Subject,
    graphs: Mapping[str, Shipped],
    fitted: Fitted,
    folder: Path,
    progress: Progress,
) -> Manifest:
    """Convert every graph, and write them and the samples. What verification will find out is still empty."""
    facts = _facts(subject)
    models = {}
    for name, graph in graphs.items():
        watch, count = Stopwatch(), graph.forward_passes
        told = facts | {
            "mode": name, "forward_passes": count, "precision": FP32, "temperature": graph.temperature,
        }  # fmt: skip
        models[name] = convert.to_onnx(graph.module, graph.signature, told)
        progress.say(
            f"converted {name} ({count} forward pass{'es' if count > 1 else ''}) in {watch.seconds:.1f} s"
        )
    files, shared = convert.save(models, folder)
    written = {name: _described(graph, files[name]) for name, graph in graphs.items()}
    rest, auto = written.pop(AUTO_REST, None), fitted.auto
    return Manifest(
        **facts,
        modes=written,
        default_mode=subject.default_mode,
        parity={},
        provenance=provenance(subject.run),
        weights={} if shared is None else {shared.name: contract.file_sha256(shared)},
        samples=examples.write_samples(subject.run, folder),
        auto=None if auto is None else dataclasses.replace(auto, rest=rest),
        calibration=fitted.calibration,
    )


def _facts(subject: Subject) -> dict[str, Any]:
    """What is true of every graph."""
    problem = subject.run.problem
    return {
        "name": subject.name,
        "task": "classify",
        "classes": problem.classes,
        "image": dataclasses.asdict(problem.image),
        "transformations": tuple(t.name for t in that_looks(subject.networks).transformations),
    }


def _described(graph: Shipped, file: Path) -> Mode:
    return Mode(
        file=file.name,
        sha256=contract.file_sha256(file),
        inputs=graph.signature.inputs,
        outputs=graph.signature.outputs,
        forward_passes=graph.forward_passes,
        precision=FP32,
        temperature=graph.temperature,
        metrics={},
    )


def _verify(
    subject: Subject,
    graphs: Mapping[str, Shipped],
    written: Bundle,
    shown: Examples,
    progress: Progress,
) -> tuple[Manifest, dict[str, Tensor]]:
    """Compare what was written with torch. Returns the manifest with what was measured, and what was answered.

    Raises:
        VerificationError: with every failure in its message.
    """
    watch, findings = Stopwatch(), verify.Findings()
    run, networks, manifest = subject.run, subject.networks, written.manifest
    _check_graphs(run, graphs, written, findings)
    findings.raise_failures()
    size = at_once(networks, run.problem.image)
    logits, labels = class_logits(networks, shown.batches, batch_size=size)
    expected = _softened(logits, {name: mode.temperature for name, mode in manifest.modes.items()})
    served = verify.serve(
        Predictor(written, device="cpu"), shown.split, manifest.mode_names, progress
    )
    if manifest.auto is not None:
        first = manifest.auto.first
        doubt = doubted(manifest, served[first])[:, None]  # (n, 1)
        expected[AUTO] = torch.where(doubt, expected[AGGREGATED], expected[first])
    for mode, answer in served.items():
        verify.check_agreement(mode, answer.numpy(), expected[mode], findings, what=shown.what)
    findings.raise_failures()
    progress.say(
        f"verified against torch on {shown.what}: largest difference {findings.max_abs_diff:.1e}, "
        f"same top-1 on {100 * findings.agreement:.2f} % ({watch.seconds:.1f} s)"
    )
    parity = {
        "max_abs_diff": findings.max_abs_diff,
        "tolerance": verify.TOLERANCE,
        "batches": list(verify.BATCHES),
        "images": len(labels),
        "agreement": findings.agreement,
        "on": shown.what,
    }
    return dataclasses.replace(measured(manifest, served, labels), parity=parity), served


def _check_graphs(
    run: Run, graphs: Mapping[str, Shipped], written: Bundle, findings: verify.Findings
) -> None:
    """Compare every graph with its module, on real images."""
    real = examples.real_images(run)
    feeds = {INPUT: real}
    auto = written.manifest.auto
    if auto is not None and AUTO_REST in graphs:
        with torch.inference_mode():
            _, identity = graphs[auto.first].module(torch.from_numpy(real))
        feeds[IDENTITY_LOGITS] = identity.numpy()
    for name, graph in graphs.items():
        inputs = [feeds[tensor.name] for tensor in graph.signature.inputs]
        verify.check_graph(written.graph(name), graph.module, graph.signature, inputs, findings)
