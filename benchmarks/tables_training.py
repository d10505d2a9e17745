"""The tables of what is trained: results in, Markdown out."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.markdown import grid, section


def accuracy(
    results: dict[str, Any], more: Sequence[str] = (), *, with_seconds: bool = False
) -> str:
    """Every row and mode of an experiment, the differences that are compared, and more lines, if there are any.

    with_seconds: of training, which mean something only where nothing else ran.
    """
    seconds = ("training, s",) if with_seconds else ()
    headings = ("trained as", "answered by", "forward passes", "top-1 %", "NLL", "ECE", *seconds)
    rows = [
        (
            row["row"],
            f"`{row['mode']}`",
            str(row["forward_passes"]),
            _percent(row["top1"]),
            spread(row["nll"], ".3f"),
            spread(row["ece"], ".3f"),
            *(spread(row["seconds"], ".0f") for _ in seconds),
            str(row["seeds"]),
        )
        for row in results["table"]
    ]
    versions = results["runs"][0]["versions"]
    hardware = sorted({run["hardware"] for run in results["runs"]})
    table = grid((*headings, "seeds"), rows)
    return section(
        [*table, *_differences(results["comparisons"]), *more],
        f"Mean ± standard deviation over the seeds, {results['table'][0]['images']:,} test images, one fixed "
        f"split. {'; '.join(hardware)}, torch {versions['torch']}, Python {versions['python']}. "
        f"Made by `{results['command']}`.",
    )


def _folding(results: dict[str, Any]) -> str:
    headings = ("way", "answered by", "forward passes", "validation top-1 %", "NLL", "seeds")
    rows = [
        (
            row["row"],
            f"`{row['mode']}`",
            str(row["forward_passes"]),
            _percent(row["top1"]),
            spread(row["nll"], ".3f"),
            str(row["seeds"]),
        )
        for row in results["validation"]
    ]
    images = results["validation"][0]["images"]
    return section(
        grid(headings, rows),
        f"Mean ± standard deviation over the seeds, {images:,} validation images. Made by `{results['command']}`.",
    )


def _differences(comparisons: list[dict[str, Any]]) -> list[str]:
    if not comparisons:
        return []
    headings = ("difference in top-1, paired by seed", "points, 95 % interval", "seeds")
    rows = [
        (
            f"{line['row']} `{line['mode']}` − {line['against_row']} `{line['against_mode']}`",
            _half_width(line["top1"]),
            str(line["top1"]["n"]),
        )
        for line in comparisons
    ]
    return ["", *grid(headings, rows)]


def _training_speed(results: dict[str, Any]) -> str:
    names = {
        "resident": "straightforward, fp32, images in memory",
        "loader": "straightforward, fp32, DataLoader and Pillow",
        "ours": "viewfold",
        "ours, not compiled": "viewfold, `--compile off`",
    }
    ours = results["loops"]["ours"]["median_s"]
    rows = [
        (
            names[name],
            f"{loop['median_s']:.3f} ({loop['min_s']:.3f} to {loop['max_s']:.3f})",
            f"{loop['images_per_s']:.0f}",
            f"{loop['median_s'] / ours:.2f} x",
        )
        for name, loop in results["loops"].items()
    ]
    return section(
        grid(("loop", "seconds a step", "images/s", "over viewfold's"), rows),
        f"{results['what']}, batch {results['batch_size']}; medians (and extremes) of {results['n']} steps each, taken "
        f"alternately. {results['hardware']}, torch {results['versions']['torch']}. Made by `{results['command']}`.",
    )


def _augself_speed(results: dict[str, Any]) -> str:
    headings = ("network", "method", "plain step, s", "with AugSelf, s")
    rows = []
    for recipe in results.values():
        for method, row in recipe["methods"].items():
            low, high = row["ratio"]["quartiles"]
            cells = [recipe["what"], method, f"{row['plain_s']:.2f}", f"{row['augself_s']:.2f}"]
            ratio = f"{row['ratio']['median']:.3f} ({low:.3f} to {high:.3f})"
            rows.append((*cells, ratio, str(recipe["turns"])))
    some = next(iter(results.values()))
    hardware = "; ".join(sorted({recipe["hardware"] for recipe in results.values()}))
    return section(
        grid((*headings, "ratio of a turn (quartiles)", "turns"), rows),
        f"{hardware}, torch {some['versions']['torch']}. Made by `python -m benchmarks.augself_speed RECIPE`.",
    )


def _logistic(results: dict[str, Any]) -> str:
    rows = [
        (name, *(_range(row[clock]) for clock in ("processor_s", "clock_s")))
        for name, row in results["rows"].items()
    ]
    size, encoder = results["size"], results["encoder"]
    return section(
        grid(("what is fitted", "processor's time, s", "by the clock, s"), rows),
        f"Medians (and extremes) of {results['turns']} turns, threads: {results['threads']}. {size['fit']:,} images to "
        f"fit, {size['choose']:,} to choose on, {size['features']} features, {size['classes']} classes. The encoder: "
        f"{encoder['backbone']} by {encoder['method']}, {encoder['epochs']} epochs of {results['learnt_from']:,} "
        f"images of {encoder['data']} at {results['side']} px; its images are mirrored as well. {results['hardware']}, "
        f"torch {results['versions']['torch']}. Made by `{results['command']}`.",
    )


def _range(value: dict[str, float]) -> str:
    return f"{value['median']:.1f} ({value['min']:.1f} to {value['max']:.1f})"


def _augself(results: dict[str, Any]) -> str:
    gains = [
        {"row": f"{line['row']} − {line['against']}", "numbers": line["gains"]}
        for line in results["comparisons"]
    ]
    names = list(dict.fromkeys(key for line in results["table"] for key in line["numbers"]))
    measured = [_numbers(line, names, sign="") for line in results["table"]]
    rows = grid(("pretrained by", *_units(names), "seeds"), measured)
    if gains:
        differences = [_numbers(line, names, sign="+") for line in gains]
        rows += ["", *grid(("gain, paired by seed", *_units(names), "seeds"), differences)]
    runs = results["runs"]
    images = ", ".join(
        f"{probe['test']['plain']['n']:,} of {name}" for name, probe in runs[0]["probes"].items()
    )
    hardware = "; ".join(sorted({run["hardware"] for run in runs}))
    return section(
        rows,
        f"Mean ± 95 % interval over the seeds of pretraining; test images: {images}. Top-1 of a linear probe; kNN: of "
        f"20 nearest neighbours, without a name on held-out images of the pretraining set. ω: the share of two views' "
        f"difference that is told. {hardware}, torch {runs[0]['versions']['torch']}. Made by `{results['command']}`.",
    )


def _units(names: list[str]) -> list[str]:
    return [f"{name}, R²" if name.startswith("ω") else f"{name}, top-1 %" for name in names]


def _numbers(line: dict[str, Any], names: list[str], *, sign: str) -> tuple[str, ...]:
    """A line's name, its numbers with their 95 % intervals, and of how many seeds they are."""
    found = line["numbers"]
    cells = []
    for name in names:
        if name not in found:
            cells.append("-")
            continue
        scale, form = (1, ".3f") if name.startswith("ω") else (100, ".2f")
        half = found[name]["half_width_95"]
        rest = "" if half is None else f" ± {scale * half:{form}}"
        cells.append(f"{scale * found[name]['mean']:{sign}{form}}{rest}")
    return (line["row"], *cells, str(next(iter(found.values()))["n"]))


def _views_speed(results: dict[str, Any]) -> str:
    headings = ("network", "the views, s", "forward pass, s", "ratio of a turn (quartiles)")
    rows = []
    for found in results.values():
        low, high = found["ratio"]["quartiles"]
        seconds = [f"{found[key]:.3f}" for key in ("views_s", "forward_s")]
        ratio = f"{found['ratio']['median']:.3f} ({low:.3f} to {high:.3f})"
        rows.append((found["what"], *seconds, ratio, str(found["turns"]), found["hardware"]))
    some = next(iter(results.values()))
    return section(
        grid((*headings, "turns", "hardware"), rows),
        f"torch {some['versions']['torch']}. Made by `{some['command']}`.",
    )


def _auto(results: dict[str, Any]) -> str:
    headings = ("trained as", "one pass, top-1 %", "`aggregated`", "`auto`", "passes")
    rows = [
        (
            f"{row['row']}, `{row['first_pass']}`",
            *(f"{100 * row[key]['mean']:.2f}" for key in ("first", "aggregated", "auto")),
            f"{row['forward_passes']['mean']:.2f}",
            _half_width(row["lost"]),
            str(row["lost"]["n"]),
        )
        for row in results["table"]
    ]
    table = grid((*headings, "`aggregated` − `auto`, points", "seeds"), rows)
    images, versions = results["runs"][0]["images"], results["versions"]
    return section(
        [*table, *_draws(results["draws"])],
        f"Means over the seeds (95 % intervals, paired by seed); chosen on {images['validation']:,} validation images, "
        f"measured on {images['test']:,} test images. {results['hardware']}, torch {versions['torch']}. "
        f"Made by `{results['command']}`.",
    )


def _draws(draws: list[dict[str, Any]]) -> list[str]:
    if not draws:
        return []
    headings = ("trained as", "images to choose on", "rule", "passes")
    rows = [
        (
            draw["row"],
            f"{draw['images']:,}",
            draw["rule"],
            f"{draw['forward_passes']:.2f}",
            f"{100 * draw['lost']:+.2f}, in one of ten at least {100 * draw['lost_90']:+.2f}",
            f"{100 * draw['over']:.0f} % of draws",
        )
        for draw in draws
    ]
    return ["", *grid((*headings, "lost on others, points", "more than 0.2 lost"), rows)]


def _half_width(value: dict[str, Any]) -> str:
    half = value["half_width_95"]
    return f"{100 * value['mean']:+.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def _percent(value: dict[str, Any]) -> str:
    percent = {key: None if number is None else 100 * number for key, number in value.items()}
    return spread(percent, ".2f")


def spread(value: dict[str, Any], form: str) -> str:
    """A mean, and its standard deviation where there is one."""
    if value["sd"] is None:  # of one seed
        return f"{value['mean']:{form}}"
    return f"{value['mean']:{form}} ± {value['sd']:{form}}"


TRAINING: dict[str, Callable[[dict[str, Any]], str]] = {
    "digits": accuracy,
    "cifar10-small": accuracy,
    "folding": _folding,
    "training_speed": _training_speed,
    "augself_speed": _augself_speed,
    "logistic": _logistic,
    "augself-small": _augself,
    "augself": _augself,
    "views_speed": _views_speed,
    "auto-digits": _auto,
    "auto-cifar10-small": _auto,
}

# tables that stand in the documents before anybody has measured them
NOT_RUN = {
    "augself-small": "`python -m benchmarks.augself augself-small --data DIR`, for a CPU",
    "augself": "`python -m benchmarks.gpu augself --data DIR`, for a GPU",
}
