import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from serving.images import ImageSpec
from tests.training.data_sets import array_split, write_npz
from training.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    TrainConfig,
    absolute_paths,
    default_folder,
)
from training.errors import ConfigError
from training.progress import Progress
from training.resume import changed_settings
from training.setup import (
    check_settings,
    image_spec,
    random_flips,
    start_run,
)
from training.splits import Dataset

NAN = math.nan


def dataset(size: tuple[int, int] | None) -> Dataset:
    split = array_split()
    return Dataset("toy", ("a", "b"), split, split, split, size)


def test_default_settings_are_fit_to_train():
    check_settings(TrainConfig())
    check_settings(TrainConfig(backbone="timm/resnet18"))


WRONG_NUMBERS = {
    "--epochs": {"epochs": 0},
    "--batch-size": {"batch_size": 1},
    "--beta": {"loss": LossConfig(beta=-0.1)},
    "--crop-padding": {"augment": AugmentConfig(crop_padding=-0.1)},
    "--cutout": {"augment": AugmentConfig(cutout=1.5)},
    "--ldam": {"loss": LossConfig(ldam=1.5)},
    "--temperature": {"loss": LossConfig(temperature=0.0)},
    "--label-smoothing": {"loss": LossConfig(label_smoothing=1.0)},
    "--mixup": {"augment": AugmentConfig(mixup=-0.2)},
    "--cutmix": {"augment": AugmentConfig(cutmix=NAN)},
    "--mix-probability": {"augment": AugmentConfig(mix_probability=1.5)},
    "--ema": {"ema": 1.0},
    "--seed": {"seed": -1},
    "--image-size": {"data": DataConfig(image_size=7)},
    "--val-fraction": {"data": DataConfig(val_fraction=0.0)},
    "--test-fraction": {"data": DataConfig(test_fraction=1.0)},
    "--devices": {"devices": 0},
    "--optim.backbone-lr-factor": {"optim": OptimConfig(backbone_lr_factor=0.0)},
    "--split-seed": {"data": DataConfig(split_seed=-1)},
    "--train-images": {"data": DataConfig(train_images=0)},
    "--imbalance": {"data": DataConfig(imbalance=0.5)},
    "--workers": {"data": DataConfig(workers=-1)},
    "--resident-gib": {"data": DataConfig(resident_gib=-1.0)},
    "--optim.lr": {"optim": OptimConfig(lr=0.0)},
    "--optim.weight-decay": {"optim": OptimConfig(weight_decay=-1e-4)},
    "--optim.momentum": {"optim": OptimConfig(momentum=-0.9)},
    "--optim.warmup": {"optim": OptimConfig(warmup=1.5)},
}


@pytest.mark.parametrize("flag", WRONG_NUMBERS)
def test_number_out_of_its_range_is_refused(flag: str):
    with pytest.raises(ConfigError, match=f"^{flag} is"):
        check_settings(dataclasses.replace(TrainConfig(), **WRONG_NUMBERS[flag]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": LossConfig(beta=NAN)},
        {"loss": LossConfig(temperature=NAN)},
        {"seed": 2**63},
        {"augment": AugmentConfig(cutout=NAN)},
        {"loss": LossConfig(ldam=NAN)},
        {"loss": LossConfig(ldam=-0.5)},
        {"augment": AugmentConfig(cutout=-0.1)},
        {"data": DataConfig(val_fraction=NAN)},
        {"data": DataConfig(image_size=0)},
        {"data": DataConfig(train_images=-5)},
        {"data": DataConfig(imbalance=NAN)},
        {"data": DataConfig(imbalance=math.inf)},
        {"data": DataConfig(imbalance=-100.0)},
        {"optim": OptimConfig(lr=NAN)},
        {"optim": OptimConfig(momentum=NAN)},
    ],
)
def test_what_is_no_usable_number_is_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=r"^--"):
        check_settings(dataclasses.replace(TrainConfig(), **wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "slasd"},
        {"transformations": "colours"},
        {"backbone": "resnet21"},
        {"backbone": "timm/resnet18x"},
        {"optim": OptimConfig(name="adam")},
        {"augment": AugmentConfig(policy="augmix")},
        {"loss": LossConfig(class_weights="drw")},
        {"optim": OptimConfig(schedule="linear")},
    ],
)
def test_unknown_name_is_refused_before_data_is_read(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=r"unknown|no model"):
        check_settings(dataclasses.replace(TrainConfig(), **wrong))


def test_changed_settings_are_none_by_default_and_what_may_change_is_free():
    assert changed_settings(TrainConfig()) == []
    free = TrainConfig(
        device="cpu", resume=Path("run"), data=DataConfig(data_dir=Path("x"), workers=3)
    )
    assert changed_settings(free) == []


def test_changed_settings_are_named_as_flags():
    config = TrainConfig(
        epochs=3,
        batch_size=5,
        out=Path("x"),
        data=DataConfig(data="mnist", val_fraction=0.5),
        optim=OptimConfig(weight_decay=0.5),
    )
    expected = {"--epochs", "--batch-size", "--out", "--data", "--val-fraction"}
    assert set(changed_settings(config)) == expected | {"--optim.weight-decay"}


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
    spec = image_spec(config, backbone, dataset(size))
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
    assert random_flips(config, dataset(None)) is expected
    letters = dataclasses.replace(dataset(None), mirrored_is_same=False)
    assert random_flips(config, letters) is (flip == "on")


def test_random_flips_beside_flip_as_a_transformation_are_refused():
    config = TrainConfig(augment=AugmentConfig(flip="on"), transformations="flip", objective="sla")
    with pytest.raises(ConfigError, match="leave --flip out"):
        check_settings(config)
    check_settings(dataclasses.replace(config, objective="baseline"))
