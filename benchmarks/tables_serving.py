"""The tables of what is served: results in, Markdown out."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.markdown import grid, section


def _first_answer(results: dict[str, Any]) -> str:
    steps = results["steps"]
    seconds = {
        "installing": steps["install_s"],
        "training": steps["training_s"],
        "export and verification": steps["export_s"],
        "clone to first answer": results["first_answer_s"],
        "second `make serve`": results["second_start_s"],
    }
    return section(
        grid([*seconds], [[f"{value:.0f} s" for value in seconds.values()]]),
        f"n = {results['n']}, {results['hardware']}, Python {results['versions']['python']}, "
        f"packages from a nearby mirror. Made by `{results['command']}`.",
    )


def _serving(results: dict[str, Any]) -> str:
    headings = ("what", "requests/s", "images/s", "of onnxruntime alone", "p50, ms", "failed")
    rows = [
        (
            row["name"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['images_per_s']:,.0f}",
            f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
            f"{row['p50_ms']:.1f}",
            f"{100 * row['failed']:.1f} %",
        )
        for row in results["rows"]
    ]
    known = results["versions"]
    return section(
        [*grid(headings, rows), "", *_goals(results)],
        f"{results['what']}; medians (and extremes) of {results['n']} turns of {results['seconds']} s. onnxruntime "
        f"alone runs the same graph in batches of 32 on all threads, before and after each turn. "
        f"{results['hardware']}; "
        + ", ".join(f"{name} {known[name]}" for name in sorted(known))
        + f". Made by `{results['command']}`.",
    )


def _goals(results: dict[str, Any]) -> list[str]:
    """What was aimed at, and what was reached."""
    ratio = {row["name"]: row["ratio"] for row in results["rows"]}
    more, start = results["one_connection"]["more_ms"], results["start_s"]["median"]
    over_usual = ratio["raw body"] / ratio["BentoML, usual"]
    rows = [
        ("raw body, of onnxruntime alone", "0.80 or more", f"{ratio['raw body']:.2f}"),
        ("raw body, over the usual BentoML service", "6 x or more", f"{over_usual:.1f} x"),
        (
            "32 images a request, of onnxruntime alone",
            "0.95 or more",
            f"{ratio['32 images, multipart']:.2f}",
        ),
        (
            "aggregated, of onnxruntime alone running that graph",
            "0.90 or more",
            f"{ratio['aggregated, raw body']:.2f}",
        ),
        ("one connection, over one run of onnxruntime", "0.6 ms or less", f"{more:.2f} ms"),
        ("from `viewfold serve` to `/readyz`", "less than 4 s", f"{start:.1f} s"),
    ]
    return grid(("goal", "aimed at", "reached"), rows)


def _hot_path(results: dict[str, Any]) -> str:
    loaded, alone = results["under_load_us"], results["in_one_process_us"]
    whole, bare = alone["whole_answer"], alone["answer_without_bentoml"]
    microseconds = {
        "threads that run the network": loaded["network"],
        "the event loop": loaded["event_loop"],
        "the load generator": loaded["load_generator"],
        "nobody (waiting for each other), or other programmes": loaded["idle_or_others"],
        "*onnxruntime alone, the same image*": loaded["onnxruntime_alone"],
        "*of the loop, measured by itself:* decoding the PNG": alone["decoding"],
        "*the same:* the answer, handing over to another thread and back": bare - alone["decoding"],
        "*the same:* BentoML's layers and the gate around them": whole - bare,
    }
    quick = loaded["onnxruntime_alone"] / sum(
        loaded[who] for who in ("onnxruntime_alone", "event_loop", "load_generator")
    )
    return section(
        grid(
            ("who", "microseconds a request"),
            [(who, f"{value:,.0f}") for who, value in microseconds.items()],
        ),
        f"With no processor idle, and the network as quick as alone, it would be {quick:.2f} of onnxruntime alone. "
        f"{results['what']}; medians of {results['n']} rounds, of all processors together. {results['hardware']}, "
        f"bentoml {results['versions']['bentoml']}. Made by `{results['command']}`.",
    )


def _one_connection(results: dict[str, Any]) -> str:
    took, more = results["ms"], results["more_ms"]
    parts = {
        "before the network: reading the request, BentoML's layers, decoding the PNG": took[
            "before_network"
        ],
        "the network": took["network"],
        "*onnxruntime alone, the same image, over and over*": took["alone"],
        "after it: the answer as JSON, BentoML's layers, sending": took["after_network"],
        "outside: parsing HTTP, sockets, the client itself": took["outside"],
        "the client waits": took["whole"],
    }
    return section(
        grid(("what", "ms"), [(what, f"{value:.2f}") for what, value in parts.items()]),
        f"The client waits {statistics.median(more):.2f} ({min(more):.2f} to {max(more):.2f}) ms longer than "
        f"onnxruntime alone; {100 * took['on_loop']:.0f} % of the runs were on the event loop. One process, one "
        f"connection; medians of {results['n']} rounds of {results['seconds']} s. {results['hardware']}, bentoml "
        f"{results['versions']['bentoml']}. Made by `{results['command']}`.",
    )


def _memory(results: dict[str, Any]) -> str:
    rows = [
        (
            f"{bundle['backbone']}, {bundle['image']}",
            ", ".join(f"`{mode}`" for mode in row["modes"]),
            f"{row['loaded_mb']:.0f}",
            f"{row['most_mb']:.0f}",
        )
        for bundle in results["bundles"]
        for row in bundle["rows"]
    ]
    return section(
        grid(("network", "modes", "loaded, MB", "with full batches, MB"), rows),
        f"Beside the process itself, n = 1, one process a line. {results['hardware']}, onnxruntime "
        f"{results['versions']['onnxruntime-gpu']}. Made by `{results['command']}`.",
    )


def _precision(results: dict[str, Any]) -> str:
    rows = []
    for name, row in results["rows"].items():
        low, high = row["ratio"]["quartiles"]
        spread = "" if name == "fp32" else f" (quartiles {low:.2f} to {high:.2f})"
        rows.append(
            (name, f"{row['ratio']['median']:.2f} x{spread}", f"{row['bytes'] / 1e6:.2f} MB")
        )
    side = results["side_px"]
    return section(
        grid(("precision", "as fast as fp32", "size of the graph"), rows),
        f"ResNet-32, `{results['graph']}`, {side} x {side}, batch {results['batch']}, one thread, "
        f"n = {results['turns']} turns of each, other programmes running beside it. {results['hardware']}, onnxruntime "
        f"{results['versions']['onnxruntime']}. Made by `{results['command']}`.",
    )


def _jpeg(results: dict[str, Any]) -> str:
    sizes = [f"{s['megabytes']} MB" for s in results["speed"]]
    sizes[0] = f"of whole decoding's time, JPEG of {sizes[0]}"
    headings = ("at least", *sizes, "same class", "top-1, points", "mean difference of pixels")
    rows = []
    for margin, found in results["accuracy"].items():
        agree, gain = (
            {key: 100 * value for key, value in found[name].items()}
            for name in ("agreement", "top1_gain")
        )
        rows.append(
            (
                f"{margin} times",
                *(f"{s['ratio'][margin]:.2f}" for s in results["speed"]),
                f"{agree['mean']:.1f} ± {agree['half_width_95']:.1f} %",
                f"{gain['mean']:+.1f} ± {gain['half_width_95']:.1f}",
                f"{found['pixel_difference']:.1f}",
            )
        )
    speed, (one, *_) = results["speed"][0], results["accuracy"].values()
    whole = ", ".join(f"{1000 * s['p50_s']['whole']:.0f}" for s in results["speed"])
    versions = results["versions"]
    return section(
        grid(headings, rows),
        f"{speed['picture']}; medians of {speed['n']}, taken alternately, in processor time; whole: {whole} ms. "
        f"Classes: {one['agreement']['n']} test images, means over {one['runs'] // 2} networks each, 95 % intervals "
        f"over images. {results['hardware']}, Pillow {versions['pillow']}, libjpeg-turbo {versions['libjpeg-turbo']}. "
        f"Made by `{results['command']}`.",
    )


SERVING: dict[str, Callable[[dict[str, Any]], str]] = {
    "first_answer": _first_answer,
    "serving": _serving,
    "precision": _precision,
    "jpeg": _jpeg,
    "hot_path": _hot_path,
    "one_connection": _one_connection,
    "memory": _memory,
}
