from pathlib import Path
from typing import Any

import pytest
import tyro

from training.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from training.flags import flags, without_paths
from training.pretrain_config import MethodConfig, PretrainConfig, ViewsConfig

TRAINED = TrainConfig(
    data=DataConfig(data="npz:/one/x.npz", data_dir=Path("/there"), split_seed=2),
    optim=OptimConfig(lr=0.25, backbone_lr_factor=0.1),
    augment=AugmentConfig(cutmix=1.0, flip="off"),
    loss=LossConfig(temperature=2.0, class_weights="deferred"),
    objective="distill",
    teacher="/one/runs/sla-0",
    teacher_copies=1,
    weights=Path("/one/resnet20.safetensors"),
    out=Path("/one/run"),
    resume=Path("/one/run"),
)
PRETRAINED = PretrainConfig(
    data=DataConfig(data="folder:/one/photos"),
    views=ViewsConfig(crop_scale=(0.3, 1.0), blur=0.25),
    settings=MethodConfig(hidden=64),
    out=Path("/one/run"),
)


def changed(config: Any) -> dict[str, str]:
    default = flags(type(config)())
    return {flag: value for flag, value in flags(config).items() if value != default[flag]}


@pytest.mark.parametrize("config", [TRAINED, PRETRAINED])
def test_flags_typed_again_give_the_same_settings(config: Any):
    arguments = [
        part for flag, value in changed(config).items() for part in (f"--{flag}", *value.split())
    ]
    assert tyro.cli(type(config), args=arguments) == without_paths(config)


def test_flags_are_named_as_they_are_typed():
    assert changed(TRAINED) == {
        "data": "npz:x.npz",
        "split-seed": "2",
        "optim.lr": "0.25",
        "optim.backbone-lr-factor": "0.1",
        "flip": "off",
        "cutmix": "1",
        "temperature": "2",
        "class-weights": "deferred",
        "objective": "distill",
        "teacher": "sla-0",
        "teacher-copies": "1",
        "weights": "resnet20.safetensors",
    }


@pytest.mark.parametrize("config", [TRAINED, PRETRAINED])
def test_no_folder_of_the_machine_is_left(config: Any):
    for shown in (str(flags(config)), str(without_paths(config))):
        assert "/one" not in shown
        assert "/there" not in shown


def test_a_teacher_that_is_no_run_stays():
    assert without_paths(TrainConfig(teacher="ema")).teacher == "ema"
