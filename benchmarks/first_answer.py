"""From a clean clone to the first answer: `python -m benchmarks.first_answer`.

Clones this repository into an empty folder, runs `make serve` there, twice, and writes how long each step took
into benchmarks/results/first_answer.json. What pip has in its cache is left there: say so when you quote it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from training.device import cpu_name
from training.json_files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "first_answer.json"
LIMIT_S = 1800
STEPS = {
    "install_s": r"installed in (\d+) s",
    "training_s": r"trained in ([\d,]+) s",
    "export_s": r"exported bundle in ([\d.]+) s",
}


def main() -> None:
    """Clone, make serve, ask, stop, and once more."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "viewfold"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
        ).stdout.strip()
        first, log = serve_and_ask(clone)
        second, _ = serve_and_ask(clone)
        python = clone / ".venv" / "bin" / "python"
        version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True)
    steps = {
        name: float(re.findall(pattern, log)[-1].replace(",", ""))
        for name, pattern in STEPS.items()
    }
    content = {
        "command": "python -m benchmarks.first_answer",
        "n": 1,
        "hardware": f"{cpu_name()}, {os.cpu_count()} processors",
        "versions": {"python": version.stdout.split()[1]},
        "commit": commit,
        "steps": steps,
        "first_answer_s": round(first, 1),
        "second_start_s": round(second, 1),
    }
    write_json(RESULT, content)
    print(json.dumps(content, indent=1))


def serve_and_ask(clone: Path) -> tuple[float, str]:
    """(seconds from `make serve` to an answer, what it printed)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = clone.parent / "log"
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "serve", f"PORT={port}"],
            cwd=clone,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        answer = first_answer(clone, port, process, log)
        seconds = time.perf_counter() - start
        print(f"{seconds:.1f} s: {answer}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    return seconds, log.read_text()


def first_answer(
    clone: Path, port: int, process: "subprocess.Popen[bytes]", log: Path
) -> dict[str, Any]:
    """The first answer that the server gives to an image of a seven."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"make serve ended:\n{log.read_text()}")
        try:
            data = (clone / "bundle" / "samples" / "7.png").read_bytes()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", data=data)
            with urllib.request.urlopen(request, timeout=30) as response:
                return dict(json.load(response))
        except OSError:  # no bundle yet, or nobody listening yet
            time.sleep(0.5)
    raise SystemExit(f"no answer after {LIMIT_S} s:\n{log.read_text()}")


if __name__ == "__main__":
    main()
