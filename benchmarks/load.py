"""Load on an HTTP server by wrk: requests a second, the median latency, and what went wrong."""

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Shot:
    """A request that is sent over and over."""

    url: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Load:
    """What wrk saw. failed: the share of answers that were not 200, and of requests without any."""

    requests_per_s: float
    p50_ms: float
    failed: float


def load(shot: Shot, *, connections: int, seconds: float) -> Load:
    """Send a request over and over, on so many connections at a time."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(shot.body)
        headers = "".join(
            f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}\n"
            for name, value in shot.headers.items()
        )
        script.write_text(
            f'wrk.method = "POST"\nlocal f = io.open("{body}", "rb")\n'
            f'wrk.body = f:read("*all")\nf:close()\n{headers}'
        )
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s"]
        command += ["--latency", "-s", str(script), shot.url]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return read(said)


def read(said: str) -> Load:
    """What wrk printed, as numbers."""
    total = int(_number(r"(\d+) requests in", said))
    wrong = int(_number(r"Non-2xx or 3xx responses: (\d+)", said))
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said
    )
    lost = sum(map(int, errors.groups())) if errors else 0
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", said)
    p50 = float(median[1]) * _UNITS[median[2]] if median else float("nan")
    share = (wrong + lost) / max(1, total + lost)
    return Load(_number(r"Requests/sec:\s+([\d.]+)", said), p50, share)


def _number(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    return float(found[1]) if found else 0.0
