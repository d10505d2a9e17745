import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from serving.images import ImageSpec
from tests.training.data_sets import array_split, pixels, write_npz
from tests.training.runs import settings
from training.config import (
    AugmentConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    absolute_paths,
    default_folder,
)
from training.errors import ConfigError
from training.progress import Progress
from training.resume import changed_settings, given_settings
from training.setup import (
    image_spec,
    random_flips,
    start_run,
)
from training.splits import Dataset


def dataset(size: tuple[int, int] | None) -> Dataset:
    split = array_split()
    return Dataset("toy", ("a", "b"), split, split, split, size)


def test_changed_settings_are_none_by_default_and_what_may_change_is_free():
    assert changed_settings(TrainConfig()) == []
    free = TrainConfig(
        device="cpu",
        resume=Path("run"),
        data=DataConfig(data="folder:x", data_dir=Path("x"), workers=3),
    )
    assert changed_settings(free) == []


def test_changed_settings_are_named_as_flags():
    config = TrainConfig(
        epochs=3,
        batch_size=5,
        out=Path("x"),
        data=DataConfig(image_size=16, val_fraction=0.5),
        optim=OptimConfig(weight_decay=0.5),
    )
    expected = {"--epochs", "--batch-size", "--out", "--image-size", "--val-fraction"}
    assert set(changed_settings(config)) == expected | {"--optim.weight-decay"}


def test_what_is_given_to_a_run_is_what_differs_from_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    data = DataConfig(data="cifar10", data_dir=Path("/there"), workers=1)
    own = TrainConfig(data=data, epochs=3, seed=1, device="cpu", devices=2)
    read = dataclasses.replace(own, resume=Path("run"))
    assert given_settings(read, own) == TrainConfig(resume=Path("run"))  # and nothing else
    # a folder by its default name is another one than the run's
    here = dataclasses.replace(read, data=dataclasses.replace(data, data_dir=Path("data")))
    assert given_settings(here, own).data == DataConfig(data_dir=tmp_path / "data")
    more = dataclasses.replace(read, device="cuda", devices=4, epochs=60)
    with pytest.raises(ConfigError, match=r"^--epochs cannot be given with --resume"):
        given_settings(more, own)
    taken = given_settings(dataclasses.replace(more, epochs=3), own)
    assert taken == TrainConfig(resume=Path("run"), device="cuda", devices=4)
    digits = dataclasses.replace(data, data="digits")
    with pytest.raises(ConfigError, match=r"^--device, --data cannot be given with --resume"):
        given_settings(dataclasses.replace(read, device="auto", data=digits), own)


@pytest.mark.parametrize(
    ("asked", "backbone", "size", "expected"),
    [
        (48, "resnet20", (32, 32), (48, 48)),
        (48, "timm/resnet18", None, (48, 48)),
        (None, "resnet20", (28, 20), (28, 20)),
        (None, "resnet20", None, (64, 64)),
        (None, "timm/test_vit", None, (160, 160)),
        (None, "timm/test_vit", (32, 32), (160, 160)),
    ],
)
def test_image_size_is_what_was_asked_for_then_the_datas_then_the_backbones(
    asked: int | None, backbone: str, size: tuple[int, int] | None, expected: tuple[int, int]
):
    config = DataConfig(image_size=asked, resize="stretch", interpolation="nearest")
    spec = image_spec(config, backbone, size)
    assert spec == ImageSpec(*expected, resize="stretch", interpolation="nearest")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("digits", "digits-sla-sd-seed3"),
        ("npz:some/where/cifar10.npz", "cifar10-sla-sd-seed3"),
        ("folder:flowers/", "flowers-sla-sd-seed3"),
        ("folder:.", "folder-sla-sd-seed3"),
    ],
)
def test_default_folder_names_data_objective_and_seed(data: str, name: str):
    config = TrainConfig(data=DataConfig(data=data), seed=3)
    assert default_folder(config) == Path("runs") / name


def test_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = absolute_paths(DataConfig(data="npz:a/b.npz", data_dir=Path("sets")))
    assert found.data == f"npz:{tmp_path / 'a' / 'b.npz'}"
    assert found.data_dir == tmp_path / "sets"
    assert absolute_paths(DataConfig()).data == "digits"


def test_size_that_the_backbone_cannot_take_leaves_no_run(tmp_path: Path):
    data = DataConfig(data=f"npz:{write_npz(tmp_path / 'set.npz')}", image_size=8)
    config = TrainConfig(data=data, backbone="timm/test_vit", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="cannot take 8 x 8 pixels"):
        start_run(config, torch.device("cpu"), Progress())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "brought"),
    [
        ({"test_fraction": 0.5}, {}),
        ({"val_fraction": 0.5}, {"val_images": pixels(6), "val_labels": np.arange(6) % 2}),
    ],
)
def test_share_to_hold_out_is_refused_where_the_data_brings_that_split(
    given: dict[str, float], brought: dict[str, Any], tmp_path: Path
):
    write_npz(tmp_path / "set.npz", **brought)
    config = settings(tmp_path, epochs=1)
    wrong = dataclasses.replace(config, data=dataclasses.replace(config.data, **given))
    flag = f"--{next(iter(given)).replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"{flag} means nothing with --data .*set.npz, which"):
        start_run(wrong, torch.device("cpu"), Progress())
    assert not (tmp_path / "run").exists()
    start_run(config, torch.device("cpu"), Progress())


@pytest.mark.parametrize(
    ("flip", "transformations", "objective", "expected"),
    [
        ("auto", "rotation", "sla-sd", True),
        ("auto", "rotation*flip", "sla-sd", False),  # its joint label could not be told
        ("auto", "rotation*flip", "baseline", True),  # which does not look at it
        ("off", "rotation", "sla-sd", False),
        ("on", "rotation", "sla-sd", True),
    ],
)
def test_random_flips_are_off_where_mirroring_is_a_transformation(
    flip: Literal["auto", "on", "off"], transformations: str, objective: str, expected: bool
):
    config = TrainConfig(
        augment=AugmentConfig(flip=flip), transformations=transformations, objective=objective
    )
    assert random_flips(config, dataset(None), None) is expected
    letters = dataclasses.replace(dataset(None), mirrored_is_same=False)
    assert random_flips(config, letters, None) is (flip == "on")


@pytest.mark.parametrize("objective", ["distill", "sla-sd"])
@pytest.mark.parametrize(
    ("taught", "expected"),
    [
        (TrainConfig(objective="sla", transformations="flip"), False),
        (TrainConfig(objective="sla"), True),
        (TrainConfig(objective="baseline"), True),
    ],
)
def test_random_flips_are_off_where_mirroring_is_a_transformation_of_the_teacher(
    objective: str, taught: TrainConfig, expected: bool
):
    config = TrainConfig(objective=objective, teacher="runs/teacher")
    assert random_flips(config, dataset(None), taught) is expected
