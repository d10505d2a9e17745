"""`viewfold export`: from a run to a bundle that has been checked with the very code that will serve it.

Everything is written beside its place; the manifest, without which a folder is no bundle, comes
last, after all checks; then the folder is renamed. A failed or killed export leaves nothing that
looks like a bundle.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from export import convert, verify
from export.config import ExportConfig
from export.errors import ExportError, TargetError, VerificationError
from export.graphs import build_graph, signature
from serving import bundle as contract
from serving.bundle import Bundle, Manifest, Mode
from serving.images import Pixels, encode_png
from serving.predictor import Predictor
from training import checkpoint, data
from training.answering import at_once, load_answering, passes, that_looks
from training.batches import ResidentBatches, prepare
from training.checkpoint import Run
from training.config import DataConfig
from training.config_json import to_dict
from training.errors import DataError
from training.evaluate import Answering, Metrics, images_at_once, metrics, probabilities
from training.progress import Progress, Stopwatch
from training.resume import load_again
from training.splits import ArrayPictures, Split, split_of
from training.teacher import has_teacher, open_kept

SAMPLES = 10  # example images in a bundle, one a class as far as they go


@dataclass(frozen=True)
class Examples:
    """Labelled pictures to verify on. what: in words, for the manifest."""

    split: Split
    batches: Any
    what: str


def export(settings: ExportConfig) -> Bundle:
    """Make, verify and put into place the bundle of a run.

    Raises:
        ExportError: the place is taken, the mode is unknown, or the graphs do not say what torch
            says.
        TrainingError: the run cannot be read.
    """
    progress, watch = Progress(), Stopwatch()
    run = checkpoint.open_run(settings.run)
    networks = load_answering(run)
    if settings.default_mode is not None and settings.default_mode not in networks:
        raise ExportError(f"unknown mode {settings.default_mode!r}; this run has {list(networks)}")
    with _target(settings) as part:
        manifest = _write_graphs(run, networks, part, settings, progress)
        examples = _examples(run, settings.data_dir, progress)
        manifest = _verify(run, networks, Bundle(part, manifest), examples, progress)
        (part / contract.MANIFEST).write_text(contract.encode(manifest), encoding="utf-8")
        contract.read(part)
    progress.say(f"exported {settings.out} in {watch.seconds:.1f} s")
    return contract.read(settings.out)


@contextmanager
def _target(settings: ExportConfig) -> Iterator[Path]:
    """A folder to write into, renamed to the bundle's place if all goes well and removed if not.

    Raises:
        TargetError: the place is taken, or nothing can be written there.
    """
    out = settings.out.absolute()
    replaceable = settings.overwrite and (out / contract.MANIFEST).is_file()
    if out.exists() and not replaceable and (not out.is_dir() or any(out.iterdir())):
        raise TargetError(
            f"{settings.out} is there already; --overwrite replaces a bundle, and nothing else"
        )
    part, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise TargetError(f"cannot write to {out.parent}: {error.strerror}") from None
    try:
        yield part
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)  # of an export that was killed at its very end
            out.rename(old)
        part.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
        provenance=_provenance(run),
        weights={} if shared is None else {shared.name: contract.file_sha256(shared)},
        samples=_write_samples(run, folder),
    )


def _verify(
    run: Run, networks: Answering, written: Bundle, examples: Examples, progress: Progress
) -> Manifest:
    """Compare what was written with torch. Returns the manifest with what was measured.

    Raises:
        VerificationError: with every failure in its message.
    """
    watch, findings = Stopwatch(), verify.Findings()
    manifest = written.manifest
    modes = tuple(manifest.modes)
    for mode, network in networks.items():
        shape = signature(
            network, mode, height=run.problem.image.height, width=run.problem.image.width
        )
        verify.check_graph(
            written.graph(mode), build_graph(network, mode), shape, _real_images(run), findings
        )
    if findings.failures:
        raise _failed(findings)
    batch_size = at_once(networks, run.problem.image)
    expected, labels = probabilities(networks, examples.batches, batch_size=batch_size)
    served = serve(Predictor(written, device="cpu"), examples.split, modes, progress)
    for mode in modes:
        verify.check_agreement(
            mode, served[mode].numpy(), expected[mode], findings, what=examples.what
        )
    if findings.failures:
        raise _failed(findings)
    progress.say(
        f"verified against torch on {examples.what}: largest difference {findings.max_abs_diff:.1e}, "
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
        "on": examples.what,
    }
    return dataclasses.replace(manifest, modes=measured, parity=parity)


def serve(
    predictor: Predictor, split: Split, modes: tuple[str, ...], progress: Progress
) -> dict[str, Tensor]:
    """What a bundle answers to every file of a split, through the code that serves: {mode: (n, N) float32}."""
    parts: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    batch_size = images_at_once(predictor.spec, len(predictor.manifest.transformations))
    chunks = verify.serve_split(predictor, split, modes, batch_size)
    for answers in progress.track(chunks, "onnxruntime", -(-len(split) // batch_size)):
        for mode, answer in answers.items():
            parts[mode].append(torch.from_numpy(answer))
    return {mode: torch.cat(answers) for mode, answers in parts.items()}


def _numbers(measured: Metrics) -> dict[str, float]:
    """The metrics for the manifest, less those that these classes do not have."""
    values = dataclasses.asdict(measured)
    return {name: value for name, value in values.items() if value is not None}


def _failed(findings: verify.Findings) -> VerificationError:
    lines = "\n".join(f"  {failure}" for failure in findings.failures)
    return VerificationError(
        f"the graphs do not say what torch says; nothing was exported:\n{lines}"
    )


def _examples(run: Run, data_dir: Path | None, progress: Progress) -> Examples:
    """The test split; where the data is not at hand as it was, the validation images that the run keeps."""
    settings = run.config.data
    if data_dir is not None:
        settings = dataclasses.replace(settings, data_dir=data_dir)
    try:
        return _test_split(run, settings, progress)
    except DataError as error:
        if data_dir is not None:
            raise
        progress.say(f"the data is not at hand as it was ({error})")
        images, labels = checkpoint.read_validation_images(run)
        kept = split_of(ArrayPictures(images.numpy()), labels.numpy())
        return Examples(
            kept,
            ResidentBatches(images, labels),
            f"{len(labels)} validation images of {data.bare_name(run.config.data.data)}",
        )


def _test_split(run: Run, settings: DataConfig, progress: Progress) -> Examples:
    """The test split that the run was judged on.

    Raises:
        DataError: the data is not there, cannot be read, or is not what it was when the run began.
    """
    test = load_again(run, settings).test
    split, batches = prepare(
        test, "test", run.problem.image, settings, torch.device("cpu"), progress
    )
    expected = run.problem.counts[2]
    if len(split) != expected:
        raise DataError(
            f"{settings.data} has {len(split)} test images, but {expected} when {run.folder} began"
        )
    return Examples(
        split, batches, f"{len(split)} test images of {data.bare_name(run.config.data.data)}"
    )


def _real_images(run: Run) -> Pixels:
    """Kept validation images, repeated if there are fewer than the largest batch to verify."""
    images, _ = checkpoint.read_validation_images(run)
    return np.resize(images.numpy(), (max(len(images), *verify.BATCHES), *images.shape[1:]))


def _provenance(run: Run) -> dict[str, Any]:
    data_settings = dataclasses.replace(
        run.config.data, data=data.bare_name(run.config.data.data), data_dir=DataConfig().data_dir
    )
    weights = None if run.config.weights is None else Path(run.config.weights.name)
    teacher = None if run.config.teacher is None else Path(run.config.teacher).name
    settings = dataclasses.replace(
        run.config, data=data_settings, weights=weights, teacher=teacher, out=None
    )
    learnt_from = open_kept(run).problem.pretrained_weights if has_teacher(run) else None
    return {
        "data": data.bare_name(run.config.data.data),
        "pretrained_weights": run.problem.pretrained_weights,
        "teacher_pretrained_weights": learnt_from,
        "seed": run.config.seed,
        "config": to_dict(settings),
        "versions": run.problem.versions,
    }


def _write_samples(run: Run, folder: Path) -> dict[str, str]:
    """A few validation images as PNG files, one a class, where the data may be passed on."""
    if not data.may_be_passed_on(run.config.data.data):
        return {}
    images, labels = checkpoint.read_validation_images(run)
    (folder / "samples").mkdir()
    written = {}
    for label in labels.unique().tolist()[:SAMPLES]:
        first = images[labels == label][0].numpy()
        path = folder / "samples" / f"{run.problem.classes[label]}.png"
        path.write_bytes(encode_png(Image.fromarray(first)))
        written[f"samples/{path.name}"] = contract.file_sha256(path)
    return written
