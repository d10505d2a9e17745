"""`viewfold report`: how a run went, what it is worth and where it errs, as one HTML file.

Reads and measures; report_page.py says how it looks. A run that is unfinished is measured on the
validation split alone: the test split is seen once, by the finished run.
"""

import os
from pathlib import Path

import torch

from training import checkpoint, copies
from training.answering import (
    at_once,
    by_teacher,
    called,
    load_answering,
    passes,
    that_looks,
)
from training.batches import Batches, prepare
from training.checkpoint import Run
from training.checks import check_file
from training.config import ReportConfig
from training.data import instead_of
from training.device import describe, pick_device
from training.errors import ConfigError
from training.evaluate import metrics, read, readings
from training.history import read_history
from training.mistakes import Gallery, copies_of, worst_mistakes
from training.progress import Progress, Stopwatch
from training.report_page import Findings, Measured, page
from training.resume import load_again
from training.splits import Split

PLACES = {"train": 0, "val": 1, "test": 2}  # in the counts of a problem


def report(config: ReportConfig) -> Path:
    """Write the page of a run, and return where it is.

    Raises:
        ConfigError: the file cannot be there, or the test split of an unfinished run was asked for.
        TrainingError: the run or its data cannot be read.
    """
    progress, watch = Progress(), Stopwatch()
    run = checkpoint.open_run(config.run)
    out = _file(config)
    if config.mistakes < 0:
        raise ConfigError(f"--mistakes is {config.mistakes}; it must be at least 0")
    if config.split == "test" and not run.complete:
        raise ConfigError(
            f"{config.run} is unfinished, and the test split is seen once, at the end: leave --split out, "
            f"or go on with\n  {checkpoint.resume_command(run.folder)}"
        )
    found = _findings(run, config, progress)
    for note in found.notes:
        progress.say(note)
    part = out.with_name(out.name + ".part")
    part.write_text(page(found), encoding="utf-8")
    part.replace(out)
    size = out.stat().st_size / 2**20
    progress.say(f"the report is in {out} ({size:.1f} MB, made in {watch.seconds:.1f} s)")
    return out


def _file(config: ReportConfig) -> Path:
    out = config.run / "report.html" if config.out is None else config.out.expanduser()
    check_file("--out", out)
    return out


def _findings(run: Run, config: ReportConfig, progress: Progress) -> Findings:
    device = pick_device(config.device)
    history, notes = read_history(run.folder), []
    split = config.split or ("test" if run.complete else "val")
    there = any((run.folder / name).exists() for name in ("best", "best.old"))
    if not run.complete:
        notes.append(
            f"This run is unfinished: {len(history)} of {run.config.epochs} epochs are behind it; resume.txt in "
            "its folder holds the command to go on with. "
            + ("Its best checkpoint so far is shown." if there else "There is no checkpoint to measure yet.")
        )  # fmt: skip
    if there and split == "val":
        notes.append(
            "Measured on the validation split, which chose the checkpoint: these numbers flatter it."
        )
    measured = _measure(run, config, split, device, notes, progress) if there else None
    result = run.result() if run.complete else None
    return Findings(run, history, notes, describe(device), result, measured)


def _measure(
    run: Run,
    config: ReportConfig,
    split: str,
    device: torch.device,
    notes: list[str],
    progress: Progress,
) -> Measured:
    networks = load_answering(run, device)
    pictures, batches = _split(run, config, split, device, progress)
    then = run.problem.counts[PLACES[split]]
    if len(batches) != then:
        notes.append(
            f"The {split} split has {len(batches):,} images now, but {then:,} when the run began."
        )
    batch_size = at_once(networks, run.problem.image)
    looking = that_looks(networks)
    of_copies = copies.readings(looking)
    found, labels = read(readings(networks) | of_copies, batches, batch_size=batch_size)
    answers = {mode: found[mode].float().softmax(1) for mode in networks}
    worst = worst_mistakes(next(iter(answers.values())), labels, config.mistakes)
    places = [mistake.place for mistake in worst]
    gallery = Gallery(
        worst,
        [_short_name(pictures, place) for place in places],
        copies_of(looking, batches, places, batch_size=batch_size),
        tuple(transformation.name for transformation in looking.transformations),
        by_teacher=any(by_teacher(run.config, mode) for mode in networks),
    )
    classes = len(run.problem.classes)
    return Measured(
        split=split,
        answers=answers,
        labels=labels,
        metrics={mode: metrics(answer, labels) for mode, answer in answers.items()},
        passes=passes(networks),
        called={mode: called(run.config, mode) for mode in answers},
        gallery=gallery,
        copies=copies.copy_accuracy(found, labels, classes) if of_copies else None,
    )


def _split(
    run: Run, config: ReportConfig, name: str, device: torch.device, progress: Progress
) -> tuple[Split, Batches]:
    """The split that was asked for.

    Raises:
        DataError: the data is not there, cannot be read, or has other classes now.
    """
    settings = instead_of(run.config.data, config.data, config.data_dir)
    dataset = load_again(run, settings)
    split = dataset.test if name == "test" else dataset.val
    return prepare(split, name, run.problem.image, settings, device, progress)


def _short_name(pictures: Split, place: int) -> str:
    """What an image is called: its index, or its file with the folder that it lies in, and no more of the path."""
    return "/".join(pictures.name(place).split(os.sep)[-2:])
