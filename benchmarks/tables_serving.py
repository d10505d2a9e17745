"""The tables of what is served: results in, Markdown out."""

from collections.abc import Callable
from typing import Any


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


SERVING: dict[str, Callable[[dict[str, Any]], str]] = {
    "first_answer": _first_answer,
    "serving": _serving,
    "precision": _precision,
    "jpeg": _jpeg,
    "hot_path": _hot_path,
    "memory": _memory,
}
