"""`viewfold export`: from a run to a bundle that has been checked with the very code that will serve it.

Everything is written beside its place; the manifest, without which a folder is no bundle, comes
last, after all checks; then the folder is renamed. A failed or killed export leaves nothing that
looks like a bundle.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from export import convert, embed, examples, verify
from export.config import ExportConfig
from export.errors import ExportError
from export.examples import Examples
from export.graphs import build_graph, signature
from export.provenance import provenance
from export.target import target
from serving import bundle as contract
from serving.bundle import Bundle, Manifest, Mode
from serving.predictor import Predictor
from training import checkpoint
from training.answering import at_once, load_answering, passes, that_looks
from training.checkpoint import Run
from training.evaluate import Answering, Metrics, metrics, probabilities
from training.progress import Progress, Stopwatch

# writes graphs and samples into a folder, and verifies them: what is left to write is the manifest that it returns
Write = Callable[[Path, Progress], Manifest]


def export(settings: ExportConfig) -> Bundle:
    """Make, verify and put into place the bundle of a run: a classifier's, or an encoder's (embed.py).

    Raises:
        ExportError: the place is taken, the mode is unknown, or the graphs do not say what torch
            says.
        TrainingError: the run cannot be read.
    """
    progress, watch = Progress(), Stopwatch()
    embeds = settings.embed or checkpoint.made_by(settings.run) == "pretrain"
    write = embed.writer(settings) if embeds else _writer(settings)
    with target(settings) as part:
        manifest = write(part, progress)
        (part / contract.MANIFEST).write_text(contract.encode(manifest), encoding="utf-8")
        contract.read(part)
    progress.say(f"exported {settings.out} in {watch.seconds:.1f} s")
    return contract.read(settings.out)


def _writer(settings: ExportConfig) -> Write:
    """What makes a bundle of a classifier's run, which has been read."""
    run = checkpoint.open_run(settings.run)
    networks = load_answering(run)
    if settings.default_mode is not None and settings.default_mode not in networks:
        raise ExportError(f"unknown mode {settings.default_mode!r}; this run has {list(networks)}")
    return functools.partial(_write, run, networks, settings)


def _write(
    run: Run, networks: Answering, settings: ExportConfig, folder: Path, progress: Progress
) -> Manifest:
    manifest = _write_graphs(run, networks, folder, settings, progress)
    shown = examples.of_classifier(run, settings.data_dir, progress)
    return _verify(run, networks, Bundle(folder, manifest), shown, progress)


def _write_graphs(
    run: Run, networks: Answering, folder: Path, settings: ExportConfig, progress: Progress
) -> Manifest:
    """Convert every mode, and write the graphs and the samples. What verification will find out is still empty."""
    name = settings.name or settings.run.resolve().name
    names = [transformation.name for transformation in that_looks(networks).transformations]
    image = dataclasses.asdict(run.problem.image)
    height, width = run.problem.image.height, run.problem.image.width
    models, modes, counts = {}, {}, passes(networks)
    for mode, network in networks.items():
        watch, count = Stopwatch(), counts[mode]
        shape = signature(network, mode, height=height, width=width)
        facts = {
            "name": name, "task": "classify", "mode": mode, "classes": list(run.problem.classes), "image": image,
            "transformations": names, "forward_passes": count, "temperature": 1.0,
        }  # fmt: skip
        models[mode] = convert.to_onnx(build_graph(network, mode), shape, facts)
        modes[mode] = Mode(f"{mode}.onnx", "", shape.inputs, shape.outputs, count, "fp32", 1.0, {})
        progress.say(
            f"converted {mode} ({count} forward pass{'es' if count > 1 else ''}) in {watch.seconds:.1f} s"
        )
    files, shared = convert.save(models, folder)
    modes = {
        m: dataclasses.replace(v, sha256=contract.file_sha256(files[m])) for m, v in modes.items()
    }
    return Manifest(
        name=name,
        task="classify",
        classes=run.problem.classes,
        image=image,
        transformations=tuple(names),
        modes=modes,
        default_mode=settings.default_mode or next(iter(networks)),
        parity={},
        provenance=provenance(run),
        weights={} if shared is None else {shared.name: contract.file_sha256(shared)},
        samples=examples.write_samples(run, folder),
    )


def _verify(
    run: Run, networks: Answering, written: Bundle, shown: Examples, progress: Progress
) -> Manifest:
    """Compare what was written with torch. Returns the manifest with what was measured.

    Raises:
        VerificationError: with every failure in its message.
    """
    watch, findings = Stopwatch(), verify.Findings()
    manifest = written.manifest
    modes, real = tuple(manifest.modes), examples.real_images(run)
    for mode, network in networks.items():
        shape = signature(
            network, mode, height=run.problem.image.height, width=run.problem.image.width
        )
        verify.check_graph(written.graph(mode), build_graph(network, mode), shape, real, findings)
    findings.raise_failures()
    batch_size = at_once(networks, run.problem.image)
    expected, labels = probabilities(networks, shown.batches, batch_size=batch_size)
    served = verify.serve(Predictor(written, device="cpu"), shown.split, modes, progress)
    for mode in modes:
        verify.check_agreement(
            mode, served[mode].numpy(), expected[mode], findings, what=shown.what
        )
    findings.raise_failures()
    progress.say(
        f"verified against torch on {shown.what}: largest difference {findings.max_abs_diff:.1e}, "
        f"same top-1 on {100 * findings.agreement:.2f} % ({watch.seconds:.1f} s)"
    )
    measured = {
        mode: dataclasses.replace(value, metrics=_numbers(metrics(served[mode], labels)))
        for mode, value in manifest.modes.items()
    }
    parity = {
        "max_abs_diff": findings.max_abs_diff,
        "tolerance": verify.TOLERANCE,
        "batches": list(verify.BATCHES),
        "images": len(labels),
        "agreement": findings.agreement,
        "on": shown.what,
    }
    return dataclasses.replace(manifest, modes=measured, parity=parity)


def _numbers(measured: Metrics) -> dict[str, float]:
    """The metrics for the manifest, less those that these classes do not have."""
    values = dataclasses.asdict(measured)
    return {name: value for name, value in values.items() if value is not None}
