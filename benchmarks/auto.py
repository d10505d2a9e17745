"""What the mode `auto` is worth: `python -m benchmarks.auto digits`, or cifar10-small with --data npz:FILE.

For every seed of the runs of benchmarks.accuracy (trained where they are missing): temperatures and threshold as export
chooses them on the validation split, and what comes of them on the test split. Of cifar10-small also: the threshold
chosen on draws of n images that no run has seen, neither trained nor judged on them, and what it loses on the others of
these; by the rule that is shipped and by counting right answers. Writes benchmarks/results/auto-EXPERIMENT.json.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy import Place, add_place, alone, interval, run, settings_of, unchanged
from benchmarks.chosen import among
from benchmarks.experiments import EXPERIMENTS
from export import calibrate, threshold
from export.graphs import first_pass, shares_first_pass
from export.threshold import Curve, Escalation
from serving.manifest import AGGREGATED
from training import data
from training.answering import at_once, load_answering, passes
from training.batches import prepare
from training.checkpoint import Run
from training.config import DataConfig
from training.device import cpu_name
from training.evaluate import Answering, class_logits
from training.json_files import write_json
from training.progress import Progress
from training.provenance import versions
from training.splits import Split

ROWS = ("sla", "sla-sd", "fold")
DRAWS, DRAWN = 20, (143, 300, 1000)  # of each size and run; the images of a draw
MOST_UNSEEN = 15_000
CURVE_POINTS = 11


@dataclasses.dataclass(frozen=True)
class Shown:
    """Some images: the probabilities of one pass and of all copies, (n, N), and the labels."""

    first: Tensor
    aggregated: Tensor
    labels: Tensor
    rest_passes: int

    @property
    def curve(self) -> Curve:
        """What every threshold comes to on them."""
        return threshold.escalation_curve(
            self.first, self.aggregated, self.labels, rest_passes=self.rest_passes
        )


@dataclasses.dataclass(frozen=True)
class Problem:
    """The mode of the first pass, and the passes that an image in doubt takes beside it."""

    first: str
    rest_passes: int

    def of(
        self, logits: dict[str, Tensor], labels: Tensor, temperatures: dict[str, float]
    ) -> Shown:
        """Images with these logits, by mode."""
        first, aggregated = (
            (logits[mode] / temperatures[mode]).softmax(1) for mode in (self.first, AGGREGATED)
        )
        return Shown(first, aggregated, labels, self.rest_passes)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=("digits", "cifar10-small"))
    parser.add_argument("--seeds", type=int, nargs="+", help="only these of the experiment's seeds")
    parser.add_argument("--rows", nargs="+", help="only these of the rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    add_place(parser)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    place = Place(settings.results, settings.runs, settings.data)
    for seed in among("seed", settings.seeds, EXPERIMENTS[settings.experiment].seeds):
        for row in among("row", settings.rows, ROWS):
            if not obtain(settings.experiment, row, seed, place):
                raise SystemExit("interrupted; the same command goes on")


def obtain(name: str, row: str, seed: int, place: Place) -> bool:
    """Have the numbers of a row and seed among the results. Returns False if training was interrupted."""
    path = place.results / f"auto-{name}.json"
    if any((e["row"], e["seed"]) == (row, seed) for e in read(name, path)):
        return True
    trained = run(name, row, seed, place)
    if trained is None:
        return False
    entry = {"row": row, "seed": seed, **measure(trained)}
    with alone(path):
        entries = sorted(
            [*read(name, path), entry], key=lambda e: (ROWS.index(e["row"]), e["seed"])
        )
        write_json(path, content(name, entries))
    return True


def read(name: str, path: Path) -> list[dict[str, Any]]:
    """The entries so far; those of rows whose settings have changed do not count."""
    if not path.is_file():
        return []
    return unchanged(json.loads(path.read_text()), configs(name))


def configs(name: str) -> dict[str, Any]:
    """The settings of the rows."""
    return {row: settings_of(EXPERIMENTS[name], row) for row in ROWS}


def content(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What goes into the file."""
    rows = [row for row in ROWS if any(e["row"] == row for e in entries)]
    return {
        "command": f"python -m benchmarks.auto {name}",
        "configs": configs(name),
        "hardware": cpu_name(),
        "versions": versions(),
        "table": [line(row, [e for e in entries if e["row"] == row]) for row in rows],
        "draws": [
            drawn(row, str(n), rule, [e for e in entries if e["row"] == row])
            for row in rows
            for n in DRAWN
            for rule in RULES
            if all(e["draws"] for e in entries)
        ],
        "runs": entries,
    }


def line(row: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and what auto loses to all copies, paired by seed."""
    found = {
        key: interval([e["test"][key] for e in entries])
        for key in ("first", "aggregated", "auto", "forward_passes")
    }
    lost = [e["test"]["aggregated"] - e["test"]["auto"] for e in entries]
    return {"row": row, "first_pass": entries[0]["first_pass"], **found, "lost": interval(lost)}


def drawn(row: str, n: str, rule: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What a rule loses on images not drawn, over all draws of n images and seeds."""
    draws = [draw for e in entries for draw in e["draws"][n][rule]]
    lost = np.array([draw["lost"] for draw in draws])
    return {
        "row": row,
        "images": int(n),
        "rule": rule,
        "draws": len(draws),
        "forward_passes": float(np.mean([draw["forward_passes"] for draw in draws])),
        "lost": float(lost.mean()),
        "lost_90": float(np.quantile(lost, 0.9)),
        "over": float((lost > threshold.WITHIN).mean()),
    }


def measure(trained: Run) -> dict[str, Any]:
    """What auto comes to on the test split of a run, and on draws of images that it has not seen."""
    networks = load_answering(trained)
    first = first_pass(networks)
    assert first is not None
    splits = images(trained)
    answers = {name: answer(networks, trained, split, name) for name, split in splits.items()}
    problem = Problem(first, passes(networks)[AGGREGATED] - int(shares_first_pass(networks)))
    (logits, labels), test = answers["validation"], answers["test"]
    temperatures = calibrate.temperatures(logits, labels)
    chosen = modelled(problem.of(logits, labels, temperatures))
    curve = problem.of(*test, temperatures).curve
    here = curve.at(chosen.threshold)
    found = {
        "first_pass": first,
        "images": {name: len(split) for name, split in splits.items()},
        "validation": dataclasses.asdict(chosen),
        "test": {
            "first": curve.point(0).top1,
            "aggregated": curve.point(-1).top1,
            "auto": here.top1,
            "forward_passes": here.forward_passes,
        },
        "curve": [dataclasses.asdict(point) for point in curve.shown(CURVE_POINTS)],
        "draws": {},
    }
    if "unseen" in answers:
        found["draws"] = draws(problem, *answers["unseen"])
    return found


def images(trained: Run) -> dict[str, Split]:
    """Validation and test, and, where the run trained on a part of what there is, images of the rest."""
    settings: DataConfig = trained.config.data
    used = data.load(settings)
    found = {"validation": used.val, "test": used.test}
    whole = data.load(dataclasses.replace(settings, train_images=None)).train
    unseen = np.flatnonzero(~np.isin(whole.index, used.train.index))
    if len(unseen):
        some = np.random.default_rng(0).permutation(unseen)[:MOST_UNSEEN]
        found["unseen"] = whole.take(some)
    return found


def answer(
    networks: Answering, trained: Run, split: Split, name: str
) -> tuple[dict[str, Tensor], Tensor]:
    """The logits of every mode, and the labels."""
    image = trained.problem.image
    device = torch.device("cpu")
    _, batches = prepare(split, name, image, trained.config.data, device, Progress())
    return class_logits(networks, batches, batch_size=at_once(networks, image))


def modelled(shown: Shown) -> Escalation:
    """The rule of export."""
    return threshold.least_passes(
        shown.first, shown.aggregated, shown.labels, rest_passes=shown.rest_passes
    )


def counted(shown: Shown) -> Escalation:
    """The fewest passes whose right answers, counted on these very images, are within WITHIN of aggregated's."""
    curve = shown.curve
    enough = curve.correct >= curve.correct[-1] - threshold.WITHIN * curve.images
    return curve.point(int(enough.nonzero()[0]))


RULES: dict[str, Callable[[Shown], Escalation]] = {"modelled": modelled, "counted": counted}


def draws(
    problem: Problem, logits: dict[str, Tensor], labels: Tensor
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """For every number of images and rule: what its threshold costs, and loses to aggregated, on the others."""
    generator = np.random.default_rng(0)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for n in DRAWN:
        found[str(n)] = {rule: [] for rule in RULES}
        for _ in range(DRAWS):
            order = torch.from_numpy(generator.permutation(len(labels)))
            drawn, others = (
                ({mode: values[places] for mode, values in logits.items()}, labels[places])
                for places in (order[:n], order[n:])
            )
            temperatures = calibrate.temperatures(*drawn)
            shown, curve = problem.of(*drawn, temperatures), problem.of(*others, temperatures).curve
            for name, rule in RULES.items():
                there = curve.at(rule(shown).threshold)
                lost = curve.point(-1).top1 - there.top1
                found[str(n)][name].append({"forward_passes": there.forward_passes, "lost": lost})
    return found


if __name__ == "__main__":
    main()
