"""The whole road: images, run, bundle, HTTP."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from serving.images import encode_png
from tests.runs import CLASSES, colour_pictures, write_npz
from tests.serving.servers import free_port, serving, start_command
from training import checkpoint
from training.frozen import load_encoder

ROOT = Path(__file__).resolve().parent.parent
FIRST_START_S = 900  # trains on the way
STOP_S = 30

pytestmark = pytest.mark.slow


def viewfold(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "viewfold", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_http_answers_what_torch_says(tmp_path: Path):
    data, run, bundle = write_npz(tmp_path / "colours.npz"), tmp_path / "run", tmp_path / "bundle"
    said = viewfold("train", "--data", f"npz:{data}", "--backbone", "resnet8", "--epochs", "6",
                    "--batch-size", "16", "--optim.lr", "0.05", "--device", "cpu", "--out", run)  # fmt: skip
    assert "images/s" in said
    assert "verified against torch on 21 test images" in viewfold("export", run, bundle)
    assert "aggregated" in viewfold("evaluate", run)
    assert "onnxruntime" in viewfold("evaluate", bundle, "--data", f"npz:{data}")

    network = checkpoint.load_network(checkpoint.open_run(run))
    images, _ = colour_pictures(9, 12, seed=77)
    with torch.inference_mode():
        logits = network(torch.from_numpy(images))
    expected = logits.single.softmax(1).numpy()
    port = free_port()
    with serving(start_command(bundle, port), port, tmp_path / "log") as url:
        for image, probabilities in zip(images, expected, strict=True):
            answer = httpx.post(
                f"{url}/predict?top_k=3", content=encode_png(Image.fromarray(image)), timeout=30
            )
            found = {entry["label"]: entry["probability"] for entry in answer.json()["top"]}
            np.testing.assert_allclose([found[name] for name in CLASSES], probabilities, atol=1e-4)
            assert answer.json()["mode"] == "distilled"
        model = httpx.get(f"{url}/models", timeout=30).json()["models"][0]
        assert model["modes"]["aggregated"]["forward_passes"] == 4
        assert_company_changes_nothing(url, [encode_png(Image.fromarray(i)) for i in images])


def assert_company_changes_nothing(url: str, files: list[bytes]) -> None:
    """What is run together with others is answered as it is alone."""

    def probabilities(answer: Any) -> list[float]:
        found = {entry["label"]: entry["probability"] for entry in answer["top"]}
        return [found[name] for name in CLASSES]

    def ask(address: str, data: bytes) -> list[float]:
        return probabilities(httpx.post(address, content=data, timeout=30).json())

    for mode in ("distilled", "aggregated", "auto"):
        address = f"{url}/predict?top_k=3&mode={mode}"
        expected = [ask(address, data) for data in files]
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(partial(ask, address), files * 8)]
        np.testing.assert_allclose(found, expected * 8, atol=1e-5)
        several = [("image", data) for data in files]
        together = httpx.post(address, files=several, timeout=30).json()["predictions"]
        np.testing.assert_allclose([probabilities(a) for a in together], expected, atol=1e-5)


def test_embeddings_are_what_torch_says_over_http_and_of_a_folder(tmp_path: Path):
    data, run, bundle = write_npz(tmp_path / "colours.npz"), tmp_path / "run", tmp_path / "bundle"
    viewfold("pretrain", "--data", f"npz:{data}", "--backbone", "resnet8", "--epochs", "1",
             "--batch-size", "16", "--hidden", "16", "--projection", "16", "--augself", "crop=1",
             "--device", "cpu", "--out", run)  # fmt: skip
    assert "12 validation images of npz:colours.npz" in viewfold("export", run, bundle)

    images, _ = colour_pictures(5, 12, seed=77)
    files = [encode_png(Image.fromarray(image)) for image in images]
    (tmp_path / "photos").mkdir()
    for number, content in enumerate(files):
        (tmp_path / "photos" / f"{number}.png").write_bytes(content)
    encoder, _ = load_encoder(run)
    expected = encoder(torch.from_numpy(images)).detach().numpy()
    size = 1e-4 * abs(expected).max()

    viewfold("embed", bundle, tmp_path / "photos", tmp_path / "photos.npz")
    np.testing.assert_allclose(np.load(tmp_path / "photos.npz")["embeddings"], expected, atol=size)
    port = free_port()
    with serving(start_command(bundle, port), port, tmp_path / "log") as url:
        several = [("image", content) for content in files]
        answer = httpx.post(f"{url}/embed", files=several, timeout=30).json()
        np.testing.assert_allclose(answer["embeddings"], expected, atol=size)


def make_serve(port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        return subprocess.Popen(
            ["make", "serve", f"PORT={port}"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + FIRST_START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"not ready after {FIRST_START_S} s:\n{log.read_text()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


@pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "viewfold").exists(), reason="make has not made .venv"
)
def test_make_serve_trains_once_and_answers(tmp_path: Path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    for log in (tmp_path / "first", tmp_path / "second"):
        process = make_serve(port, log)
        try:
            wait_until_ready(url, process, log)
            assert httpx.get(f"{url}/models", timeout=30).json()["models"][0]["name"] == "digits"
            right = 0
            for path in sorted((ROOT / "bundle" / "samples").glob("*.png")):
                for mode in ("distilled", "single", "aggregated"):
                    answer = httpx.post(
                        f"{url}/predict?mode={mode}", content=path.read_bytes(), timeout=30
                    )
                    assert answer.json()["mode"] == mode
                    right += answer.json()["label"] == path.stem
            assert right >= 27  # of 10 validation images in 3 modes
        finally:
            stop(process)
    assert "Traceback" not in log.read_text()
    second = (tmp_path / "second").read_text()
    assert not any(step in second for step in ("== installing", "== training", "== exporting"))
