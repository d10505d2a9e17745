"""What JPEGs decoded at reduced scale save and change: `python -m benchmarks.jpeg --data DIR`.

speed      a 12-megapixel picture to 224 x 224, decoded whole and reduced, alternately, on one thread, in processor
           time. The picture is noise with the spectrum of photographs: 1/f, more of light than of colour, softened
           as lenses and sensors do
accuracy   a network trained on folders of JPEGs that were decoded whole, asked about its test images decoded whole
           and reduced; DIR holds folders as `viewfold train --data folder:` takes them. What is in the results
           already is not trained again

"At least K" is the margin: a JPEG is decoded at the smallest scale at which it is K times the model's size or larger.
Writes benchmarks/results/jpeg.json.
"""

import argparse
import io
import json
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from serving import images
from serving.images import ImageSpec, Pixels
from training import data
from training.answering import load_answering
from training.batches import ResidentBatches
from training.classify import train
from training.config import DataConfig, TrainConfig
from training.device import cpu_name
from training.evaluate import Z_95, probabilities
from training.json_files import write_json
from training.provenance import versions
from training.splits import Split

RESULT = Path(__file__).parent / "results" / "jpeg.json"
PHOTO = (4000, 3000)  # width, height
LARGE, SMALL = ImageSpec(224, 224), ImageSpec(32, 32)
SHARPNESS = (
    0.25  # cycles a pixel at which a lens and a Bayer sensor together leave half of the contrast
)
QUALITIES = (75, 90, 95)  # of JPEG
MARGINS = (1, 2, 4)
ASKED = (
    1,
    2,
)  # of the pictures of SETS, whose shorter side is 128: at 4 times SMALL they are whole
SETS = ("flowers17", "dtd10")
SEEDS = (0, 1)
RECIPE = TrainConfig(
    objective="baseline",
    backbone="resnet8",
    epochs=40,
    batch_size=64,
    compile="off",
    device="cpu",
)
Content = dict[str, Any]


def main() -> None:
    """Measure the speed, train what is missing, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help=f"the folder that holds {' and '.join(SETS)}")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rounds", type=int, default=31, help="0 leaves the speed as it is")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    content: Content = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    content |= {
        "command": "python -m benchmarks.jpeg --data DIR",
        "hardware": f"{cpu_name()}, 1 thread",
        "versions": versions() | {"libjpeg-turbo": features.version("libjpeg_turbo")},
    }
    if settings.rounds:
        pixels = photo()
        content["speed"] = [speed(pixels, quality, settings.rounds) for quality in QUALITIES]
    save(content)
    for name in settings.sets if settings.data else ():
        for seed in settings.seeds:
            if not any((run["set"], run["seed"]) == (name, seed) for run in content["runs"]):
                content["runs"].append(accuracy(settings.data, name, seed))
                save(content)


def save(content: Content) -> None:
    """Write the results, with what they say together."""
    content["accuracy"] = {
        str(at_least): together(content["runs"], str(at_least))
        for at_least in ASKED
        if content["runs"]
    }
    write_json(RESULT, content)
    print(json.dumps({key: content[key] for key in ("speed", "accuracy")}, indent=1))


@contextmanager
def margin(at_least: float) -> Iterator[None]:
    """JPEGs are reduced down to so many times the model's size."""
    with mock.patch.object(images, "REDUCED_AT_LEAST", at_least):
        yield


def whole(encoded: bytes, spec: ImageSpec) -> Pixels:
    """A picture as the model takes it, decoded whole."""
    return images.fit(images.load(images.header(encoded)), spec)


def photo() -> Pixels:
    """A picture of 12 megapixels."""
    width, height = PHOTO
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    spectrum = 2.0 ** -((frequency / SHARPNESS) ** 2) / frequency
    planes = []
    for _ in range(4):
        noise = np.fft.rfft2(generator.standard_normal((height, width))) * spectrum
        plane = np.fft.irfft2(noise, (height, width))
        planes.append(plane / plane.std())
    light, *colours = planes  # photographs vary in light first, in colour less
    channels = [(128 + 45 * light + 15 * colour).clip(0, 255) for colour in colours]
    return np.stack(channels, axis=-1).astype(np.uint8)  # (height, width, 3)


def speed(pixels: Pixels, quality: int, rounds: int) -> Content:
    """Seconds of one JPEG to LARGE, whole and at each margin, alternately, and how the pixels differ."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    encoded = file.getvalue()
    expected = whole(encoded, LARGE).astype(int)
    seconds: dict[str, list[float]] = {"whole": [], **{str(k): [] for k in MARGINS}}
    difference = {}
    for _ in range(rounds):
        start = time.process_time()
        whole(encoded, LARGE)
        seconds["whole"].append(time.process_time() - start)
        for at_least in MARGINS:
            with margin(at_least):
                start = time.process_time()
                reduced = images.decode(encoded, LARGE)
                seconds[str(at_least)].append(time.process_time() - start)
            difference[str(at_least)] = spread(reduced, expected)
    p50 = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "picture": f"{PHOTO[0]} x {PHOTO[1]} pixels to 224 x 224",
        "quality": quality,
        "megabytes": round(len(encoded) / 1e6, 1),
        "n": rounds,
        "clock": "processor time, which what else runs on the machine is not part of",
        "p50_s": p50,
        "extremes_s": {name: [min(values), max(values)] for name, values in seconds.items()},
        "ratio": {name: value / p50["whole"] for name, value in p50.items()},
        "pixel_difference": difference,
    }


def spread(pixels: Pixels, expected: NDArray[Any]) -> Content:
    """How far pixels are from others, in grey levels of 0 to 255."""
    difference = np.abs(pixels.astype(int) - expected)
    return {"mean_abs": float(difference.mean()), "max_abs": int(difference.max())}


def accuracy(root: Path, name: str, seed: int) -> Content:
    """Train on whole pictures, ask about whole and reduced ones. What is said of every test image is kept."""
    splits = data.load(DataConfig(data=f"folder:{root / name}"))
    parts = {
        split: (stacked(part, whole), part.labels)
        for split, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }
    labels = parts["test"][1]
    asked = {"whole": parts["test"][0]}
    for at_least in ASKED:
        with margin(at_least):
            asked[str(at_least)] = stacked(splits.test, images.decode)
    answers = predictions(parts, asked, seed)
    reduced = asked.keys() - {"whole"}
    return {
        "set": name,
        "seed": seed,
        "right": {key: digits(answers[key] == labels) for key in asked},
        "agree": {key: digits(answers[key] == answers["whole"]) for key in reduced},
        "pixel_difference": {
            key: spread(asked[key], asked["whole"].astype(int)) for key in reduced
        },
    }


def digits(values: NDArray[np.bool_]) -> str:
    """A 0 or a 1 for each image: short, and enough to count again."""
    return "".join("01"[value] for value in values.astype(int))


def stacked(split: Split, decode: Any) -> Pixels:
    """All pictures of a split, (n, 32, 32, 3) uint8."""
    return np.stack([decode(split.encoded(k), SMALL) for k in range(len(split))])


def predictions(
    parts: dict[str, tuple[Pixels, NDArray[np.int64]]], asked: dict[str, Pixels], seed: int
) -> dict[str, NDArray[np.int64]]:
    """The classes (n,) that a network trained on those parts sees in each of several (n, 32, 32, 3)."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "whole.npz"
        arrays = {f"{split}_images": pixels for split, (pixels, _) in parts.items()}
        arrays |= {f"{split}_labels": labels for split, (_, labels) in parts.items()}
        np.savez(file, **arrays)
        config = replace(
            RECIPE, data=DataConfig(data=f"npz:{file}"), seed=seed, out=Path(folder) / "run"
        )
        networks = load_answering(train(config))
    labels = torch.from_numpy(parts["test"][1])
    found = {}
    for key, pixels in asked.items():
        batches = ResidentBatches(torch.from_numpy(pixels), labels)
        answers, _ = probabilities(networks, batches, batch_size=64)
        found[key] = answers["plain"].argmax(1).numpy()
    return found


def together(runs: list[Content], key: str) -> Content:
    """Means over the images of all sets; each image counts by the mean of its seeds."""
    agree, gain = [], []
    for name in {run["set"] for run in runs}:
        own = [run for run in runs if run["set"] == name]
        agree += by_image([run["agree"][key] for run in own])
        before, after = (by_image([run["right"][k] for run in own]) for k in ("whole", key))
        gain += [b - a for a, b in zip(before, after, strict=True)]
    differences = [run["pixel_difference"][key]["mean_abs"] for run in runs]
    return {
        "agreement": interval(agree),
        "top1_gain": interval(gain),
        "pixel_difference": statistics.fmean(differences),
        "runs": len(runs),
    }


def by_image(seeds: list[str]) -> list[float]:
    """The mean over the seeds of each image's digit."""
    return [statistics.fmean(map(int, image)) for image in zip(*seeds, strict=True)]


def interval(values: list[float]) -> Content:
    """The mean with the half of its 95 % interval, as the images at hand leave it open."""
    half = Z_95 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.fmean(values), "half_width_95": half, "n": len(values)}


if __name__ == "__main__":
    main()
