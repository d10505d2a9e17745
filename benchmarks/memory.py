"""What each mode costs a server in memory: `python -m benchmarks.memory BUNDLE...`, on Linux, seconds a bundle.

Each line is of a fresh process that loads modes of a bundle as a server's worker does, warms up, and answers as many
images at once as a server would. Memory is resident memory, less that of the process before it loaded anything. Writes
benchmarks/results/memory.json.
"""

import argparse
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serving import bundle
from serving.images import ImageSpec
from serving.limits import available_cpus, images_at_once
from serving.modes import graphs_of
from serving.predictor import Predictor
from training.json_files import write_json

RESULTS = Path(__file__).parent / "results"
STATUS = Path("/proc/self/status")


def main() -> None:
    """Measure, print and write; or, in a process of its own, measure one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--modes", nargs="+", help="only these, and print what they take")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    settings = parser.parse_args()
    if settings.modes is not None:
        print(json.dumps(taken(settings.bundles[0], settings.modes)))
        return
    from training.device import cpu_name  # with torch, which a server's process does not hold

    found = [measured(path) for path in settings.bundles]
    content = {
        "command": "python -m benchmarks.memory BUNDLE...",
        "hardware": f"{cpu_name()}, {available_cpus()} processors",
        "versions": {name: version(name) for name in ("onnxruntime-gpu", "numpy")},
        "bundles": found,
    }
    write_json(settings.out, content)
    for one in found:
        print(one["name"], *(f"{row['modes']}: {row}" for row in one["rows"]), sep="\n  ")


def measured(path: Path) -> dict[str, Any]:
    """Each mode of a bundle by itself, and all together."""
    manifest = bundle.read(path).manifest
    spec = ImageSpec(**manifest.image)
    choices = [[mode] for mode in manifest.mode_names]
    choices += [[*manifest.mode_names]] if len(choices) > 1 else []
    return {
        "name": manifest.name,
        "backbone": manifest.provenance["config"]["backbone"],
        "image": f"{spec.width} x {spec.height}",
        "rows": [{"modes": modes, **in_a_process(path, modes)} for modes in choices],
    }


def in_a_process(path: Path, modes: list[str]) -> dict[str, float]:
    """What `taken` finds, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.memory", str(path), "--modes", *modes]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return found


def taken(path: Path, modes: list[str]) -> dict[str, float]:
    """Resident megabytes once the modes are loaded and warm, and at most while full batches are answered."""
    before = status("VmRSS")
    predictor = Predictor(bundle.read(path), device="cpu", modes=modes, concurrent=True)
    predictor.warm_up()
    loaded = status("VmRSS") - before
    spec = predictor.spec
    for mode in modes:
        passes = predictor.graph(graphs_of(predictor.manifest, mode)[-1]).forward_passes
        count = max(1, images_at_once(spec) // passes)
        predictor.predict(np.zeros((count, spec.height, spec.width, 3), np.uint8), mode)
    return {"loaded_mb": loaded, "most_mb": status("VmHWM") - before}


def status(field: str) -> float:
    """A field of the process's memory, in MB. field: VmRSS, or VmHWM for the most so far."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
