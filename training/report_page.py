"""The page that `viewfold report` writes: what was found of a run, as one HTML file that loads nothing from outside.

Every name that comes from data is escaped here, where it enters the page. Charts are charts.py's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from training import charts, report_parts
from training.checkpoint import Run
from training.config import TrainConfig
from training.confusion import class_accuracies, confusion_matrix, most_confused
from training.copies import CopyAccuracy
from training.data import bare_name
from training.evaluate import Metrics, confidence_bins
from training.flags import flags
from training.mistakes import Gallery
from training.report_copies import copies_section
from training.report_mistakes import mistakes_section
from training.report_parts import (
    class_table,
    figure,
    heat_map,
    interval,
    meter,
    percent,
    section,
    table,
)

MOST_PAIRS = 20


@dataclass(frozen=True)
class Measured:
    """What a run answers on a split. answers: {mode: (n, N)}, the default mode first; labels: (n,).

    called: what each mode is called on the page.
    """

    split: str
    answers: dict[str, Tensor]
    labels: Tensor
    metrics: dict[str, Metrics]
    passes: dict[str, int]
    called: dict[str, str]
    gallery: Gallery
    copies: CopyAccuracy | None  # where a head tells transformations

    @property
    def default(self) -> str:
        """The mode that answers when none is asked for."""
        return next(iter(self.answers))


@dataclass(frozen=True)
class Findings:
    """Everything that a page shows. history: rows of metrics.csv; measured: None without a checkpoint."""

    run: Run
    history: list[dict[str, float]]
    notes: list[str]
    made_on: str  # the hardware of the report's own measurements
    result: dict[str, Any] | None
    measured: Measured | None


def page(found: Findings) -> str:
    """The whole page."""
    classes, measured = found.run.problem.classes, found.measured
    sections = [_settings(found), _curves(found.history)]
    if measured is not None:
        sections += [
            _modes(measured),
            _calibration(measured),
            _confusion(measured, classes),
            _per_class(measured, classes),
            _copies(measured, classes),
            mistakes_section(measured.gallery, classes, measured.default, measured.split),
        ]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    name = escape(found.run.folder.resolve().name)
    notes = "".join(f"<p>{escape(note)}</p>" for note in found.notes)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{name} - viewfold report</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n'
        f"</head>\n<body>\n<main>\n<header><h1>{name}</h1>{_headline(found)}</header>\n"
        + (f'<div class="note" role="note">{notes}</div>\n' if notes else "")
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(found: Findings) -> str:
    config, measured = found.run.config, found.measured
    about = f"{config.objective} with {config.backbone} on {bare_name(config.data.data)}"
    if measured is not None:
        best = measured.metrics[measured.default]
        between = interval(*best.top1_interval)
        about += (
            f": {percent(best.top1)} top-1 ({measured.default}; 95 % interval {between}) "
            f"on the {best.n:,} images of the {measured.split} split"
        )
    return f'<p class="soft">{escape(about)}.</p>'


def _settings(found: Findings) -> str:
    given, default = flags(found.run.config), flags(TrainConfig())
    changed = [f"{key} = {value}" for key, value in given.items() if value != default[key]]
    rows = [(escape(key), escape(value)) for key, value in _facts(found).items()]
    codes = ", ".join(f"<code>{escape(setting)}</code>" for setting in changed)
    rows.append(("changed settings", codes or "none"))
    every = table((), [(escape(key), f"<code>{escape(v)}</code>") for key, v in given.items()])
    body = f"{table((), rows)}\n<details><summary>All settings</summary>{every}</details>"
    return section("settings", "Settings and provenance", body)


def _facts(found: Findings) -> dict[str, str]:
    problem, result = found.run.problem, found.result
    train, val, test = problem.counts
    size = f"{problem.image.height} x {problem.image.width} pixels"
    trained, chosen = "unfinished", "the best so far"
    if result is not None:
        trained = f"{result['seconds']:,.0f} s on {result['hardware']}, {result['precision']}"
        chosen = f"of epoch {result['best_epoch']}, chosen by the validation split"
        if result["best_epoch"] is None:  # a probe
            chosen = "fitted to the training and validation images together"
    measured = f"in fp32 on {found.made_on}" if found.measured else "no: there is no checkpoint yet"
    return {
        "data": f"{bare_name(found.run.config.data.data)}, {len(problem.classes)} classes, {size}",
        "images": f"{train:,} to train on, {val:,} to validate, {test:,} to test",
        "trained": trained,
        "checkpoint": chosen,
        "measured": measured,
        "versions": ", ".join(f"{name} {version}" for name, version in problem.versions.items()),
    }


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    if not history:
        return ""
    epochs = [int(row["epoch"]) for row in history]
    accuracies = {
        key.removeprefix("val_").removesuffix("_top1"): [row[key] for row in history]
        for key in history[0]
        if key.startswith("val_") and key.endswith("_top1")
    }
    loss, rate = ([row[key] for row in history] for key in ("train_loss", "lr"))
    last = ", ".join(f"{mode} {percent(values[-1])}" for mode, values in accuracies.items())
    drawn = {
        "Training loss": ("loss", f"from {loss[0]:.3f} to {loss[-1]:.3f}", {"loss": loss}),
        "Top-1 on the validation split": ("top1", f"at the end {last}", accuracies),
        "Learning rate": ("lr", f"from {rate[0]:.3g} to {rate[-1]:.3g}", {"learning rate": rate}),
    }
    figures = [
        figure(charts.curves(f"curve-{name}", f"{title} over {len(epochs)} epochs, {words}",
                              epochs, values, percent=name == "top1"), title)
        for title, (name, words, values) in drawn.items()
    ]  # fmt: skip
    return section("curves", "Training curves", f'<div class="row">{"".join(figures)}</div>')


def _modes(measured: Measured) -> str:
    with_top5 = any(values.top5 is not None for values in measured.metrics.values())
    top5 = ["top-5"] if with_top5 else []
    header = ["mode", "passes", "top-1", "95 % interval", *top5, "NLL", "ECE"]
    rows, answers = [], []
    for mode, values in measured.metrics.items():
        passes, (low, high) = measured.passes[mode], values.top1_interval
        cells = [measured.called[mode], str(passes), percent(values.top1), interval(low, high)]
        cells += [] if values.top5 is None else [percent(values.top5)]
        rows.append([*cells, f"{values.nll:.4f}", f"{values.ece:.4f}"])
        answers.append(charts.Answer(measured.called[mode], passes, values.top1, low, high))
    n = len(measured.labels)
    caption = f"{n:,} images of the {measured.split} split; intervals after Wilson (1927)"
    said = "; ".join(f"{a.mode}, {a.forward_passes} passes: {percent(a.top1)}" for a in answers)
    chart = charts.accuracy_against_passes("passes", f"Top-1 by forward passes. {said}", answers)
    body = table(header, rows, caption)
    drawn = figure(chart, "Top-1 with its 95 % interval, by what an answer costs")
    return section(
        "modes", "Accuracy against forward passes", f'<div class="row">{body}{drawn}</div>'
    )


def _calibration(measured: Measured) -> str:
    figures = []
    for mode, answers in measured.answers.items():
        bins = confidence_bins(answers, measured.labels)
        title = f"{measured.called[mode]}, ECE {measured.metrics[mode].ece:.4f}"
        drawn = charts.reliability(
            f"reliability-{mode}",
            f"Reliability diagram of {title}",
            images=bins.images.tolist(),
            confidence=bins.confidence.tolist(),
            correct=bins.correct.tolist(),
        )
        figures.append(figure(drawn, title))
    words = (
        "<p>Bars: the accuracy of the images in each of 15 bins of confidence; the line across a bar: their mean "
        "confidence. Where the two meet, the mode is as sure as it is right; a bar below its line is overconfident. "
        "ECE is the mean distance, weighted by images (Guo et al. 2017).</p>"
    )
    body = words + f'<div class="row">{"".join(figures)}</div>'
    return section("calibration", "Reliability diagrams", body)


def _confusion(measured: Measured, classes: Sequence[str]) -> str:
    matrix = confusion_matrix(measured.answers[measured.default], measured.labels)
    pairs = most_confused(matrix, MOST_PAIRS)
    caption = f"{measured.default}, {len(measured.labels):,} images of the {measured.split} split"
    if len(classes) <= report_parts.MOST_CLASSES:
        words = "<p>Rows are the truth, columns the answers, colours the share of a row.</p>"
        body = words + heat_map(matrix.tolist(), classes, caption)
    elif pairs:
        rows = [
            (escape(classes[p.truth]), escape(classes[p.predicted]), str(p.images)) for p in pairs
        ]
        title = f"The {len(pairs)} pairs that were confused most often; {caption}"
        body = table(["class", "taken for", "images"], rows, title)
    else:
        body = "<p>No image was taken for another class.</p>"
    return section("confusion", "Confusion matrix", body)


def _per_class(measured: Measured, classes: Sequence[str]) -> str:
    modes = [measured.called[mode] for mode in measured.answers]
    matrices = [confusion_matrix(answers, measured.labels) for answers in measured.answers.values()]
    shares = list(
        zip(*(class_accuracies(matrix) for matrix in matrices), strict=True)
    )  # a row a class
    counts = matrices[0].sum(1).tolist()
    order = sorted(range(len(classes)), key=lambda k: (counts[k] == 0, shares[k][0] or 0.0))
    rows = [
        (escape(classes[k]), f"{counts[k]:,}", *(meter(share) for share in shares[k]))
        for k in order
    ]
    header = ["class", "images", *modes]
    body = class_table(header, rows, f"{measured.split} split, the least recognised first")
    return section("classes", "Per-class accuracy", body)


def _copies(measured: Measured, classes: Sequence[str]) -> str:
    if measured.copies is None:
        return ""
    gallery = measured.gallery
    whose = "teacher" if gallery.by_teacher else "network"
    return copies_section(measured.copies, gallery.transformations, classes, measured.split, whose)
