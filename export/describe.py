"""What `viewfold evaluate` prints of one run or bundle. Numbers in, lines out."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.answering import called
from training.config import TrainConfig

CURVE_ROWS = 11  # of auto's curve
MODE_WIDTH = 11  # of a mode's name, at least


def lines(
    result: dict[str, Any], config: TrainConfig, *, per_class: bool, curve: bool
) -> list[str]:
    """What is printed of one run or bundle: a line a mode, and on request the classes and auto's curve.

    config: the settings of its training, which tell whose answer a mode is.
    """
    modes = {called(config, mode): values for mode, values in result["modes"].items()}
    width = max(MODE_WIDTH, *map(len, modes))
    said = [
        f"{result['path']}, {result['split']} split, {result['engine']} on {result['hardware']}; "
        "in brackets the 95 % interval:"
    ]
    for mode, values in modes.items():
        low, high = (100 * bound for bound in values["top1_interval"])
        top5 = "" if values["top5"] is None else f"top-5 {100 * values['top5']:6.2f} %  "
        passes = (
            f"{values['forward_passes']:.4g} pass{'es' if values['forward_passes'] > 1 else ''}"
        )
        said.append(
            f"  {mode:<{width}} top-1 {100 * values['top1']:6.2f} % [{low:.2f}, {high:.2f}]  {top5}"
            f"NLL {values['nll']:.4f}  ECE {values['ece']:.4f}  {passes}  n = {values['n']}"
        )
    said += _class_table(modes) if per_class else []
    return said + (_curve_table(result["curve"]) if curve else [])


def _curve_table(points: Sequence[Mapping[str, float]]) -> list[str]:
    """What `auto` would be worth at other thresholds, some of the points in even steps."""
    steps = min(CURVE_ROWS, len(points)) - 1
    rows = [points[round(k * (len(points) - 1) / max(1, steps))] for k in range(steps + 1)]
    return ["  auto at other thresholds:", "   threshold  in doubt  passes    top-1"] + [
        f"  {row['threshold']:10.7f}  {100 * row['escalation_rate']:6.1f} %  {row['forward_passes']:6.2f}"
        f"  {100 * row['top1']:6.2f} %"
        for row in rows
    ]


def _class_table(modes: dict[str, Any]) -> list[str]:
    """The accuracy of every class in every mode, a line a class."""
    first = next(iter(modes.values()))["per_class"]
    width = max(len("class"), *(len(entry["class"]) for entry in first))
    lines = [
        f"  {'class':<{width}}  {'n':>6}  " + "  ".join(f"{mode:>{MODE_WIDTH}}" for mode in modes)
    ]
    for place, entry in enumerate(first):
        shares = {mode: values["per_class"][place]["accuracy"] for mode, values in modes.items()}
        said = {m: "no images" if s is None else f"{100 * s:.2f} %" for m, s in shares.items()}
        cells = [f"{text:>{max(MODE_WIDTH, len(mode))}}" for mode, text in said.items()]
        lines.append(f"  {entry['class']:<{width}}  {entry['n']:>6}  " + "  ".join(cells))
    return lines
