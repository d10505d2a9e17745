import dataclasses
import math
from pathlib import Path

import pytest

from training import checks
from training.checks import MAX_IMAGE_SIZE, check_file, check_settings
from training.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from training.errors import ConfigError

NAN, INF = math.nan, math.inf


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
    "--mix-probability": {"augment": AugmentConfig(cutmix=1.0, mix_probability=1.5)},
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
        {"optim": OptimConfig(momentum=1.0)},
        {"data": DataConfig(image_size=MAX_IMAGE_SIZE + 1)},
        {"loss": LossConfig(beta=INF)},
        {"loss": LossConfig(temperature=INF)},
        {"loss": LossConfig(temperature=1e30)},
        {"loss": LossConfig(temperature=1e-30)},
        {"augment": AugmentConfig(mixup=INF)},
        {"augment": AugmentConfig(cutmix=INF)},
        {"optim": OptimConfig(lr=INF)},
        {"optim": OptimConfig(weight_decay=INF)},
        {"optim": OptimConfig(backbone_lr_factor=INF)},
        {"data": DataConfig(resident_gib=INF)},
    ],
)
def test_what_is_no_usable_number_is_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=r"^--"):
        check_settings(dataclasses.replace(TrainConfig(), **wrong))


def test_numbers_at_the_end_of_their_range_are_taken():
    check_settings(
        TrainConfig(
            data=DataConfig(image_size=MAX_IMAGE_SIZE),
            optim=OptimConfig(momentum=0.99),
            seed=2**63 - 1,
        )
    )


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


UNUSED = [
    ("--temperature", {"loss": LossConfig(temperature=2.0)}, {"objective": "sla"}),
    ("--beta", {"loss": LossConfig(beta=0.5)}, {"objective": "baseline"}),
    ("--beta", {"loss": LossConfig(beta=0.5)}, {"objective": "da"}),
    ("--beta", {"loss": LossConfig(beta=0.5)}, {"objective": "mt"}),
    ("--large-loss", {"loss": LossConfig(large_loss=True)}, {"objective": "baseline"}),
    (
        "--transformations",
        {"transformations": "flip"},
        {"objective": "distill", "teacher": "run"},
    ),
    ("--mix-probability", {"augment": AugmentConfig(mix_probability=0.5)}, {}),
    ("--optim.momentum", {"optim": OptimConfig(name="adamw", momentum=0.8)}, {}),
    ("--optim.nesterov", {"optim": OptimConfig(name="adamw", nesterov=False)}, {}),
]


@pytest.mark.parametrize(("flag", "given", "beside"), UNUSED)
def test_what_nothing_looks_at_is_refused(
    flag: str, given: dict[str, object], beside: dict[str, object]
):
    check_settings(dataclasses.replace(TrainConfig(), **beside))
    with pytest.raises(ConfigError, match=f"^{flag} means nothing with.*; leave it out"):
        check_settings(dataclasses.replace(TrainConfig(), **given, **beside))


@pytest.mark.parametrize(
    "used",
    [
        {"loss": LossConfig(temperature=2.0, beta=0.5, large_loss=True), "transformations": "flip"},
        {"loss": LossConfig(beta=0.0), "objective": "distill", "teacher": "run"},
        {"loss": LossConfig(large_loss=True), "transformations": "flip", "objective": "mt"},
        {"augment": AugmentConfig(mixup=0.2, mix_probability=0.5)},
        {"augment": AugmentConfig(cutmix=1.0, mix_probability=0.5)},
        {"optim": OptimConfig(momentum=0.8, nesterov=False)},
    ],
)
def test_what_something_looks_at_is_taken(used: dict[str, object]):
    check_settings(dataclasses.replace(TrainConfig(), **used))


def test_random_flips_beside_flip_as_a_transformation_are_refused():
    config = TrainConfig(augment=AugmentConfig(flip="on"), transformations="flip", objective="sla")
    with pytest.raises(ConfigError, match="leave --flip out"):
        check_settings(config)
    check_settings(dataclasses.replace(config, transformations="rotation"))


def test_file_that_could_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for fine in (None, Path("numbers.json"), tmp_path / "numbers.json"):
        check_file("--json", fine)
    with pytest.raises(ConfigError, match=r"^--json no/x: there is no folder no"):
        check_file("--json", Path("no/x"))
    with pytest.raises(ConfigError, match="is a folder; give the name of a file"):
        check_file("--json", tmp_path)
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="cannot be written to"):
        check_file("--json", Path("numbers.json"))
