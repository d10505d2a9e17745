"""What is measured of speed and of pictures, and the tables."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import ModelProto

from benchmarks import (
    jpeg,
    precision,
    tables,
    training_speed,
)
from serving import images
from tests.pictures import encoded


def test_training_speed_compares_the_same_arithmetic():
    images = torch.randint(0, 256, (2, 32, 32, 3)).to(torch.uint8)
    assert (
        training_speed.loss_difference(training_speed.CONFIG, images, torch.tensor([3, 7])) < 1e-4
    )


@pytest.mark.slow
def test_training_speed_measures_every_loop():
    content = training_speed.measure(
        dataclasses.replace(training_speed.CONFIG, batch_size=2), torch.device("cpu"), 1
    )
    assert content["ratio"].keys() == {"resident"}
    assert content["loops"]["ours"]["median_s"] > 0


def test_ratio_to_the_usual_loop_is_printed_and_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seconds = {"resident": 0.4, "loader": 1.2, "ours": 0.1}
    about = {"what": "a network", "batch_size": 4, "n": 1, "hardware": "a GPU", "command": "c"}
    content = {
        **about,
        "versions": {"torch": "2"},
        "loops": {
            name: {"median_s": s, "min_s": s, "max_s": s, "images_per_s": 4 / s}
            for name, s in seconds.items()
        },
        "ratio": {"resident": 4.0, "loader": 12.0},
    }
    monkeypatch.setattr(training_speed, "measure", lambda *_: content)
    monkeypatch.setattr("sys.argv", ["training_speed", "--out", str(tmp_path / "out.json")])
    training_speed.main()
    *_, usual, last = capsys.readouterr().out.splitlines()
    assert usual == "beside the usual loop (loader): 12.00x"
    assert last == "RATIO 4.00x"
    found = tables.TABLES["training_speed-gpu"](json.loads((tmp_path / "out.json").read_text()))
    assert "DataLoader and Pillow | 1.200 (1.200 to 1.200) | 3 | 12.00 x |" in found


def test_text_outside_tables_is_left_alone():
    assert tables.filled("# Title\n\nno table here\n") == "# Title\n\nno table here\n"


def test_unknown_table_is_an_error():
    with pytest.raises(FileNotFoundError):
        tables.filled("<!-- table: nothing -->\n<!-- end of table -->")


# encoders


def test_ratio_of_precision_is_of_the_same_turn():
    found = precision.row([1.0, 2.0, 4.0], [2.0, 6.0, 4.0], ModelProto())
    assert (found["n"], found["images_per_second"]) == (3, precision.BATCH / 2)
    assert found["ratio"]["median"] == 2.0


@pytest.mark.slow
def test_precision_is_measured_of_every_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = dataclasses.replace(precision.CONFIG, backbone="resnet8")
    monkeypatch.setattr(precision, "CONFIG", small)
    rows = precision.measure(turns=2)["rows"]
    assert list(rows) == ["fp32", "fp16", "int8"]
    assert rows["int8"]["bytes"] < rows["fp16"]["bytes"] < rows["fp32"]["bytes"]


def test_each_image_counts_by_the_mean_of_its_seeds():
    def run(name: str, seed: int, before: str, after: str, agree: str) -> dict[str, Any]:
        difference = {"2": {"mean_abs": 1.0 + seed}}
        right = {"whole": before, "2": after}
        about = {"set": name, "seed": seed, "right": right, "agree": {"2": agree}}
        return {**about, "pixel_difference": difference}

    runs = [
        run("a", 0, "11", "01", "01"),
        run("a", 1, "11", "11", "11"),
        run("b", 0, "0", "1", "0"),
    ]
    found = jpeg.together(runs, "2")
    # of the images of a, one agrees in half of the seeds, one in both; the one of b does not
    assert found["agreement"] == {
        "mean": pytest.approx(0.5),
        "half_width_95": pytest.approx(1.959964 * 0.5 / 3**0.5, abs=1e-6),
        "n": 3,
    }
    assert found["top1_gain"]["mean"] == pytest.approx((-0.5 + 0 + 1) / 3)
    assert found["pixel_difference"] == pytest.approx(4 / 3)


def test_jpegs_are_reduced_as_far_as_the_benchmark_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jpeg, "PHOTO", (300, 200))
    pixels = jpeg.photo()
    assert pixels.shape == (200, 300, 3)
    data = encoded(images.from_array(pixels), "JPEG")
    sizes = []
    for at_least in (1, 2, 4, 8):
        with jpeg.margin(at_least):
            sizes.append(images.load(images.header(data), images.ImageSpec(25, 25)).width)
    assert sizes == [38, 75, 150, 300]
    assert jpeg.whole(data, images.ImageSpec(25, 25)).shape == (25, 25, 3)
