"""The tables of what is trained: results in, Markdown out."""

from collections.abc import Callable
from typing import Any


def _accuracy(results: dict[str, Any]) -> str:
    lines = [
        "| trained as | answered by | forward passes | top-1 % | NLL | ECE | training, s | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["table"]:
        cells = [row["row"], f"`{row['mode']}`", str(row["forward_passes"]), _percent(row["top1"])]
        cells += [
            _spread(row["nll"], ".3f"),
            _spread(row["ece"], ".3f"),
            _spread(row["seconds"], ".0f"),
            str(row["seeds"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_differences(results["comparisons"])]
    versions = results["runs"][0]["versions"]
    hardware = sorted({run["hardware"] for run in results["runs"]})
    lines.append(
        f"Mean ± standard deviation over the seeds, {results['table'][0]['images']:,} test images, one fixed "
        f"split. {'; '.join(hardware)}, torch {versions['torch']}, Python {versions['python']}. "
        f"Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _folding(results: dict[str, Any]) -> str:
    lines = [
        "| way | answered by | forward passes | validation top-1 % | NLL | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["validation"]:
        cells = [row["row"], f"`{row['mode']}`", str(row["forward_passes"]), _percent(row["top1"])]
        cells += [_spread(row["nll"], ".3f"), str(row["seeds"])]
        lines.append("| " + " | ".join(cells) + " |")
    images = results["validation"][0]["images"]
    lines.append("")
    lines.append(
        f"Mean ± standard deviation over the seeds, {images:,} validation images. Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _differences(comparisons: list[dict[str, Any]]) -> list[str]:
    if not comparisons:
        return []
    lines = [
        "| difference in top-1, paired by seed | points, 95 % interval | seeds |",
        "|---|---|---|",
    ]
    for line in comparisons:
        lines.append(
            f"| {line['row']} `{line['mode']}` − {line['against_row']} `{line['against_mode']}` "
            f"| {_half_width(line['top1'])} | {line['top1']['n']} |"
        )
    return [*lines, ""]


def _training_speed(results: dict[str, Any]) -> str:
    lines = ["| loop | seconds a step | images/s | as fast as ours |", "|---|---|---|---|"]
    names = {
        "resident": "straightforward, fp32, images in memory",
        "loader": "straightforward, fp32, DataLoader and Pillow",
        "ours": "viewfold",
        "ours, not compiled": "viewfold, `--compile off`",
    }
    ours = results["loops"]["ours"]["median_s"]
    for name, loop in results["loops"].items():
        lines.append(
            f"| {names[name]} | {loop['median_s']:.3f} ({loop['min_s']:.3f} to {loop['max_s']:.3f}) "
            f"| {loop['images_per_s']:.0f} | {ours / loop['median_s']:.2f} x |"
        )
    versions = results["versions"]
    lines.append("")
    lines.append(
        f"{results['what']}, batch {results['batch_size']}; medians (and extremes) of {results['n']} steps each, taken "
        f"alternately. {results['hardware']}, torch {versions['torch']}. Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _augself_speed(results: dict[str, Any]) -> str:
    lines = [
        "| network | method | plain step, s | with AugSelf, s | ratio of a turn (quartiles) | turns |",
        "|---|---|---|---|---|---|",
    ]
    for recipe in results.values():
        for method, row in recipe["methods"].items():
            low, high = row["ratio"]["quartiles"]
            lines.append(
                f"| {recipe['what']} | {method} | {row['plain_s']:.2f} | {row['augself_s']:.2f} "
                f"| {row['ratio']['median']:.3f} ({low:.3f} to {high:.3f}) | {recipe['turns']} |"
            )
    some = next(iter(results.values()))
    hardware = "; ".join(sorted({recipe["hardware"] for recipe in results.values()}))
    lines.append("")
    lines.append(
        f"{hardware}, torch {some['versions']['torch']}. Made by `python -m benchmarks.augself_speed RECIPE`."
    )
    return "\n".join(lines) + "\n"


def _auto(results: dict[str, Any]) -> str:
    lines = [
        "| trained as | one pass, top-1 % | `aggregated` | `auto` | passes | `aggregated` − `auto`, points | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["table"]:
        top1 = [f"{100 * row[key]['mean']:.2f}" for key in ("first", "aggregated", "auto")]
        cells = [f"{row['row']}, `{row['first_pass']}`", *top1]
        cells += [f"{row['forward_passes']['mean']:.2f}", _half_width(row["lost"])]
        lines.append("| " + " | ".join([*cells, str(row["lost"]["n"])]) + " |")
    if results["draws"]:
        lines += ["", *_draws(results["draws"])]
    images, versions = results["runs"][0]["images"], results["versions"]
    lines.append("")
    lines.append(
        f"Means over the seeds (95 % intervals, paired by seed); chosen on {images['validation']:,} validation images, "
        f"measured on {images['test']:,} test images. {results['hardware']}, torch {versions['torch']}. "
        f"Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _draws(draws: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| trained as | images to choose on | rule | passes | lost on others, points | more than 0.2 lost |",
        "|---|---|---|---|---|---|",
    ]
    for draw in draws:
        lost = f"{100 * draw['lost']:+.2f}, in one of ten at least {100 * draw['lost_90']:+.2f}"
        cells = [draw["row"], f"{draw['images']:,}", draw["rule"], f"{draw['forward_passes']:.2f}"]
        lines.append(
            "| " + " | ".join([*cells, lost, f"{100 * draw['over']:.0f} % of draws"]) + " |"
        )
    return lines


def _half_width(value: dict[str, Any]) -> str:
    half = value["half_width_95"]
    return f"{100 * value['mean']:+.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def _percent(value: dict[str, Any]) -> str:
    percent = {key: None if number is None else 100 * number for key, number in value.items()}
    return _spread(percent, ".2f")


def _spread(value: dict[str, Any], form: str) -> str:
    if value["sd"] is None:  # of one seed
        return f"{value['mean']:{form}}"
    return f"{value['mean']:{form}} ± {value['sd']:{form}}"


TRAINING: dict[str, Callable[[dict[str, Any]], str]] = {
    "digits": _accuracy,
    "cifar10-small": _accuracy,
    "folding": _folding,
    "training_speed": _training_speed,
    "augself_speed": _augself_speed,
    "auto-digits": _auto,
    "auto-cifar10-small": _auto,
}
