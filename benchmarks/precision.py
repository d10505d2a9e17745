"""What lower precision gains: `python -m benchmarks.precision`, under a minute.

ResNet-32 at 32 x 32, the graph of `distilled` as export writes it, in fp32, fp16 and int8, one thread of onnxruntime
on the CPU, batch 8. The precisions take turns; of each turn the seconds of fp32 are divided by those of the others, so
that what else the machine does hits all of them. Weights are random: this says nothing of accuracy, which export
measures of every bundle. Writes benchmarks/results/precision.json.
"""

import argparse
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import ModelProto

from benchmarks.training_speed import CONFIG, PROBLEM, RESULTS, SIDE
from export import convert, quantize
from export.graphs import shipped
from serving.images import Pixels
from training.checkpoint import build_network
from training.device import cpu_name
from training.json_files import write_json
from training.provenance import versions

MODE, BATCH, WARM_UP = "distilled", 8, 5


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=300, help="of each precision")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    settings = parser.parse_args()
    result = measure(settings.turns)
    settings.out.parent.mkdir(exist_ok=True, parents=True)
    write_json(settings.out, result)
    for name, row in result["rows"].items():
        print(
            f"{name}: {row['images_per_second']:,.0f} images/s, {row['ratio']['median']:.2f} x fp32"
        )


def measure(turns: int) -> dict[str, Any]:
    """Images a second of every precision, and the ratio to fp32 in the same turn."""
    images = np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 3), dtype=np.uint8)
    models = {"fp32": in_fp32()}
    for name in quantize.LOWER:
        models[name] = quantize.lower(models["fp32"], name, [{"images": images}])
    seconds = take_turns(models, images[:BATCH], turns)
    return {
        "command": "python -m benchmarks.precision",
        "network": CONFIG.backbone,
        "graph": MODE,
        "side_px": SIDE,
        "batch": BATCH,
        "threads": 1,
        "turns": turns,
        "hardware": f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "versions": versions() | {"onnxruntime": ort.__version__, "onnx": metadata.version("onnx")},
        "rows": {
            name: row(values, seconds["fp32"], models[name]) for name, values in seconds.items()
        },
    }


def in_fp32() -> ModelProto:
    """The graph of one pass by a network of random weights."""
    network = build_network(CONFIG, PROBLEM).eval()
    graph = shipped({MODE: network}, {MODE: 1.0}, height=SIDE, width=SIDE)[MODE]
    return convert.to_onnx(graph.module, graph.signature, {})


def take_turns(models: dict[str, ModelProto], images: Pixels, turns: int) -> dict[str, list[float]]:
    """Seconds of every run, by precision."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name, model in models.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + turns):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(["probabilities"], {"images": images})
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row(seconds: list[float], of_fp32: list[float], model: ModelProto) -> dict[str, Any]:
    """What is written of one precision. ratio: how many times as fast as fp32 in the same turn."""
    ratios = [a / b for a, b in zip(of_fp32, seconds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "n": len(seconds),
        "images_per_second": BATCH / statistics.median(seconds),
        "milliseconds": 1000 * statistics.median(seconds),
        "ratio": {"median": statistics.median(ratios), "quartiles": [low, high]},
        "bytes": len(model.SerializeToString()),
    }


if __name__ == "__main__":
    main()
