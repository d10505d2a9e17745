"""The tables of the documents, made from benchmarks/results/: `python -m benchmarks.tables` writes them.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; tests compare it with the results.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "docs/augself.md",
    "docs/bundle.md",
    "docs/images.md",
    "docs/serving.md",
    "docs/sla.md",
)
_TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    """Write every table anew."""
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text()))


def filled(text: str) -> str:
    """The document with every table made from its results."""
    return _TABLE.sub(lambda found: found[1] + table(found["name"]) + found[3], text)


def table(name: str) -> str:
    """A table as Markdown, with what it was measured on.

    Raises:
        FileNotFoundError: there are no results of that name.
    """
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return TABLES[name](results)


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


def _first_answer(results: dict[str, Any]) -> str:
    steps = results["steps"]
    return (
        "| installing | training | export and verification | clone to first answer | second `make serve` |\n"
        "|---|---|---|---|---|\n"
        f"| {steps['install_s']:.0f} s | {steps['training_s']:.0f} s | {steps['export_s']:.0f} s "
        f"| {results['first_answer_s']:.0f} s | {results['second_start_s']:.0f} s |\n\n"
        f"n = {results['n']}, {results['hardware']}, Python {results['versions']['python']}, "
        f"packages from a nearby mirror. Made by `{results['command']}`.\n"
    )


def _serving(results: dict[str, Any]) -> str:
    lines = [
        "| what | requests/s | images/s | of onnxruntime alone | p50, ms | failed |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        lines.append(
            f"| {row['name']} | {row['requests_per_s']:,.0f} | {row['images_per_s']:,.0f} | {ratio} "
            f"| {row['p50_ms']:.1f} | {100 * row['failed']:.1f} % |"
        )
    known = results["versions"]
    lines.append("")
    lines.append(
        f"{results['what']}; medians (and extremes) of {results['n']} turns of {results['seconds']} s. onnxruntime "
        f"alone runs the same graph in batches of 32 on all threads, before and after each turn. "
        f"{results['hardware']}; "
        + ", ".join(f"{name} {known[name]}" for name in sorted(known))
        + f". Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _precision(results: dict[str, Any]) -> str:
    lines = ["| precision | as fast as fp32 | size of the graph |", "|---|---|---|"]
    for name, row in results["rows"].items():
        low, high = row["ratio"]["quartiles"]
        spread = "" if name == "fp32" else f" (quartiles {low:.2f} to {high:.2f})"
        lines.append(
            f"| {name} | {row['ratio']['median']:.2f} x{spread} | {row['bytes'] / 1e6:.2f} MB |"
        )
    lines.append("")
    side = results["side_px"]
    lines.append(
        f"ResNet-32, `{results['graph']}`, {side} x {side}, batch {results['batch']}, one thread, "
        f"n = {results['turns']} turns of each, other programmes running beside it. {results['hardware']}, onnxruntime "
        f"{results['versions']['onnxruntime']}. Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _jpeg(results: dict[str, Any]) -> str:
    lines = [
        "| at least | of whole decoding's time, JPEG of "
        + " | ".join(f"{s['megabytes']} MB" for s in results["speed"])
        + " | same class | top-1, points | mean difference of pixels |",
        "|---|" + "---|" * (len(results["speed"]) + 3),
    ]
    for margin, found in results["accuracy"].items():
        ratios = " | ".join(f"{s['ratio'][margin]:.2f}" for s in results["speed"])
        agree, gain = (
            {key: 100 * value for key, value in found[name].items()}
            for name in ("agreement", "top1_gain")
        )
        lines.append(
            f"| {margin} times | {ratios} | {agree['mean']:.1f} ± {agree['half_width_95']:.1f} % "
            f"| {gain['mean']:+.1f} ± {gain['half_width_95']:.1f} | {found['pixel_difference']:.1f} |"
        )
    speed, (one, *_) = results["speed"][0], results["accuracy"].values()
    whole = ", ".join(f"{1000 * s['p50_s']['whole']:.0f}" for s in results["speed"])
    versions = results["versions"]
    lines.append("")
    lines.append(
        f"{speed['picture']}; medians of {speed['n']}, taken alternately, in processor time; whole: {whole} ms. "
        f"Classes: {one['agreement']['n']} test images, means over {one['runs'] // 2} networks each, 95 % intervals "
        f"over images. {results['hardware']}, Pillow {versions['pillow']}, libjpeg-turbo {versions['libjpeg-turbo']}. "
        f"Made by `{results['command']}`."
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


def _hot_path(results: dict[str, Any]) -> str:
    loaded, alone = results["under_load_us"], results["in_one_process_us"]
    whole, bare = alone["whole_answer"], alone["answer_without_bentoml"]
    rows = {
        "threads that run the network": loaded["network"],
        "the event loop": loaded["event_loop"],
        "the load generator": loaded["load_generator"],
        "nobody (waiting for each other), or other programmes": loaded["idle_or_others"],
        "*onnxruntime alone, the same image*": loaded["onnxruntime_alone"],
        "*of the loop, measured by itself:* decoding the PNG": alone["decoding"],
        "*the same:* the answer, handing over to another thread and back": bare - alone["decoding"],
        "*the same:* BentoML's layers and the gate around them": whole - bare,
    }
    lines = ["| who | microseconds a request |", "|---|---|"]
    lines += [f"| {who} | {microseconds:,.0f} |" for who, microseconds in rows.items()]
    lines.append("")
    lines.append(
        f"{results['what']}; medians of {results['n']} rounds, of all processors together. {results['hardware']}, "
        f"bentoml {results['versions']['bentoml']}. Made by `{results['command']}`."
    )
    return "\n".join(lines) + "\n"


def _memory(results: dict[str, Any]) -> str:
    lines = ["| network | modes | loaded, MB | with full batches, MB |", "|---|---|---|---|"]
    for bundle in results["bundles"]:
        for row in bundle["rows"]:
            modes = ", ".join(f"`{mode}`" for mode in row["modes"])
            lines.append(
                f"| {bundle['backbone']}, {bundle['image']} | {modes} | {row['loaded_mb']:.0f} | {row['most_mb']:.0f} |"
            )
    lines.append("")
    lines.append(
        f"Beside the process itself, n = 1, one process a line. {results['hardware']}, onnxruntime "
        f"{results['versions']['onnxruntime-gpu']}. Made by `{results['command']}`."
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
        f"measured on {images['test']:,} test images. torch {versions['torch']}. Made by `{results['command']}`."
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


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "digits": _accuracy,
    "cifar10-small": _accuracy,
    "folding": _folding,
    "training_speed": _training_speed,
    "first_answer": _first_answer,
    "serving": _serving,
    "precision": _precision,
    "jpeg": _jpeg,
    "augself_speed": _augself_speed,
    "hot_path": _hot_path,
    "memory": _memory,
    "auto-digits": _auto,
    "auto-cifar10-small": _auto,
}

if __name__ == "__main__":
    main()
