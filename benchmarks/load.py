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
    """A request that is sent over and over. bodies: taken in turn, where there are several."""

    url: str
    bodies: tuple[bytes, ...]
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
        script = Path(folder) / "post.lua"
        script.write_text(_script(shot, Path(folder)))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s"]
        command += ["--latency", "-s", str(script), shot.url]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return read(said)


def _script(shot: Shot, folder: Path) -> str:
    """What wrk is told, in Lua; the bodies are written into the folder."""
    lines = ['wrk.method = "POST"', "local bodies, requests, last = {}, {}, 0"]
    for number, body in enumerate(shot.bodies, 1):
        path = folder / f"body{number}"
        path.write_bytes(body)
        lines.append(
            f'do local f = io.open("{path}", "rb"); bodies[{number}] = f:read("*all"); f:close() end'
        )
    for name, value in shot.headers.items():
        lines.append(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}")
    if len(shot.bodies) == 1:
        return "\n".join([*lines, "wrk.body = bodies[1]"])
    lines.append(
        "function init() for k = 1, #bodies do requests[k] = wrk.format(nil, nil, nil, bodies[k]) end end"
    )
    lines.append("function request() last = last % #requests + 1; return requests[last] end")
    return "\n".join(lines)


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
